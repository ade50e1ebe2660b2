"""The tensors of a merge as a stream: read from disk in tiles, several at a time, in memory that is set beforehand.

A tile is what is computed at once, a piece some tiles of a tensor, which one worker takes at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from merging import kernels
from merging.collected import of_tensor
from merging.crew import Crew
from merging.errors import MergeError
from merging.factored import factored, squared_norms, updates
from merging.files import Files, Rows
from merging.groups import TILE, Bits, Group, Groups, Stored, whole
from merging.lazy import torch
from merging.lora import Update, averaged
from merging.method import FactorCoefficients
from merging.plan import Plan
from merging.ranking import BINS, counter
from merging.settings import depths

if TYPE_CHECKING:
    from torch import Tensor

TILES = 40  # that a worker takes at a time: fewer cost more than what they are read for


@dataclass(frozen=True)
class Span:
    """A run of a tensor's entries."""

    name: str
    start: int
    stop: int
    unit: int = 1  # entries that are never parted

    @property
    def size(self) -> int:
        return self.stop - self.start


def spans(name: str, size: int, unit: int = 1) -> list[Span]:
    """A tensor's entries in the pieces that workers take, each of whole units."""
    piece = TILES * whole(TILE, unit)
    return [Span(name, start, min(start + piece, size), unit) for start in range(0, size, piece)]


def memory_of(work: Plan, entrywise: bool, unit: int = 1) -> int:
    """Bytes that each worker of a merge works in, whatever the tensors' sizes: what is read, computed and written.

    A method that decides entry by entry may rank, and counts two ranks of each expert's entries in bins. `unit` is the
    largest number of entries that are never parted.
    """
    models, entries = 1 + len(work.experts), sum(work.base.entries[name].size for name in work.merged)
    computed = max(TILE, unit) * 4 * 3 * (models + 1)
    if not entrywise:
        return computed + TILE * 4 * TILES  # all of a piece is written at once
    return computed + len(work.experts) * 2 * BINS * (counter(entries).itemsize + 1)


