"""What an adapter makes of one tensor of its base: W0 + s B A, or a tensor that was trained in full.

No dense copy is ever written: each run of entries is computed when it is read, from as much of the factors as it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from merging import kernels
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from merging.checkpoint import Checkpoint

BLOCK = 1 << 19  # entries of a factor that are in memory at once


@dataclass(frozen=True)
class Update:
    """One matrix of the base with what an adapter adds to it: scaling times the product of its two factors."""

    base: Checkpoint
    name: str
    factors: Checkpoint
    down: str  # A, (rank, columns)
    up: str  # B, (rows, rank)
    scaling: float
    transposed: bool = False  # the base stores rows as columns: embeddings, and GPT-2's own linear layers

    @property
    def files(self) -> set[Path]:
        factors = self.factors
        return self.base.files_of(self.name) | factors.files_of(self.down) | factors.files_of(self.up)

    @property
    def rank(self) -> int:
        return self.factors.entries[self.down].shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The matrix's, as the base stores it."""
        return self.base.entries[self.name].shape

    def read(self, start: int, stop: int) -> Tensor:
        """Entries of the sum, laid flat, in float32."""
        values = self.base.read(self.name, start, stop).float()
        if len(values):
            add_product(values, start, self, self.scaling)
        return values

    def left(self, rows: slice) -> Tensor:
        """What stands on the left of the product, (rows, rank), float32, with the rows of the base's matrix."""
        if self.transposed:
            return part(self.factors, self.down, slice(0, self.rank), rows).T
        return part(self.factors, self.up, rows, slice(0, self.rank))

    def right(self, columns: slice) -> Tensor:
        """What stands on its right, (rank, columns), float32, with the columns of the base's matrix."""
        if self.transposed:
            return part(self.factors, self.up, columns, slice(0, self.rank)).T
        return part(self.factors, self.down, slice(0, self.rank), columns)


@dataclass(frozen=True)
class Averaged:
    """One matrix of the base with the product of two sums of adapters' factors, each weighted."""

    updates: tuple[Update, ...]  # of one matrix and one rank
    downs: tuple[float, ...]  # the weight of each A, and of each B
    ups: tuple[float, ...]

    @property
    def rank(self) -> int:
        return self.updates[0].rank

    @property
    def shape(self) -> tuple[int, ...]:
        """The matrix's, as the base stores it."""
        return self.updates[0].shape

    @property
    def files(self) -> set[Path]:
        return set[Path]().union(*(update.files for update in self.updates))

    def read(self, start: int, stop: int) -> Tensor:
        """Entries of the sum, laid flat, in float32."""
        first = self.updates[0]
        values = first.base.read(first.name, start, stop).float()
        add_product(values, start, self, 1.0)
        return values

    def left(self, rows: slice) -> Tensor:
        """What stands on the left of the product, (rows, rank), float32."""
        weights = self.downs if self.updates[0].transposed else self.ups
        return _sum(weight * update.left(rows) for weight, update in zip(weights, self.updates, strict=True))

    def right(self, columns: slice) -> Tensor:
        """What stands on its right, (rank, columns), float32."""
        weights = self.ups if self.updates[0].transposed else self.downs
        return _sum(weight * update.right(columns) for weight, update in zip(weights, self.updates, strict=True))


def averaged(updates: Sequence[Update | None], downs: Sequence[float], ups: Sequence[float]) -> Averaged:
    """The updates as one, the scaling of each shared evenly by its two factors; some may change nothing."""
    there = [(u, down, up) for u, down, up in zip(updates, downs, ups, strict=True) if u]
    roots = [(math.sqrt(abs(update.scaling)), math.copysign(1, update.scaling)) for update, _, _ in there]
    return Averaged(
        tuple(update for update, _, _ in there),
        tuple(down * root * sign for (_, down, _), (root, sign) in zip(there, roots, strict=True)),
        tuple(up * root for (_, _, up), (root, _) in zip(there, roots, strict=True)),
    )


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    first, *others = tensors
    for other in others:
        first = first + other
    return first


def add_product(values: Tensor, start: int, factors: Update | Averaged, scaling: float) -> None:
    """Add a run of a product's entries, those from `start` on of the matrix laid flat, to as many values."""
    width = max(1, BLOCK // factors.rank)  # columns of which the right factor fits a block
    done = 0
    for rows, columns in _rectangles(start, start + len(values), factors.shape[1]):
        left, count = factors.left(rows), columns.stop - columns.start
        size = (rows.stop - rows.start) * count
        out = values[done : done + size].view(-1, count)
        for first in range(0, count, width):
            last = min(first + width, count)
            right = factors.right(slice(columns.start + first, columns.start + last))
            out[:, first:last] += scaling * product(left, right)
        done += size


def _rectangles(start: int, stop: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of a run of entries: what it has of its first row, the whole rows, and the rest."""
    while start < stop:
        row, column = divmod(start, columns)
        if column or stop - start < columns:
            end = min(columns, column + stop - start)
            yield slice(row, row + 1), slice(column, end)
            start += end - column
        else:
            whole = (stop - start) // columns
            yield slice(row, row + whole), slice(0, columns)
            start += whole * columns


def product(left: Tensor, right: Tensor) -> Tensor:
    """(rows, rank) times (rank, columns) in float32, added one after the other: no entry depends on the others."""
    if kernels.usable():
        from merging.kernels import factors

        out = torch.empty(len(left), right.shape[1])
        factors.product(left.contiguous().numpy(), right.contiguous().numpy(), out.numpy())
        return out
    total = torch.zeros(len(left), right.shape[1])
    for column, row in zip(left.T, right, strict=True):
        total += column[:, None] * row
    return total


def part(model: Checkpoint, name: str, rows: slice, columns: slice) -> Tensor:
    """Some rows and columns of a stored matrix, as float32; nothing else of a large one is read."""
    width = model.entries[name].shape[1]
    if columns.stop - columns.start == width:
        return model.read(name, rows.start * width, rows.stop * width).reshape(-1, width).float()
    if model.entries[name].size <= BLOCK:  # quicker than going to each row
        return model.tensor(name)[rows, columns].float()
    runs = ((row * width + columns.start, row * width + columns.stop) for row in range(rows.start, rows.stop))
    return torch.stack([model.read(name, *run) for run in runs]).float()


@dataclass(frozen=True)
class Instead:
    """A tensor that was trained in full beside an adapter, in place of the base's."""

    adapter: Checkpoint
    name: str

    @property
    def files(self) -> set[Path]:
        return self.adapter.files_of(self.name)

    def read(self, start: int, stop: int) -> Tensor:
        """Entries of it, laid flat, in float32."""
        return self.adapter.read(self.name, start, stop).float()
