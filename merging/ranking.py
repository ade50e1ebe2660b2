"""Exact order statistics over a stream of any length, in constant memory and usually one pass or two.

The order of float32 numbers is that of their bits, read as integers: their codes. A rank is looked for in an interval
of codes, which a small sample suggests: one pass counts what lies below the interval, and what lies in each bin of it.
Where the interval was too coarse, or was the wrong one, a narrower or another one is looked at in the next pass. The
sample decides how many passes there are, never what is found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.groups import Bits, Group, Groups
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

BINS = 1 << 21  # of an interval at most
NOWHERE = (1 << 32) - 1  # the first code of an interval that costs nothing to look in
WIDE = 1 << 12  # bins that are looked at together
COARSE = 1 << 16  # bins to begin with where there is no sample
SAMPLED, RUN = 1000, 1024  # runs of entries that are sampled of a large model, and how many each has
SPARSE, LEAST = 32, 64  # at least one in so many entries of a smaller one, and so many runs
FINE, RARE = 16, 1e-3  # bits of bins that are enough where so few codes are not the first of their bin
ENDS = 2.5  # standard errors to both sides of what the sample suggests
FINITE = range(0x00800000, 0xFF800000)  # the codes of finite numbers

Ranks = Callable[[int, int], list[int]]
Values = Callable[[Group], "Tensor"]
Count = Callable[..., None]


class NotFiniteError(Exception):
    """Some number is infinite or not a number, in the tensor of that name or anywhere; the engine finds out which."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.name = name


def order_statistics(groups: Groups, values: Values, ranks: Ranks, count: Count | None = None) -> Tensor:
    """For each expert, the values of the ranks wanted, (experts, ranks).

    `values` of all groups, (experts, entries), are ranked together, ascending and counted from 0; `ranks` is asked for
    the ranks wanted, by the number of an expert's entries and the number of the expert. `count` counts the values of a
    group in one go, where kernels can be used: it is called with the group, and what `kernels.ranks.tally` is told.
    """
    wanted = np.array([ranks(size, expert) for expert, size in enumerate(groups.sizes)])
    if groups.one is not None:
        return values(groups.one).sort(1).values.gather(1, torch.from_numpy(wanted))
    if groups.few:
        return _sorted(groups, values, wanted)
    intervals = _guess(groups, values, wanted)
    codes = np.full(wanted.shape, -1, np.int64)
    while (codes < 0).any():
        tally = _pass(groups, values, count, intervals)
        if not all(int(code) in FINITE for code in (tally.least.min(), tally.largest.max())):
            raise NotFiniteError
        begins = intervals.begins  # as they were counted by, before any interval is changed
        for place in np.ndindex(*wanted.shape):
            if codes[place] < 0:
                rank, entries = int(wanted[place]), groups.sizes[place[0]]
                codes[place] = intervals.narrowed(tally, place, int(begins[place]), rank, entries)
        del tally  # before there is another one
    return _from_codes(torch.from_numpy(codes))


def nth_largest(groups: Groups, values: Values, number: Tensor) -> Tensor:
    """The value of all groups that so many are not less than, (); infinity for none. `values` are (1, entries)."""
    if groups.one is not None:
        ranked = values(groups.one)[0].sort(descending=True).values
        return torch.where(number > 0, ranked.gather(0, (number - 1).clamp(min=0)[None])[0], torch.inf)
    count = int(number)
    if count == 0:
        return torch.tensor(torch.inf)
    return order_statistics(groups.together, values, lambda entries, _: [entries - count])[0, 0]


def _sorted(groups: Groups, values: Values, wanted: Bits) -> Tensor:
    """The same for a few numbers, which all fit the memory."""
    found: list[list[Bits]] = [[] for _ in groups.sizes]

    def visit(_: int, group: Group) -> None:
        for expert, row in zip(group.which, values(group).cpu().numpy(), strict=True):
            found[expert].append(row.copy())

    groups.each(visit)
    rows = [np.concatenate(parts) for parts in found]
    if not all(np.isfinite(row).all() for row in rows):
        raise NotFiniteError
    return torch.from_numpy(
        np.stack([np.partition(row, places)[places] for row, places in zip(rows, wanted, strict=True)])
    )