def fitting(memory: int, workers: int, each: int) -> int:
    """The workers that fit the memory, of which each takes so much; MergeError when not even one does."""
    if each > memory:
        words = f"This merge needs {each / 1e6:.0f} MB of memory to work in, and may use {memory / 1e6:.0f} MB."
        raise MergeError(f"{words} Allow it more.")
    return min(workers, memory // each)


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one tensor come from."""

    dtype: Any  # of the rows: bits of bfloat16, or of float32
    rows: Rows  # of each model, the base first, whose numbers may not be needed
    matrix: bool
    which: tuple[int, ...]  # the experts' numbers in a survey
    numbers: tuple[int, ...]  # and in the recipe
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
        self.seed = 0  # of what is drawn at random
        self.unit: Callable[[int], int] = lambda _: 1  # of a tensor, by its rows
        self.sources: dict[str, Origin] = {}
        self.rests: dict[str, Origin] = {}  # without what is known of adapters from their factors
        self.weights: dict[str, Tensor] = {}  # of the experts that have the tensor
        self.depths = depths(plan.merged, lone=0.0)
        self.watch: Callable[[Span], None] = lambda _: None  # told of every piece before it is read

    def model(self, names: list[str]) -> Groups:
        """All these tensors together."""
        sizes = [0] * len(self.plan.experts)
        for name in names:
            for index in self.plan.merged[name]:
                sizes[index] += self.plan.base.entries[name].size
        spans = [span for name in names for span in self.spans(name)]
        return self._groups(names, Groups(spans, self.tiles, sizes, self.crew, self.pick))

    def tensor(self, name: str, crew: Crew) -> Groups:
        """One tensor, of the experts that have it."""
        sizes = [self.plan.base.entries[name].size] * len(self.plan.merged[name])
        return self._groups([name], Groups(self.spans(name), self.tiles, sizes, crew, self.pick))

    def _groups(self, names: list[str], groups: Groups) -> Groups:
        groups.watch = self.watch
        if self.device == "cpu" and self.with_base:
            groups.in_files = self.in_files
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
        rest = Groups(spans, lambda span: self.tiles(span, self.rests[span.name]), groups.sizes, groups.crew)
        rest.watch = self.watch
        return torch.from_numpy(np.add.accumulate(measured.numpy(), axis=0)[-1]), rest if left else None

    def spans(self, name: str) -> list[Span]:
        """The pieces of a tensor."""
        entry = self.plan.base.entries[name]
        return spans(name, entry.size, self.unit(entry.row))

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
        source, size, tile = source or self._source(span.name), 0, whole(TILE, span.unit)
        for start in range(span.start, span.stop, tile):
            stop = min(start + tile, span.stop)
            if stop - start != size:  # at the first and at the last tile
                size = stop - start
                bits = kernels.scratch("read", (source.rows.count, size), source.dtype)
            source.rows.fill(bits, [start], size)
            yield self._group(span.name, bits, start, source)

    def in_files(self, span: Span) -> Stored | None:
        """Where a piece is stored; None where it takes more than reading."""
        source = self._source(span.name)
        if not source.rows.places or span.unit > 1:
            return None
        scratch = kernels.scratch("read", (1, source.rows.count * TILE), source.dtype)[0]
        return Stored((*source.rows.places, span.start, scratch, TILE), span.size, source.which)

    def pick(self, span: Span, starts: Sequence[int], length: int) -> Group:
        """The runs of a piece that begin at these places, of that length, one after the other."""
        source = self._source(span.name)
        bits = kernels.scratch("read", (source.rows.count, len(starts) * length), source.dtype)
        source.rows.fill(bits, [span.start + start for start in starts], length)
        return self._group(span.name, bits, span.start, source)

    def whole(self, name: str) -> tuple[Tensor | None, Tensor]:
        """A tensor's base, (*shape), and task vectors, (experts, *shape), in memory of their own.

        No base, and the experts, where the base does not enter.
        """
        entry = self.plan.base.entries[name]
        base = torch.empty(entry.size if self.with_base else 0)
        vectors = torch.empty(len(self.plan.merged[name]), entry.size)
        for tile in (tile for span in self.spans(name) for tile in self.read(span)):
            entries = slice(tile.start, tile.start + tile.size)
            vectors[:, entries] = tile.vectors
            if self.with_base:
                base[entries] = tile.base
        shaped = vectors.reshape(-1, *entry.shape).to(self.device)
        return base.reshape(entry.shape).to(self.device) if self.with_base else None, shaped

    def _group(self, name: str, bits: Bits, start: int, source: Origin) -> Group:
        group = Group.of_bits(name, bits, start, source.matrix)
        group.weight, group.which, group.device = source.weight, source.which, self.device
        group.axes, group.numbers, group.seed = self.plan.base.entries[name].shape, source.numbers, self.seed
        group.unit = self.unit(group.row)
        group.factored = bool(source.updates)
        group.axes, group.depth = self.plan.base.entries[name].shape, self.depths[name]
        group.based = self.with_base
        group.collected = of_tensor(self.plan, name)
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
        dtype, known = np.uint16 if stored else np.uint32, updates(self.plan, name)
        return Origin(dtype, rows, matrix, places, which, weight, known)

    def _numbers(self, name: str) -> dict[int, int]:
        """The numbers under which those of the recipe's experts go that have the tensor."""
        return {index: place if self.tensorwise else index for place, index in enumerate(self.plan.merged[name])}

    def average(self, name: str, outcome: FactorCoefficients) -> None:
        """Read a tensor's updates as one from now on, whose factors are averages of theirs."""
        one = averaged(self._source(name).updates, outcome.downs.tolist(), outcome.ups.tolist())
        rows = Rows(self.files, [self.plan.base, replace(self.plan.base, made={name: one})], name, 4)
        self.sources[name] = Origin(np.uint32, rows, True, (0,), (0,), torch.ones(1))
