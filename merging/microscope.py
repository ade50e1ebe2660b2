"""One tensor seen close: two experts' entries, and who keeps which. Of a large tensor, some stand for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import MergeError
from merging.header import Entry
from merging.lazy import torch
from merging.lens import Lens
from merging.method import Blend, Outcome
from merging.plan import Plan
from merging.sampled import read_runs, spread

if TYPE_CHECKING:
    from torch import Tensor

POINTS, NEAR = 2000, 16  # entries that scatters are of, and how many of these lie side by side
MARKS = ("none", "first", "second", "both")  # who keeps an entry, by what `Scatter.kept` says


@dataclass(frozen=True)
class Scatter:
    """One expert's task vector against another's, at some entries."""

    experts: tuple[str, str]
    shape: tuple[int, ...]  # of the tensor, for rows and columns: see `tracing.index_of`
    places: Tensor  # (points), in the tensor laid flat
    tau: Tensor  # (2, points)
    kept: Tensor | None  # (points), into MARKS: who puts the entry into the merge; None where it is no one's alone


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
