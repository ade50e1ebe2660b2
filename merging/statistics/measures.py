"""What is noted of one tile of task vectors. The torch code here defines what `kernels.statistics` computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from merging import kernels
from merging.gram import products
from merging.groups import Bits, Group, Stored
from merging.lazy import torch
from merging.statistics.probe import Sampler
from merging.vectors import squared_norms

if TYPE_CHECKING:
    from torch import Tensor

BINS = 1 << 15  # of magnitudes: the upper half of a float32 without its sign


@dataclass(frozen=True)
class Tally:
    """What is counted over the entries of a piece of a tensor."""

    counts: Bits  # (experts, BINS), by magnitude
    still: Bits  # (experts), entries that did not move at all
    both: Bits  # (experts, experts), entries that both experts moved
    conflicts: Bits  # (experts, experts), those that they moved to different signs

    @staticmethod
    def empty(experts: int) -> Tally:
        pairs = np.zeros((2, experts, experts), np.int64)
        return Tally(np.zeros((experts, BINS), np.int64), np.zeros(experts, np.int64), *pairs)

    def add(self, other: Tally) -> None:
        for mine, theirs in ((self.counts, other.counts), (self.still, other.still)):
            mine += theirs
        for mine, theirs in ((self.both, other.both), (self.conflicts, other.conflicts)):
            mine += theirs


Measured = tuple[Bits, Bits, Bits]  # squares, products and powers: see `Look.tile`


class Look:
    """The first pass over some tiles of one tensor: counts and samples what is in them, and measures each."""

    def __init__(self, experts: int, samplers: Sequence[Sampler] = ()) -> None:
        self.tally, self.samplers = Tally.empty(experts), samplers
        self.tables: Bits | None = None  # where kernels count: some for each expert, (experts, tables, BINS)

    def tile(self, group: Group) -> Measured:
        """The squared norms of task vectors, (experts), and their products with the base, (1 + experts, 1 + experts).

        They are those of a merge, to the last digit. And the sums of first, third and fourth powers of the entries, (3,
        experts); all in float64.
        """
        for sampler in self.samplers:
            sampler.take(group)
        if group.fused:
            from merging.kernels import statistics

            found: Measured = statistics.look(group.bits, *self._counted())
            return found
        self._count(group)
        powers = [group.tau.cpu().flatten(1).double().pow(power).sum(1) for power in (1, 3, 4)]
        return squared_norms(group).numpy(), products(group).numpy(), torch.stack(powers).numpy()

    def stored(self, stored: Stored) -> Measured | None:
        """The same of each tile of a piece in files, (tiles, ...); None where it cannot be read, and all is as it was.

        What is sampled then is sampled again.
        """
        from merging.kernels import survey

        experts, tiles, none = len(self.tally.still), -(-stored.size // stored.tile), np.zeros((0, 0), np.uint32)
        measured = (
            np.empty((tiles, experts)),
            np.empty((tiles, experts + 1, experts + 1)),
            np.empty((tiles, 3, experts)),
        )
        samples = [(sampler.starts, sampler.length, sampler.bits) for sampler in self.samplers]
        nothing = (np.zeros(0, np.int64), 1, none)
        two = (*samples, nothing, nothing)[:2]
        if survey.look(*stored.place, stored.size, two, self._counted(), *measured):
            return measured
        self.tally, self.tables = Tally.empty(experts), None
        return None

    def _count(self, group: Group) -> None:
        tau = group.tau.cpu().flatten(1)
        bins = (tau.abs().view(torch.int32) >> 16).long()
        self.tally.counts[:] += np.stack([row.bincount(minlength=BINS).numpy() for row in bins])
        self.tally.still[:] += (tau == 0).sum(1).numpy()
        both, conflicts = signs(tau)
        self.tally.both[:] += both
        self.tally.conflicts[:] += conflicts

    def _counted(self) -> tuple[Bits, Bits, Bits, Bits]:
        """What kernels add to."""
        if self.tables is None:
            from merging.kernels import statistics

            shape = len(self.tally.still), statistics.TABLES, BINS
            memory = kernels.scratch("counts", (shape[0], shape[1] * BINS), np.uint32)
            memory[:] = 0
            self.tables = memory.reshape(shape)
        return self.tables, self.tally.still, self.tally.both, self.tally.conflicts

    def counted(self) -> Tally:
        """All that was counted. Asked for once, by the thread that looked."""
        if self.tables is not None:
            for table in self.tables.swapaxes(0, 1):
                self.tally.counts[:] += table
            self.tally.both[:], self.tally.conflicts[:] = _whole(self.tally.both), _whole(self.tally.conflicts)
        return self.tally


@dataclass(frozen=True)
class Left:
    """What trimming leaves of the pairs of experts in some entries, (densities, experts, experts)."""

    both: Bits  # entries that are left of both; while they are counted, the lower halves alone
    conflicts: Bits  # those of different signs

    @staticmethod
    def empty(experts: int, densities: int) -> Left:
        return Left(*np.zeros((2, densities, experts, experts), np.int64))

    def add(self, other: Left) -> None:
        """Take over what another counted, in full."""
        for mine, theirs in ((self.both, other.both), (self.conflicts, other.conflicts)):
            mine += _whole(theirs)


def trimmed(group: Group, thresholds: Tensor, into: Left) -> Bits:
    """The inner products of task vectors of which entries below thresholds are 0, (densities, experts, experts).

    `thresholds` is (experts, densities), float32. What is left is counted `into` the other.
    """
    if group.fused:
        from merging.kernels import statistics

        found: Bits = statistics.trimmed(group.bits, thresholds.numpy(), into.both, into.conflicts)
        return found
    tau, left = group.tau.reshape(len(group.bits) - 1, -1).cpu(), []
    for density, least in enumerate(thresholds.T):
        kept = torch.where(tau.abs() >= least[:, None], tau, 0.0)
        both, conflicts = signs(kept)
        into.both[density] += np.tril(both)
        into.conflicts[density] += np.tril(conflicts)
        left.append(kept.double() @ kept.double().T)
    return torch.stack(left).numpy()


def trimmed_in(stored: Stored, thresholds: Tensor, into: Left) -> Bits | None:
    """The same of each tile of a piece in files, (tiles, ...); None where it cannot be read, and nothing is counted."""
    from merging.kernels import survey

    experts, densities = thresholds.shape
    counted = Left.empty(experts, densities)
    found = np.empty((-(-stored.size // stored.tile), densities, experts, experts))
    known = thresholds.numpy(), counted.both, counted.conflicts
    if not survey.trimmed(*stored.place, stored.size, *known, found):
        return None
    into.both[:] += counted.both
    into.conflicts[:] += counted.conflicts
    return found


def signs(tau: Tensor) -> tuple[Bits, Bits]:
    """In how many entries each pair of rows is not 0, and in how many of different signs, (rows, rows) each."""
    up, down = (tau > 0).double(), (tau < 0).double()
    moved, apart = up + down, up @ down.T
    return (moved @ moved.T).long().numpy(), (apart + apart.T).long().numpy()


def _whole(lower: Bits) -> Bits:
    """Tables of pairs, (..., rows, rows), of which the lower halves are filled, in full."""
    full: Bits = np.tril(lower) + np.tril(lower, -1).swapaxes(-1, -2)
    return full