@dataclass
class Tally:
    """What one worker has counted: below the intervals and in them, and the extreme codes of each expert."""

    below: Bits  # (experts, ranks, 3): below an interval, at its first, and at its last code
    counts: Bits  # the bins of all intervals, one interval after the other
    mixed: Bits  # whether a bin holds other codes than its first
    least: Bits  # (experts)
    largest: Bits


class Intervals:
    """The intervals in which ranks are looked for, (experts, ranks), and the bins between their first and last codes.

    What lies at both ends is counted apart: they come from a sample, and are often numbers that many entries have.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.first, self.last = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)
        self.start, self.shift = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)  # of the bins; bits of width
        self.bins = np.ones(shape, np.int64)

    def set(self, place: tuple[int, ...], first: int, last: int, most: int = BINS, bits: int = 0) -> None:
        """Look for a rank among the codes from one to another, in bins of at least 2^bits codes."""
        bits = max(bits, (last - first).bit_length() - (most - 1).bit_length())
        start = first >> bits << bits
        self.first[place], self.last[place], self.start[place] = first, last, start
        self.shift[place], self.bins[place] = bits, ((last - start) >> bits) + 1

    @property
    def begins(self) -> Bits:
        """Where the bins of each interval begin among those of all, (experts, ranks)."""
        return self.bins.cumsum().reshape(self.bins.shape) - self.bins

    def narrowed(self, tally: Tally, place: tuple[int, ...], begin: int, rank: int, entries: int) -> int:
        """A rank's code by what was counted, in bins that begin at `begin`; or -1, and a new interval to look in."""
        if rank in (0, entries - 1):
            return int((tally.largest if rank else tally.least)[place[0]])
        code = self._found(tally, place, begin, rank)
        if code >= 0:
            self.set(place, NOWHERE, NOWHERE)
        return code

    def _found(self, tally: Tally, place: tuple[int, ...], begin: int, rank: int) -> int:
        first, last, bits = (int(part[place]) for part in (self.first, self.last, self.shift))
        below, at_first, at_last = tally.below[place].tolist()
        if rank < below:
            self.set(place, 0, first - 1)
            return -1
        if rank < below + at_first:
            return first
        number, left = _bin_of(tally.counts[begin : begin + int(self.bins[place])], rank - below - at_first)
        if number >= 0:
            code = int(self.start[place]) + (number << bits)
            if not bits or not tally.mixed[begin + number]:
                return code
            self.set(place, code, min(code + (1 << bits) - 1, NOWHERE))
        elif left < at_last:
            return last
        else:
            self.set(place, last + 1, NOWHERE)
        return -1


def _bin_of(counts: Bits, rank: int) -> tuple[int, int]:
    """The bin of a rank, which is counted from that of the first bin's first; -1, and what is left, if beyond all."""
    ends = np.add.reduceat(counts, range(0, len(counts), WIDE), dtype=np.int64).cumsum()
    wide = int(np.searchsorted(ends, rank, side="right"))
    if wide == len(ends):
        return -1, rank - int(ends[-1])
    before = int(ends[wide - 1]) if wide else 0
    within = counts[wide * WIDE :][:WIDE].cumsum(dtype=np.int64)
    return wide * WIDE + int(np.searchsorted(within, rank - before, side="right")), 0


def counter(entries: int) -> np.dtype[Any]:
    """What counts so many entries, so that no bin can overflow."""
    return np.dtype(np.uint32 if entries < 1 << 32 else np.int64)


def _pass(groups: Groups, values: Values, count: Count | None, intervals: Intervals) -> Tally:
    experts, begins = len(intervals.first), intervals.begins
    dtype = counter(max(groups.sizes))

    def begin() -> Tally:
        edges = np.full(experts, 0xFFFFFFFF, np.uint32), np.zeros(experts, np.uint32)
        bins = int(intervals.bins.sum())
        return Tally(np.zeros((*begins.shape, 3), np.int64), np.zeros(bins, dtype), np.zeros(bins, np.bool_), *edges)

    def add(group: Group, mine: Tally) -> None:
        if group.fused:
            from merging.kernels import ranks

            where = intervals.first, intervals.last, intervals.start, intervals.shift, begins
            told = np.array(group.which), where, (mine.below, mine.counts, mine.mixed, mine.least, mine.largest)
            if count:
                count(group, *told)
            else:
                ranks.tally(values(group).numpy(), *told)
        else:
            _count(values(group), group.which, intervals, begins, mine)

    tallies: list[Tally] = groups.fold(begin, add)
    first = tallies[0]
    for other in tallies[1:]:
        first.below += other.below
        first.counts += other.counts
        first.mixed |= other.mixed
        np.minimum(first.least, other.least, out=first.least)
        np.maximum(first.largest, other.largest, out=first.largest)
    return first


