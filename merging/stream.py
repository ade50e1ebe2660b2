"""The tensors of a merge as a stream: read from disk in chunks, several at a time, in memory that is set beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from merging import kernels
from merging.crew import Crew
from merging.errors import MergeError
from merging.files import Files, Rows
from merging.groups import TILE, Bits, Group, Groups
from merging.lazy import torch
from merging.plan import Plan
from merging.ranking import BINS

if TYPE_CHECKING:
    from torch import Tensor

TILES = 16  # that a worker takes at a time: fewer cost more than what they are read for
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


def spans(name: str, size: int) -> list[Span]:
    """A tensor's entries in the pieces that workers take."""
    return [Span(name, start, min(start + TILES * TILE, size)) for start in range(0, size, TILES * TILE)]


def memory_of(workers: int, models: int) -> int:
    """Bytes that a merge works in, whatever the size of the models: what is read, ranked, counted and written."""
    return workers * (TILE * 4 * 3 * (models + 1) + models * HISTOGRAMS)


def fitting(memory: int, workers: int, models: int) -> int:
    """The workers that fit the memory; MergeError when not even one does."""
    for count in range(workers, 0, -1):
        if memory_of(count, models) <= memory:
            return count
    least = memory_of(1, models) / 1e6
    words = f"A merge of {models} models needs {least:.0f} MB of memory to work in, and may use {memory / 1e6:.0f} MB."
    raise MergeError(f"{words} Allow it more.")


@dataclass(frozen=True)
class Source:
    """Where the numbers of one tensor come from."""

    dtype: Any  # of the rows: bits of bfloat16, or of float32
    rows: Rows  # of each model, the base first, whose numbers may not be needed
    matrix: bool
    which: tuple[int, ...]  # of the recipe's experts
    weight: Tensor


class Stream:
    """The merged tensors of a plan, as groups that are read when their turn comes, tile by tile.

    `tensorwise` numbers the experts that have a tensor as if there were no others.
    """

    def __init__(
        self, plan: Plan, crew: Crew, with_base: bool = True, tensorwise: bool = False, device: str = "cpu"
    ) -> None:
        self.plan, self.crew = plan, crew
        self.with_base, self.tensorwise, self.device = with_base, tensorwise, device
        self.files = Files()
        self.sources: dict[str, Source] = {}
        self.weights: dict[str, Tensor] = {}  # of the experts that have the tensor
        self.watch: Callable[[Span], None] = lambda _: None  # told of every piece before it is read

    def model(self, names: list[str]) -> Groups:
        """All these tensors together."""
        sizes = [0] * len(self.plan.experts)
        for name in names:
            for index in self.plan.merged[name]:
                sizes[index] += self.plan.base.entries[name].size
        return Groups([span for name in names for span in self.spans(name)], self.read, sizes, self.crew, self.pick)

    def tensor(self, name: str, crew: Crew) -> Groups:
        """One tensor, of the experts that have it."""
        sizes = [self.plan.base.entries[name].size] * len(self.plan.merged[name])
        return Groups(self.spans(name), self.read, sizes, crew, self.pick)

    def spans(self, name: str) -> list[Span]:
        """The pieces of a tensor."""
        return spans(name, self.plan.base.entries[name].size)

    def empty(self, name: str) -> Group:
        """A group of the tensor without any entry."""
        source = self._source(name)
        return self._group(name, np.empty((source.rows.count, 0), source.dtype), 0, source)

    def read(self, span: Span) -> Iterator[Group]:
        """The tiles of a piece. Each is valid until the same thread reads the next one."""
        self.watch(span)
        source, size = self._source(span.name), 0
        for start in range(span.start, span.stop, TILE):
            stop = min(start + TILE, span.stop)
            if stop - start != size:  # at the first and at the last tile
                size = stop - start
                bits = kernels.scratch("read", (source.rows.count, size), source.dtype)
            source.rows.fill(bits, [start], size)
            yield self._group(span.name, bits, start, source)

    def pick(self, span: Span, starts: Sequence[int], length: int) -> Group:
        """The runs of a piece that begin at these places, of that length, one after the other."""
        source = self._source(span.name)
        bits = kernels.scratch("read", (source.rows.count, len(starts) * length), source.dtype)
        source.rows.fill(bits, [span.start + start for start in starts], length)
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
        rows = Rows(self.files, models if self.with_base else [None, *models[1:]], name, 2 if stored else 4)
        weight = self.weights.get(name, torch.ones(len(which)))
        places = tuple(range(len(which))) if self.tensorwise else which
        matrix = len(base.entries[name].shape) >= 2
        return Source(np.uint16 if stored else np.uint32, rows, matrix, places, weight)
