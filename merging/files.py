"""The files that a merge reads, kept open while it does, and the tensors in them as rows of bits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.groups import Bits
from merging.header import SIZES
from merging.lazy import torch

Reader = Callable[[Bits, int, int], None]  # fills a row with the entries from the first number to the second


class Files:
    """Files that are opened once, and read by any thread."""

    def __init__(self) -> None:
        self.opened: dict[Path, int] = {}
        self.lock = threading.Lock()

    def reader(self, model: Checkpoint, name: str, itemsize: int) -> Reader:
        """What fills rows of that item size with a model's tensor: its bytes where they can stay as they are."""
        plain = name not in model.made and (model.entries[name].dtype, itemsize) in (("BF16", 2), ("F32", 4))
        if plain and hasattr(os, "preadv"):
            return self._stored(model, name)

        def read(row: Bits, start: int, stop: int) -> None:
            values = model.read(name, start, stop)
            row[:] = values.view(torch.int16).numpy().view(np.uint16) if itemsize == 2 else _lifted(values)

        return read

    def _stored(self, model: Checkpoint, name: str) -> Reader:
        entry = model.entries[name]
        number, size = self._number(entry.file), SIZES[entry.dtype]

        def read(row: Bits, start: int, stop: int) -> None:
            try:
                done = os.preadv(number, [row.data], entry.offset + start * size)
                while done < row.nbytes:
                    count = os.preadv(number, [row.data.cast("B")[done:]], entry.offset + start * size + done)
                    if not count:
                        words = f"{entry.file} ended while `{name}` was read."
                        raise MergeError(f"{words} Check that nothing is changing the file.")
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


def _lifted(values: Any) -> Bits:
    bits: Bits = values.float().numpy().view(np.uint32)
    return bits
