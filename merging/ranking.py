"""Exact order statistics over a stream of any length, in constant memory and usually one pass.

The order of float32 numbers is that of their bits, read as integers: their codes. A rank is looked for in an interval
of codes, which a small sample suggests: one pass counts what lies below the interval, and what lies in each bin of it.
Where the interval was too coarse, or was the wrong one, a narrower or another one is looked at in the next pass. The
sample decides how many passes there are, never what is found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from merging import kernels
from merging.groups import Bits, Group, Groups
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

BINS = 1 << 21  # of an interval at most
NOWHERE = (1 << 32) - 1, 1 << 32  # an interval that costs nothing to look in
COARSE = 1 << 16  # bins to begin with where there is no sample
SAMPLED, RUN = 1000, 1024  # runs of entries that are sampled at least, and how many each has
ENDS = 2.5  # standard errors to both sides of what the sample suggests
FINITE = range(0x00800000, 0xFF800000)  # the codes of finite numbers

Ranks = Callable[[int, int], list[int]]
Values = Callable[[Group], "Tensor"]


class NotFiniteError(Exception):
    """Some number is infinite or not a number, in the tensor of that name or anywhere; the engine finds out which."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.name = name


def order_statistics(groups: Groups, values: Values, ranks: Ranks) -> Tensor:
    """For each expert, the values of the ranks wanted, (experts, ranks).

    `values` of all groups, (experts, entries), are ranked together, ascending and counted from 0; `ranks` is asked for
    the ranks wanted, by the number of an expert's entries and the number of the expert.
    """
    wanted = np.array([ranks(size, expert) for expert, size in enumerate(groups.sizes)])
    if groups.few:
        return _sorted(groups, values, wanted)
    places = _guess(groups, values, wanted)
    codes = np.full(wanted.shape, -1, np.int64)
    while (codes < 0).any():
        tally = _pass(groups, values, places)
        if not all(int(code) in FINITE for code in (tally.least.min(), tally.largest.max())):
            raise NotFiniteError
        ends = places.ends  # as they were counted by, before any interval is changed
        for place in np.ndindex(*wanted.shape):
            if codes[place] < 0:
                rank, entries = int(wanted[place]), groups.sizes[place[0]]
                codes[place] = places.narrowed(tally, place, int(ends[place]), rank, entries)
    return _from_codes(torch.from_numpy(codes))


def _sorted(groups: Groups, values: Values, wanted: Bits) -> Tensor:
    """The same for a few numbers, which all fit the memory."""
    found: list[list[Tensor]] = [[] for _ in groups.sizes]

    def visit(_: int, group: Group) -> None:
        for expert, row in zip(group.which, values(group).cpu(), strict=True):
            found[expert].append(row.clone())

    groups.each(visit)
    rows = [torch.cat(parts).sort().values for parts in found]
    if not all(row.isfinite().all() for row in rows):
        raise NotFiniteError
    return torch.stack([row[places] for row, places in zip(rows, wanted.tolist(), strict=True)])


@dataclass
class Tally:
    """What one worker has counted: below the intervals and in their bins, and the extreme codes of each expert."""

    below: Bits  # (experts, ranks)
    counts: Bits  # the bins of all intervals, one interval after the other
    least: Bits  # (experts)
    largest: Bits


class Places:
    """The intervals in which ranks are looked for, (experts, ranks): the lowest code, bits that a bin is wide, bins."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.low, self.shift = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)
        self.bins = np.ones(shape, np.int64)

    def set(self, place: tuple[int, ...], start: int, stop: int, most: int = BINS) -> None:
        """Look for a rank among the codes from `start` to before `stop`."""
        width = max(stop - start, 1)
        bits = max(0, (width - 1).bit_length() - (most - 1).bit_length())
        self.low[place], self.shift[place], self.bins[place] = start, bits, ((width - 1) >> bits) + 1

    @property
    def ends(self) -> Bits:
        """Where the bins of each interval end among those of all, (experts, ranks)."""
        return self.bins.cumsum().reshape(self.bins.shape)

    def narrowed(self, tally: Tally, place: tuple[int, ...], last: int, rank: int, entries: int) -> int:
        """A rank's code by what was counted, in the bins that end at `last`; or -1, and a new interval to look in."""
        if rank in (0, entries - 1):
            return int((tally.largest if rank else tally.least)[place[0]])
        start, bits, before = int(self.low[place]), int(self.shift[place]), int(tally.below[place])
        bins = int(self.bins[place])
        ends = before + tally.counts[last - bins : last].cumsum(dtype=np.int64)
        if rank < before:
            self.set(place, 0, start)
        elif rank >= ends[-1]:
            self.set(place, start + (bins << bits), 1 << 32)
        else:
            code = start + (int(np.searchsorted(ends, rank, side="right")) << bits)
            if bits == 0:
                self.set(place, *NOWHERE)
                return code
            self.set(place, code, code + (1 << bits))
        return -1


