"""A sample of every tensor's entries, kept in memory: settings can be tried on it while a slider moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from merging.groups import Bits, Group
from merging.header import Entry

LEAST, LEAST_ROWS = 64, 2  # entries, or rows, that are taken of every tensor that has as many


@dataclass(frozen=True)
class Probe:
    """Entries of every tensor, drawn evenly, of the experts that have it: settings can be tried on them at once.

    The entries are single ones, or those of whole rows, for methods that look at rows. Groups are in the order of the
    tensors; those of tensors that were not read yet are empty.
    """

    groups: tuple[Group, ...]
    share: float  # of the model's entries; 1 when they are all there

    @property
    def exact(self) -> bool:
        return self.share == 1

    def thinned(self, wanted: int, rows: bool) -> Probe:
        """About so many of its entries; whole rows of them where told."""
        entries = sum(group.size for group in self.groups)
        if entries <= wanted:
            return self
        groups = tuple(_thinned(group, wanted / entries, rows) for group in self.groups)
        return Probe(groups, self.share * sum(group.size for group in groups) / entries)


def amount(size: int, row: int, rate: float, rows: bool) -> int:
    """How many entries of a tensor are taken at that rate; as whole rows of that length where told."""
    _, count, length = _units(size, row, rate, rows)
    return count * length


def _units(size: int, row: int, rate: float, rows: bool) -> tuple[int, int, int]:
    """Of how many entries or rows how many are taken, and the entries of each."""
    units, length = (size // row, row) if rows else (size, 1)
    count = units if rate >= 1 else max(LEAST_ROWS if rows else LEAST, int(rate * units))
    return units, min(count, units), length


def _spread(size: int, count: int) -> Bits:
    """Sorted positions, one drawn from each of `count` equal stretches of so many."""
    if count == size:
        return np.arange(size)
    place = np.random.default_rng(0).random(count)
    return np.minimum(((np.arange(count) + place) * (size / count)).astype(np.int64), size - 1)


class Sampler:
    """Keeps some entries of one tensor while its tiles go by, in any order."""

    def __init__(self, size: int, row: int, rate: float, rows: bool, models: int) -> None:
        units, count, self.length = _units(size, row, rate, rows)
        self.starts = _spread(units, count) * self.length
        self.bits = np.zeros((models, count * self.length), np.uint32)  # of float32, whatever is stored

    def take(self, tile: Group) -> None:
        if self.length == 1:
            first, last = np.searchsorted(self.starts, (tile.start, tile.start + tile.size))
            self._put(first, tile.bits[:, self.starts[first:last] - tile.start])
            return
        begin = np.searchsorted(self.starts, tile.start - self.length, side="right")
        end = np.searchsorted(self.starts, tile.start + tile.size)
        for number in range(begin, end):  # runs that may begin before the tile, and end after it
            start = int(self.starts[number])
            first, last = max(start, tile.start), min(start + self.length, tile.start + tile.size)
            run = tile.bits[:, first - tile.start : last - tile.start]
            self._put(number * self.length + first - start, run)

    def _put(self, at: int, found: Bits) -> None:
        kept = self.bits[:, at : at + found.shape[1]]
        kept[:] = found
        if found.itemsize == 2:
            kept <<= 16


def sampled(entry: Entry, which: Sequence[int], bits: Bits, rows: bool) -> Group:
    """Entries of a tensor that were kept, as a group: of its shape where all were, else laid flat, or by rows."""
    size = bits.shape[1]
    flat = (size // entry.row, entry.row) if rows and entry.row else (size,)
    return _group(entry.name, bits, tuple(which), len(entry.shape) >= 2, entry.shape if size == entry.size else flat)


def _group(name: str, bits: Bits, which: tuple[int, ...], matrix: bool, axes: tuple[int, ...]) -> Group:
    group = Group.of_bits(name, bits, matrix=matrix)
    group.which, group.axes = which, axes
    return group


def _thinned(group: Group, rate: float, rows: bool) -> Group:
    if not group.size:  # not read yet
        return group
    units, count, length = _units(group.size, group.row, rate, rows)
    taken = _spread(units, count)
    bits = group.bits.reshape(len(group.bits), units, length)[:, taken].reshape(len(group.bits), -1)
    return _group(group.name, bits, group.which, group.matrix, (count, length) if rows else (count,))
