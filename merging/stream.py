"""The tensors of a merge as a stream: read from disk in tiles, several at a time, in memory that is set beforehand.

A tile is what is computed at once, a piece some tiles of a tensor, which one worker takes at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from merging import kernels
from merging.crew import Crew
from merging.errors import MergeError
from merging.factored import factored, squared_norms, updates
from merging.files import Files, Rows
from merging.groups import TILE, Bits, Group, Groups, Stored
from merging.lazy import torch
from merging.lora import Update, averaged
from merging.method import FactorCoefficients
from merging.plan import Plan
from merging.ranking import BINS

if TYPE_CHECKING:
    from torch import Tensor

TILES = 40  # that a worker takes at a time: fewer cost more than what they are read for
HISTOGRAMS = 2 * BINS * (4 + 1)  # bytes that a survey counts in, of each expert and worker; its sample was smaller


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
    return workers * (TILE * 4 * (3 * (models + 1) + TILES) + models * HISTOGRAMS)


def fitting(memory: int, workers: int, models: int) -> int:
    """The workers that fit the memory; MergeError when not even one does."""
    for count in range(workers, 0, -1):
        if memory_of(count, models) <= memory:
            return count
    least = memory_of(1, models) / 1e6
    words = f"A merge of {models} models needs {least:.0f} MB of memory to work in, and may use {memory / 1e6:.0f} MB."
    raise MergeError(f"{words} Allow it more.")


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one tensor come from."""

    dtype: Any  # of the rows: bits of bfloat16, or of float32
    rows: Rows  # of each model, the base first, whose numbers may not be needed
    matrix: bool
    which: tuple[int, ...]  # of the recipe's experts
    weight: Tensor
    updates: tuple[Update | None, ...] = ()  # of each expert, where all of them are products of factors or nothing