def _pass(groups: Groups, values: Values, places: Places) -> Tally:
    experts, ends = len(places.low), places.ends
    dtype = np.uint32 if max(groups.sizes) < 1 << 32 else np.int64  # so that no bin overflows

    def begin() -> Tally:
        edges = np.full(experts, 0xFFFFFFFF, np.uint32), np.zeros(experts, np.uint32)
        return Tally(np.zeros(ends.shape, np.int64), np.zeros(ends[-1, -1], dtype), *edges)

    tallies: list[Tally] = groups.fold(
        begin, lambda group, mine: _count(values(group), group.which, places, ends, mine)
    )
    first = tallies[0]
    for other in tallies[1:]:
        first.below += other.below
        first.counts += other.counts
        np.minimum(first.least, other.least, out=first.least)
        np.maximum(first.largest, other.largest, out=first.largest)
    return first


def _count(values: Tensor, which: tuple[int, ...], places: Places, ends: Bits, into: Tally) -> None:
    """Add a chunk's values, (experts, entries), to what was counted."""
    if values.device.type == "cpu" and kernels.usable():
        from merging.kernels import ranks

        intervals = places.low, places.shift, ends - places.bins, ends
        ranks.tally(values.numpy(), np.array(which), *intervals, into.below, into.counts, into.least, into.largest)
        return
    for expert, codes in zip(which, _codes(values), strict=True):
        into.least[expert] = min(into.least[expert], int(codes.min()))
        into.largest[expert] = max(into.largest[expert], int(codes.max()))
        for rank, last in enumerate(ends[expert].tolist()):
            start, bits, size = (int(part[expert, rank]) for part in (places.low, places.shift, places.bins))
            into.below[expert, rank] += int((codes < start).sum())
            bins = (codes[codes >= start] - start) >> bits
            found = torch.bincount(bins[bins < size], minlength=size).cpu().numpy()
            into.counts[last - size : last] += found.astype(into.counts.dtype)


def _guess(groups: Groups, values: Values, wanted: Bits) -> Places:
    """The intervals to begin with: where a sample of runs, evenly spread, suggests that the ranks are."""
    places = Places(wanted.shape)
    found = groups.sample(lambda group: (group.which, values(group).cpu().clone()), SAMPLED, RUN)
    for expert, size in enumerate(groups.sizes):
        rows = [run[which.index(expert)] for which, run in found if expert in which and run.shape[1] == RUN]
        runs = _codes(torch.stack(rows)).numpy().astype(np.uint32) if rows else np.zeros((0, RUN), np.uint32)
        sample = np.sort(runs, axis=None)
        for place, rank in enumerate(wanted[expert].tolist()):
            if rank in (0, size - 1):  # every worker sees the extremes: nothing need be counted
                places.set((expert, place), *NOWHERE)
            elif rows:
                places.set((expert, place), *_suggested(runs, sample, rank / size))
            else:
                places.set((expert, place), 0, 1 << 32, COARSE)
    return places


def _suggested(runs: Bits, sample: Bits, share: float) -> tuple[int, int]:
    """The interval of codes in which the entry of that share from below lies, with some certainty."""
    below = (runs < sample[min(int(share * len(sample)), len(sample) - 1)]).mean(1)
    # Neighbouring runs are alike, so that their differences tell how far the sample's share is off.
    error = float(np.sqrt(np.square(np.diff(below)).mean() / 2 / len(runs))) if len(runs) > 1 else 1.0
    edges = [(share + sign * (ENDS * error + 1 / len(sample))) * len(sample) for sign in (-1, 1)]
    first, last = (sample[int(np.clip(edge, 0, len(sample) - 1))] for edge in edges)
    return int(first), int(last) + 1


def _codes(values: Tensor) -> Tensor:
    """Integers from 0 to 2^32 - 1 in the order of the float32 values."""
    bits = values.contiguous().view(torch.int32).long()
    return torch.where(bits < 0, ~bits, bits + 2**31)


def _from_codes(codes: Tensor) -> Tensor:
    bits = torch.where(codes < 2**31, ~codes, codes - 2**31)
    return bits.int().view(torch.float32)
