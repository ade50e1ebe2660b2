"""The tensors of a merge as a stream: read from disk in chunks, several at a time, in memory that is set beforehand."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merging import kernels
from merging.checkpoint import Checkpoint
from merging.crew import Crew
from merging.errors import MergeError
from merging.groups import TILE, Bits, Group, Groups
from merging.header import SIZES
from merging.lazy import torch
from merging.plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

TILES = 1  # of a chunk: more fall out of the processor's cache
HISTOGRAMS = 2 * (1 << 16) * 8  # bytes that a survey counts in, of each expert and worker


@dataclass(frozen=True)
class Span:
    """A run of a tensor's entries."""

    name: str
    start: int
    stop: int


def spans(name: str, size: int, chunk: int) -> list[Span]:
    """A tensor's entries in chunks."""
    return [Span(name, start, min(start + chunk, size)) for start in range(0, size, chunk)]


def memory_of(workers: int, models: int, chunk: int) -> int:
    """Bytes that a merge works in, whatever the size of the models: what is read, ranked, counted and written."""
    return workers * (chunk * 4 * 3 * (models + 1) + models * HISTOGRAMS)


def fitting(memory: int, workers: int, models: int) -> tuple[int, int]:
    """Workers and entries of a chunk that fit the memory; MergeError when not even one worker fits."""
    for count in range(workers, 0, -1):
        if memory_of(count, models, TILES * TILE) <= memory:
            return count, TILES * TILE
    least = memory_of(1, models, TILES * TILE) / 1e6
    raise MergeError(f"A merge of {models} models needs {least:.0f} MB of memory to work in. Allow it that much.")


class Files:
    """Files that stay open while a merge reads them, by any thread."""

    def __init__(self) -> None:
        self.opened: dict[Path, int] = {}
        self.lock = threading.Lock()

    def read(self, path: Path, offset: int, into: Any) -> int:
        """Fill a buffer from the file's bytes at `offset` on; the number of bytes that there were."""
        view = memoryview(into).cast("B")
        done = 0
        while done < len(view) and (count := os.preadv(self._number(path), [view[done:]], offset + done)):
            done += count
        return done

    def _number(self, path: Path) -> int:
        with self.lock:
            if path not in self.opened:
                self.opened[path] = os.open(path, os.O_RDONLY)
            return self.opened[path]

    def close(self) -> None:
        for number in self.opened.values():
            os.close(number)


class Stream:
    """The merged tensors of a plan, as groups that are read when their turn comes.

    `tensorwise` numbers the experts that have a tensor as if there were no others.
    """

    def __init__(
        self, plan: Plan, crew: Crew, chunk: int, with_base: bool = True, tensorwise: bool = False, device: str = "cpu"
    ) -> None:
        self.plan, self.crew, self.chunk = plan, crew, chunk
        self.with_base, self.tensorwise, self.device = with_base, tensorwise, device
        self.files = Files()
        self.weights: dict[str, Tensor] = {}  # of the experts that have the tensor
        self.watch: Callable[[Span], None] = lambda _: None  # told of every chunk before it is read

    def model(self, names: list[str]) -> Groups:
        """All these tensors together."""
        pieces = [span for name in names for span in self.spans(name)]
        return self._groups(pieces, self.crew, len(self.plan.experts))

    def tensor(self, name: str, crew: Crew) -> Groups:
        """One tensor, of the experts that have it."""
        return self._groups(self.spans(name), crew, len(self.plan.merged[name]))

    def _groups(self, pieces: list[Span], crew: Crew, experts: int) -> Groups:
        return Groups(pieces, self.read, experts, sum(span.stop - span.start for span in pieces), crew)

    def spans(self, name: str) -> list[Span]:
        """The chunks of a tensor."""
        return spans(name, self.plan.base.entries[name].size, self.chunk)

    def empty(self, name: str) -> Group:
        """A group of the tensor without any entry."""
        return self._group(name, np.empty((1 + len(self.plan.merged[name]), 0), np.uint32), 0)

    def read(self, span: Span) -> Group:
        """A chunk. It is valid until the same thread reads the next one."""
        base, size = self.plan.base, span.stop - span.start
        models = [base, *(self.plan.experts[index] for index in self.plan.merged[span.name])]
        needed = models if self.with_base else models[1:]
        stored = all(model.entries[span.name].dtype == "BF16" and span.name not in model.made for model in needed)
        self.watch(span)
        bits = kernels.scratch("read", (len(models), size), np.uint16 if stored else np.uint32)
        for model, row in zip(models, bits, strict=True):
            if model is not base or self.with_base:
                self._fill(model, span, row)
        return self._group(span.name, bits, span.start)

    def _group(self, name: str, bits: Bits, start: int) -> Group:
        group = Group.of_bits(name, bits, start, matrix=len(self.plan.base.entries[name].shape) >= 2)
        group.device = self.device
        group.weight = self.weights.get(name, group.weight)
        if not self.tensorwise:
            group.which = self.plan.merged[name]
        return group

    def _fill(self, model: Checkpoint, span: Span, row: Bits) -> None:
        """Read a row: its bytes as they are where that can be, else what is made of them."""
        entry = model.entries[span.name]
        plain = span.name not in model.made and (entry.dtype, row.itemsize) in (("BF16", 2), ("F32", 4))
        if not plain or not hasattr(os, "preadv"):
            values = model.read(span.name, span.start, span.stop)
            row[:] = values.view(torch.int16).numpy().view(np.uint16) if row.itemsize == 2 else _bits(values)
            return
        try:
            count = self.files.read(entry.file, entry.offset + span.start * SIZES[entry.dtype], row)
        except OSError as error:
            raise MergeError(f"{entry.file} could not be read ({error.strerror}). Check the file.") from error
        if count < row.nbytes:
            words = f"{entry.file} ended while `{span.name}` was read."
            raise MergeError(f"{words} Check that nothing is changing the file.")


def _bits(values: Any) -> Bits:
    bits: Bits = values.float().numpy().view(np.uint32)
    return bits
