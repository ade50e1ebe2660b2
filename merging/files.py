"""The files that a merge reads, kept open while it does, and the tensors in them as rows of bits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from merging import kernels
from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.groups import Bits
from merging.header import SIZES, ended
from merging.lazy import torch

Reader = Callable[[Bits, int], None]  # fills a row with the entries from that number on


class Rows:
    """One tensor of several models, the base first.

    The row of a base that is None, and not needed, stays as it is; that of an expert that is None repeats the base's.
    """

    def __init__(self, files: Files, models: Sequence[Checkpoint | None], name: str, itemsize: int) -> None:
        self.files, self.name, self.itemsize = files, name, itemsize
        self.models, self.count = models, len(models)
        self.first = 0 if models[0] else 1  # the first row that is read
        plain = all(model and stored(model, name, itemsize) for model in models[self.first :])
        self.places = files.places(models[self.first :], name) if plain and kernels.usable() else None

    @cached_property
    def readers(self) -> list[Reader | None]:
        """What reads each of the rows on its own."""
        return [self.files.reader(model, self.name, self.itemsize) if model else None for model in self.models]

    def fill(self, bits: Bits, starts: Sequence[int], length: int) -> None:
        """Fill the rows with the entries from each of these numbers on, of that length, one run after the other."""
        if self.places:
            from merging.kernels import files

            if files.read(*self.places, np.array(starts), length, bits[self.first :]):
                return
        for row, read in enumerate(self.readers):  # what went wrong does so again, in words
            for number, start in enumerate(starts):
                if read:
                    read(bits[row][number * length :][:length], start)
            if row and not read:
                bits[row] = bits[0]


class Files:
    """Files that are opened once, and read by any thread."""

    def __init__(self) -> None:
        self.opened: dict[Path, int] = {}
        self.lock = threading.Lock()

    def reader(self, model: Checkpoint, name: str, itemsize: int) -> Reader:
        """What fills rows of that item size with a model's tensor: its bytes where they can stay as they are."""
        if stored(model, name, itemsize):
            return self._stored(model, name)

        def read(row: Bits, start: int) -> None:
            values = model.read(name, start, start + len(row))
            row[:] = values.view(torch.int16).numpy().view(np.uint16) if itemsize == 2 else _lifted(values)

        return read

    def places(self, models: Sequence[Checkpoint | None], name: str) -> tuple[Bits, Bits]:
        """The numbers of the open files that hold the tensor, and where it begins in each."""
        entries = [model.entries[name] for model in models if model]
        numbers = np.array([self._number(entry.file) for entry in entries], np.int32)
        return numbers, np.array([entry.offset for entry in entries], np.int64)

    def _stored(self, model: Checkpoint, name: str) -> Reader:
        entry = model.entries[name]
        number, size = self._number(entry.file), SIZES[entry.dtype]

        def read(row: Bits, start: int) -> None:
            done = 0
            try:
                while done < row.nbytes:
                    count = os.preadv(number, [row.data.cast("B")[done:]], entry.offset + start * size + done)
                    if not count:
                        raise ended(entry.file, name)
                    done += count
            except OSError as error:
                raise MergeError(f"{entry.file} could not be read ({error.strerror}). Check the file.") from error

        return read

    def _number(self, path: Path) -> int:
        with self.lock:
            if path not in self.opened:
                try:
                    self.opened[path] = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise MergeError(f"{path} could not be read ({error.strerror}). Check the file.") from error
            return self.opened[path]

    def close(self) -> None:
        for number in self.opened.values():
            os.close(number)


def stored(model: Checkpoint, name: str, itemsize: int) -> bool:
    """Whether the bytes of a model's tensor are what is wanted, and can be read at any place by any thread."""
    entry = model.entries[name]
    plain = name not in model.made and (entry.dtype, itemsize) in (("BF16", 2), ("F32", 4))
    return plain and entry.here and hasattr(os, "preadv")


def _lifted(values: Any) -> Bits:
    bits: Bits = values.float().numpy().view(np.uint32)
    return bits
