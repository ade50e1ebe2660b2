"""One tensor seen close: how far its entries moved, and who keeps which.

What is looked at is bounded: of a large tensor, runs of entries spread evenly over it stand for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from merging.errors import MergeError
from merging.header import Entry
from merging.lazy import torch
from merging.lens import Lens
from merging.method import Blend, Outcome
from merging.plan import Plan
from merging.sampled import read_runs, spread

if TYPE_CHECKING:
    from torch import Tensor

LOOKED, RUN = 1 << 20, 256  # entries that histograms are of, and how many of these lie side by side
POINTS, NEAR = 2000, 16  # the same of scatters
DECADES = 6  # of magnitude, between the largest entry and what a logarithmic histogram calls nothing
MARKS = ("none", "first", "second", "both")  # who keeps an entry, by what `Scatter.kept` says


@dataclass(frozen=True)
class Histogram:
    """How far the entries of a tensor moved, for each expert that has it."""

    experts: tuple[str, ...]
    edges: Tensor  # (bins + 1), ascending, the same for all experts; symmetric about 0, with 0 in the middle bin
    counts: Tensor  # (experts, bins)
    zeros: Tensor  # (experts): entries that did not move at all, which the middle bin counts too
    looked: int  # entries of each expert that were looked at
    size: int  # and that there are


@dataclass(frozen=True)
class Scatter:
    """One expert's task vector against another's, at some entries."""

    experts: tuple[str, str]
    shape: tuple[int, ...]  # of the tensor, for rows and columns: see `tracing.index_of`
    places: Tensor  # (points), in the tensor laid flat
    tau: Tensor  # (2, points)
    kept: Tensor | None  # (points), into MARKS: who puts the entry into the merge; None where it is no one's alone


def histogram(work: Plan, name: str, bins: int = 61, scale: Literal["log", "linear"] = "log") -> Histogram:
    """Count the entries of each expert's task vector by size and sign, in an odd number of bins.

    On a logarithmic scale all bins on one side of 0 span the same factor, six decades in all; what is smaller is in
    the middle bin. MergeError where a number is not finite.
    """
    size = merged_entry(work, name).size
    _, rows = read_runs(work, name, spread(size, LOOKED, RUN))
    tau = finite(rows[1:] - rows[0], name)
    largest = float(tau.abs().max()) or 1.0
    side = bins // 2
    if scale == "log":
        positive = largest * torch.logspace(-DECADES, 0, side + 1, dtype=torch.float64)
    else:
        positive = largest * (2 * torch.arange(side + 1, dtype=torch.float64) + 1) / (2 * side + 1)
    edges = torch.cat([-positive.flip(0), positive])
    inner = edges[1:-1].contiguous()  # what is at an end is in the last bin
    counts = torch.stack([torch.bincount(torch.bucketize(row.double(), inner), minlength=2 * side + 1) for row in tau])
    return Histogram(names_of(work, name), edges, counts, (tau == 0).sum(1), tau.shape[1], size)


def scatter(seen: Lens, one: int, other: int, most: int = POINTS) -> Scatter:
    """Two experts' task vectors at up to so many entries, and who of them puts each into the merge as it is set.

    The experts are numbered as in the plan; MergeError where one lacks the tensor or a number is not finite.
    """
    work, name = seen.work, seen.name
    numbers = [_number(work, name, index) for index in (one, other)]
    runs = spread(seen.size, most, NEAR)
    places, rows = read_runs(work, name, runs)
    tau = finite(rows[1:] - rows[0], name)[numbers]
    kept = None
    if not seen.whole:
        first, second = torch.cat([_kept(seen, run) for run in runs], 1)[numbers]
        kept = first.int() + 2 * second.int()
    names = work.experts[one].name, work.experts[other].name
    return Scatter(names, seen.shape, places, tau, kept)


def _kept(seen: Lens, run: range) -> Tensor:
    """Whether each expert enters the merge of a run's entries, (experts, entries)."""
    unit = seen.unit
    start = run.start // unit * unit
    group = seen.run(start, min(-(-run.stop // unit) * unit, seen.size))
    shares = _shares(seen.outcome(group), group.vectors)
    return shares[:, run.start - start : run.stop - start] != 0


def _shares(outcome: Outcome, vectors: Tensor) -> Tensor:
    if isinstance(outcome, Blend):
        return outcome.shares()
    assert hasattr(outcome, "values")
    return (outcome.values[:, None] != 0) * vectors


def merged_entry(work: Plan, name: str) -> Entry:
    """What the header says of a merged tensor; MergeError where it is none."""
    if name not in work.merged:
        raise MergeError(f"`{name}` is not merged. Choose a tensor that is.")
    return work.base.entries[name]


def names_of(work: Plan, name: str) -> tuple[str, ...]:
    """The names of the experts that have a tensor."""
    return tuple(work.experts[index].name for index in work.merged[name])


def _number(work: Plan, name: str, index: int) -> int:
    """The place of an expert of the plan among those that have a tensor."""
    if index not in work.merged[name]:
        raise MergeError(f"{work.experts[index].name} has no `{name}`. Choose another expert.")
    return work.merged[name].index(index)


def finite(values: Tensor, name: str) -> Tensor:
    """The values; MergeError where some are infinite or not a number."""
    if not values.isfinite().all():
        raise MergeError(f"`{name}` holds NaN or infinity. Choose another tensor, or another model.")
    return values