class Stream:
    """The merged tensors of a plan, as groups that are read when their turn comes, tile by tile.

    `tensorwise` numbers the experts that have a tensor as if there were no others.
    """

    def __init__(
        self, plan: Plan, crew: Crew, *, with_base: bool = True, tensorwise: bool = False, device: str = "cpu"
    ) -> None:
        self.plan, self.crew = plan, crew
        self.with_base, self.tensorwise, self.device = with_base, tensorwise, device
        self.files = Files()
        self.sources: dict[str, Origin] = {}
        self.rests: dict[str, Origin] = {}  # without what is known of adapters from their factors
        self.weights: dict[str, Tensor] = {}  # of the experts that have the tensor
        self.watch: Callable[[Span], None] = lambda _: None  # told of every piece before it is read

    def model(self, names: list[str]) -> Groups:
        """All these tensors together."""
        sizes = [0] * len(self.plan.experts)
        for name in names:
            for index in self.plan.merged[name]:
                sizes[index] += self.plan.base.entries[name].size
        spans = [span for name in names for span in self.spans(name)]
        return self._groups(names, Groups(spans, self.read, sizes, self.crew, self.pick))

    def tensor(self, name: str, crew: Crew) -> Groups:
        """One tensor, of the experts that have it."""
        sizes = [self.plan.base.entries[name].size] * len(self.plan.merged[name])
        return self._groups([name], Groups(self.spans(name), self.read, sizes, crew, self.pick))

    def _groups(self, names: list[str], groups: Groups) -> Groups:
        if self.device == "cpu":
            groups.in_files = self._watched
        if any(expert.adapter for expert in self.plan.experts):
            groups.apart = lambda: self._apart(names, groups)
        return groups

    def _apart(self, names: list[str], groups: Groups) -> tuple[Tensor, Groups | None]:
        """The squared norms that follow from factors, (experts, 3), and what is left to be read."""
        known = {name: factored(self.plan, name) for name in names}
        measured = torch.zeros(len(names), len(groups.sizes), 3, dtype=torch.float64)

        def measure(piece: tuple[int, str, int, Update]) -> None:
            number, name, index, update = piece
            measured[number, self._numbers(name)[index]] = torch.tensor(squared_norms(update), dtype=torch.float64)

        pieces = [(i, name, index, u) for i, name in enumerate(names) for index, u in known[name].items() if u]
        groups.crew.run(measure, pieces)
        for name in names:
            self.rests[name] = self._found(name, frozenset(known[name]))
        left = [name for name in names if len(known[name]) < len(self.plan.merged[name])]
        for span in (span for name in names if name not in left for span in self.spans(name)):
            self.watch(span)
        spans = [span for name in left for span in self.spans(name)]
        rest = Groups(spans, self._read_rest, groups.sizes, groups.crew) if left else None
        return torch.from_numpy(np.add.accumulate(measured.numpy(), axis=0)[-1]), rest

    def _read_rest(self, span: Span) -> Iterator[Group]:
        self.watch(span)
        return self.tiles(span, self.rests[span.name])

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
        return self.tiles(span, self._source(span.name))

    def tiles(self, span: Span, source: Origin | None = None) -> Iterator[Group]:
        """The same, of which nobody is told."""
        source, size = source or self._source(span.name), 0
        for start in range(span.start, span.stop, TILE):
            stop = min(start + TILE, span.stop)
            if stop - start != size:  # at the first and at the last tile
                size = stop - start
                bits = kernels.scratch("read", (source.rows.count, size), source.dtype)
            source.rows.fill(bits, [start], size)
            yield self._group(span.name, bits, start, source)

    def in_files(self, span: Span) -> Stored | None:
        """Where a piece is stored; None where it takes more than reading."""
        source = self._source(span.name)
        if not source.rows.places:
            return None
        scratch = kernels.scratch("read", (1, source.rows.count * TILE), source.dtype)[0]
        return Stored((*source.rows.places, span.start, scratch, TILE), span.size, source.which)

    def _watched(self, span: Span) -> Stored | None:
        """The same for a survey, which reads it next."""
        stored = self.in_files(span) if self.with_base else None
        if stored:
            self.watch(span)
        return stored

    def pick(self, span: Span, starts: Sequence[int], length: int) -> Group:
        """The runs of a piece that begin at these places, of that length, one after the other."""
        source = self._source(span.name)
        bits = kernels.scratch("read", (source.rows.count, len(starts) * length), source.dtype)
        source.rows.fill(bits, [span.start + start for start in starts], length)
        return self._group(span.name, bits, span.start, source)

    def _group(self, name: str, bits: Bits, start: int, source: Origin) -> Group:
        group = Group.of_bits(name, bits, start, source.matrix)
        group.weight, group.which, group.device = source.weight, source.which, self.device
        group.factored = bool(source.updates)
        return group

    def _source(self, name: str) -> Origin:
        if name not in self.sources:
            self.sources[name] = self._found(name)
        return self.sources[name]

    def _found(self, name: str, without: frozenset[int] = frozenset()) -> Origin:
        """Where a tensor is read from; the rows of experts that are left out repeat the base's."""
        base, which = self.plan.base, self.plan.merged[name]
        models = [base if self.with_base else None]
        models += [None if index in without else self.plan.experts[index] for index in which]
        stored = all(not m or (m.entries[name].dtype == "BF16" and name not in m.made) for m in models)
        rows = Rows(self.files, models, name, 2 if stored else 4)
        weight = self.weights.get(name, torch.ones(len(which)))
        places, matrix = tuple(self._numbers(name).values()), len(base.entries[name].shape) >= 2
        return Origin(np.uint16 if stored else np.uint32, rows, matrix, places, weight, updates(self.plan, name))

    def _numbers(self, name: str) -> dict[int, int]:
        """The numbers under which those of the recipe's experts go that have the tensor."""
        return {index: place if self.tensorwise else index for place, index in enumerate(self.plan.merged[name])}

    def average(self, name: str, outcome: FactorCoefficients) -> None:
        """Read a tensor's updates as one from now on, whose factors are averages of theirs."""
        one = averaged(self._source(name).updates, outcome.downs.tolist(), outcome.ups.tolist())
        rows = Rows(self.files, [self.plan.base, replace(self.plan.base, made={name: one})], name, 4)
        self.sources[name] = Origin(np.uint32, rows, True, (0,), torch.ones(1))