def _count(values: Tensor, which: tuple[int, ...], intervals: Intervals, begins: Bits, into: Tally) -> None:
    """Add a tile's values, (experts, entries), to what was counted."""
    for expert, codes in zip(which, _codes(values), strict=True):
        into.least[expert] = min(into.least[expert], int(codes.min()))
        into.largest[expert] = max(into.largest[expert], int(codes.max()))
        for rank, begin in enumerate(begins[expert].tolist()):
            parts = intervals.first, intervals.last, intervals.start, intervals.shift, intervals.bins
            first, last, start, bits, size = (int(part[expert, rank]) for part in parts)
            at_last = int((codes == last).sum()) if last > first else 0
            into.below[expert, rank] += (int((codes < first).sum()), int((codes == first).sum()), at_last)
            inside = codes[(codes > first) & (codes < last)] - start
            found = torch.bincount(inside >> bits, minlength=size).cpu().numpy()
            into.counts[begin : begin + size] += found.astype(into.counts.dtype)
            into.mixed[begin + (inside[inside % (1 << bits) != 0] >> bits).cpu().numpy()] = True


def _guess(groups: Groups, values: Values, wanted: Bits) -> Intervals:
    """The intervals to begin with: where a sample of runs, evenly spread, suggests that the ranks are."""
    intervals, most = Intervals(wanted.shape), max(groups.sizes)
    every = max(most // SAMPLED, min(SPARSE * RUN, most // LEAST), RUN)
    found = groups.sample(values, every, RUN)
    for expert, size in enumerate(groups.sizes):
        rows = [part[which.index(expert)].numpy() for which, part in found if expert in which]
        runs = _in_place(np.concatenate(rows)) if rows else np.zeros((0, RUN), np.uint32)
        sample = np.sort(runs, axis=None)
        for place, rank in enumerate(wanted[expert].tolist()):
            if rank in (0, size - 1):  # every worker sees the extremes: nothing need be counted
                intervals.set((expert, place), NOWHERE, NOWHERE)
            elif rows:
                intervals.set((expert, place), *_suggested(runs, sample, rank / size))
            else:
                intervals.set((expert, place), 0, NOWHERE, COARSE)
    return intervals


def _suggested(runs: Bits, sample: Bits, share: float) -> tuple[int, int, int, int]:
    """The interval of codes in which the entry of that share from below lies, with some certainty; and its bins."""
    below = (runs < sample[min(int(share * len(sample)), len(sample) - 1)]).mean(1)
    # Neighbouring runs are alike, so that their differences tell how far the sample's share is off.
    error = float(np.sqrt(np.square(np.diff(below)).mean() / 2 / len(runs))) if len(runs) > 1 else 1.0
    edges = [(share + sign * (ENDS * error + 1 / len(sample))) * len(sample) for sign in (-1, 1)]
    first, last = (int(np.clip(edge, 0, len(sample) - 1)) for edge in edges)
    return int(sample[first]), int(sample[last]), BINS, _width(sample[first : last + 1])


def _width(codes: Bits) -> int:
    """The bits of a bin in which nearly all codes are its first: differences of bfloat16 numbers end on zeros."""
    most = max(int(codes[-1] - codes[0]).bit_length() - FINE, 0)
    return next((bits for bits in range(most, 0, -1) if (codes & ((1 << bits) - 1) != 0).mean() < RARE), 0)


def _in_place(values: Bits) -> Bits:
    """The codes of float32 values, in their place."""
    bits = values.view(np.uint32)
    bits ^= (values.view(np.int32) >> 31).view(np.uint32) | np.uint32(1 << 31)
    return bits


def _codes(values: Tensor) -> Tensor:
    """Integers from 0 to 2^32 - 1 in the order of the float32 values."""
    bits = values.contiguous().view(torch.int32).long()
    return torch.where(bits < 0, ~bits, bits + 2**31)


def _from_codes(codes: Tensor) -> Tensor:
    bits = torch.where(codes < 2**31, ~codes, codes - 2**31)
    return bits.int().view(torch.float32)
