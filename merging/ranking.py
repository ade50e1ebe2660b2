"""Exact order statistics over a stream of any length, in constant memory and usually one pass.

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

from merging import kernels
from merging.groups import Bits, Group, Groups
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

BINS = 1 << 17  # of an interval
SAMPLED, RUN = 512, 1024  # runs of entries that are sampled, and how many each has
ENDS = 4  # standard errors to both sides of what the sample suggests
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
    low, shift = _guess(groups, values, wanted)
    codes = np.full(wanted.shape, -1, np.int64)
    while (codes < 0).any():
        tally = _pass(groups, values, low, shift)
        if not all(int(code) in FINITE for code in (tally.least.min(), tally.largest.max())):
            raise NotFiniteError
        for place in np.ndindex(*wanted.shape):
            _narrow(tally, place, int(wanted[place]), groups.sizes[place[0]], low, shift, codes)
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
    """What one worker has counted: by expert and rank, and the extreme codes of each expert."""

    below: Bits
    counts: Bits
    least: Bits
    largest: Bits


def _pass(groups: Groups, values: Values, low: Bits, shift: Bits) -> Tally:
    experts = len(low)

    def begin() -> Tally:
        edges = np.full(experts, 0xFFFFFFFF, np.uint32), np.zeros(experts, np.uint32)
        return Tally(np.zeros(low.shape, np.int64), np.zeros((*low.shape, BINS), np.int64), *edges)

    tallies = groups.fold(begin, lambda group, mine: _count(values(group), group.which, low, shift, mine))
    return Tally(
        sum(one.below for one in tallies),
        sum(one.counts for one in tallies),
        np.min([one.least for one in tallies], axis=0),
        np.max([one.largest for one in tallies], axis=0),
    )


def _count(values: Tensor, which: tuple[int, ...], low: Bits, shift: Bits, into: Tally) -> None:
    """Add a chunk's values, (experts, entries), to what was counted."""
    if values.device.type == "cpu" and kernels.usable():
        from merging.kernels import ranks

        experts = np.array(which)
        ranks.tally(values.numpy(), experts, low, shift, into.below, into.counts, into.least, into.largest)
        return
    for expert, codes in zip(which, _codes(values), strict=True):
        into.least[expert] = min(into.least[expert], int(codes.min()))
        into.largest[expert] = max(into.largest[expert], int(codes.max()))
        for rank, (start, bits) in enumerate(zip(low[expert].tolist(), shift[expert].tolist(), strict=True)):
            into.below[expert, rank] += int((codes < start).sum())
            bins = (codes[codes >= start] - start) >> bits
            into.counts[expert, rank] += torch.bincount(bins[bins < BINS], minlength=BINS).cpu().numpy()


def _narrow(tally: Tally, place: tuple[int, ...], rank: int, entries: int, low: Bits, shift: Bits, codes: Bits) -> None:
    """Find a rank's code in what was counted, or the interval in which to look for it next."""
    expert = place[0]
    if rank in (0, entries - 1):
        codes[place] = (tally.largest if rank else tally.least)[expert]
        return
    start, bits, before = int(low[place]), int(shift[place]), int(tally.below[place])
    ends = before + tally.counts[place].cumsum()
    if rank < before:
        low[place], shift[place] = _around(0, start)
    elif rank >= ends[-1]:
        low[place], shift[place] = _around(start + (BINS << bits), 1 << 32)
    else:
        place_in = int(np.searchsorted(ends, rank, side="right"))
        if bits == 0:
            codes[place] = start + place_in
        else:
            low[place], shift[place] = _around(start + (place_in << bits), start + ((place_in + 1) << bits))


def _around(start: int, stop: int) -> tuple[int, int]:
    """An interval of codes as its lowest one and the bits by which bins are coarser than codes."""
    width = max(stop - start, 1)
    return start, max(0, (width - 1).bit_length() - (BINS - 1).bit_length())


def _guess(groups: Groups, values: Values, wanted: Bits) -> tuple[Bits, Bits]:
    """The intervals to begin with: where a sample of runs, evenly spread, suggests that the ranks are."""
    low, shift = np.zeros(wanted.shape, np.uint32), np.full(wanted.shape, _around(0, 1 << 32)[1], np.uint32)
    runs = groups.sample(lambda group: (group.which, _codes(values(group)).cpu().numpy()), SAMPLED, RUN)
    for expert, size in enumerate(groups.sizes):
        rows = [codes[which.index(expert)] for which, codes in runs if expert in which]
        if len(rows) > SAMPLED // 2:
            for place, rank in enumerate(wanted[expert].tolist()):
                low[expert, place], shift[expert, place] = _suggested(rows, rank / size)
    ends = (wanted == 0) | (wanted == np.array(groups.sizes)[:, None] - 1)
    low[ends], shift[ends] = 0xFFFFFFFF, 0  # every worker sees the extremes: nothing need be counted
    return low, shift


def _suggested(rows: list[Any], share: float) -> tuple[int, int]:
    """The interval of codes in which the entry of that share from below lies, with some certainty."""
    codes = np.concatenate(rows)
    middle = np.partition(codes, place := min(int(share * len(codes)), len(codes) - 1))[place]
    below = np.array([(row < middle).mean() for row in rows])
    # Neighbouring runs are alike, so that their differences tell how far the sample's share is off.
    error = float(np.sqrt(np.square(np.diff(below)).mean() / 2 / len(rows))) + 1 / len(codes)
    first, last = (int(np.clip((share + sign * ENDS * error) * len(codes), 0, len(codes) - 1)) for sign in (-1, 1))
    edges = np.partition(codes, [first, last])
    return _around(int(edges[first]), int(edges[last]) + 1)


def _codes(values: Tensor) -> Tensor:
    """Integers from 0 to 2^32 - 1 in the order of the float32 values."""
    bits = values.contiguous().view(torch.int32).long()
    return torch.where(bits < 0, ~bits, bits + 2**31)


def _from_codes(codes: Tensor) -> Tensor:
    bits = torch.where(codes < 2**31, ~codes, codes - 2**31)
    return bits.int().view(torch.float32)
