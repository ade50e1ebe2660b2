"""The tensors of a merge as a stream: read from disk in chunks, several at a time, in memory that is set beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from merging import kernels
from merging.crew import Crew
from merging.errors import MergeError
from merging.files import Files, Reader
from merging.groups import TILE, Bits, Group, Groups
from merging.lazy import torch
from merging.plan import Plan
from merging.ranking import BINS

if TYPE_CHECKING:
    from torch import Tensor

TILES = 1  # of a chunk: more fall out of the processor's cache
HISTOGRAMS = 2 * BINS * 4  # bytes that a survey counts in, of each expert and worker


@dataclass(frozen=True)
class Span:
    """A run of a tensor's entries."""

    name: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def spans(name: str, size: int, chunk: int) -> list[Span]:
    """A tensor's entries in chunks."""
    return [Span(name, start, min(start + chunk, size)) for start in range(0, size, chunk)]


def cut(span: Span, length: int) -> Span:
    """The beginning of a run."""
    return Span(span.name, span.start, min(span.start + length, span.stop))


def memory_of(workers: int, models: int, chunk: int) -> int:
    """Bytes that a merge works in, whatever the size of the models: what is read, ranked, counted and written."""
    return workers * (chunk * 4 * 3 * (models + 1) + models * HISTOGRAMS)


def fitting(memory: int, workers: int, models: int) -> tuple[int, int]:
    """Workers and entries of a chunk that fit the memory; MergeError when not even one worker fits."""
    for count in range(workers, 0, -1):
        if memory_of(count, models, TILES * TILE) <= memory:
            return count, TILES * TILE
    least = memory_of(1, models, TILES * TILE) / 1e6
    words = f"A merge of {models} models needs {least:.0f} MB of memory to work in, and may use {memory / 1e6:.0f} MB."
    raise MergeError(f"{words} Allow it more.")


@dataclass(frozen=True)
class Source:
    """Where the numbers of one tensor come from: what reads a row of each model, the base first."""

    dtype: Any  # of the rows: bits of bfloat16, or of float32
    readers: tuple[Reader | None, ...]  # None for a base whose numbers are not needed
    matrix: bool
    which: tuple[int, ...]  # of the recipe's experts
    weight: Tensor


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
        self.sources: dict[str, Source] = {}
        self.weights: dict[str, Tensor] = {}  # of the experts that have the tensor
        self.watch: Callable[[Span], None] = lambda _: None  # told of every chunk before it is read

    def model(self, names: list[str]) -> Groups:
        """All these tensors together."""
        sizes = [0] * len(self.plan.experts)
        for name in names:
            for index in self.plan.merged[name]:
                sizes[index] += self.plan.base.entries[name].size
        return Groups([span for name in names for span in self.spans(name)], self.read, sizes, self.crew, cut)

    def tensor(self, name: str, crew: Crew) -> Groups:
        """One tensor, of the experts that have it."""
        sizes = [self.plan.base.entries[name].size] * len(self.plan.merged[name])
        return Groups(self.spans(name), self.read, sizes, crew, cut)

    def spans(self, name: str) -> list[Span]:
        """The chunks of a tensor."""
        return spans(name, self.plan.base.entries[name].size, self.chunk)

    def empty(self, name: str) -> Group:
        """A group of the tensor without any entry."""
        source = self._source(name)
        return self._group(name, np.empty((len(source.readers), 0), source.dtype), 0, source)

    def read(self, span: Span) -> Group:
        """A chunk. It is valid until the same thread reads the next one."""
        self.watch(span)
        source = self._source(span.name)
        bits = kernels.scratch("read", (len(source.readers), span.stop - span.start), source.dtype)
        for read, row in zip(source.readers, bits, strict=True):
            if read:
                read(row, span.start, span.stop)
        return self._group(span.name, bits, span.start, source)

    def _group(self, name: str, bits: Bits, start: int, source: Source) -> Group:
        group = Group.of_bits(name, bits, start, source.matrix)
        group.weight, group.which, group.device = source.weight, source.which, self.device
        return group

    def _source(self, name: str) -> Source:
        if name not in self.sources:
            self.sources[name] = self._found(name)
        return self.sources[name]

    def _found(self, name: str) -> Source:
        base, which = self.plan.base, self.plan.merged[name]
        models = [base, *(self.plan.experts[index] for index in which)]
        needed = models if self.with_base else models[1:]
        stored = all(model.entries[name].dtype == "BF16" and name not in model.made for model in needed)
        readers = [self.files.reader(model, name, 2 if stored else 4) for model in needed]
        weight = self.weights.get(name, torch.ones(len(which)))
        places = tuple(range(len(which))) if self.tensorwise else which
        matrix = len(base.entries[name].shape) >= 2
        rows = tuple(readers) if self.with_base else (None, *readers)
        return Source(np.uint16 if stored else np.uint32, rows, matrix, places, weight)
