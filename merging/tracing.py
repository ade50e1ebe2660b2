"""A method's steps on a handful of a tensor's real entries, as its torch definition tells them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from merging.crew import Crew
from merging.errors import MergeError
from merging.findings import MEMORY
from merging.groups import Group
from merging.lazy import torch
from merging.lens import Lens
from merging.method import FactorCoefficients, Whole
from merging.plan import Plan
from merging.ranking import NotFiniteError
from merging.sampled import read_runs, spread
from merging.trace import Listener, Told, listening, tell
from merging.whole import cramped, made_whole

if TYPE_CHECKING:
    from torch import Tensor

LOOKED, RUN = 1 << 16, 256  # entries that telling ones are chosen from, and how many of these lie side by side
Why = Literal["large", "disputed", "typical", "small", "unmoved", "asked"]
SHOWN: dict[Why, int] = {"large": 4, "disputed": 3, "typical": 2, "small": 2, "unmoved": 1}  # at most, in this order


@dataclass(frozen=True)
class Pick:
    """One entry of a tensor, and why it is shown."""

    place: int  # in the tensor laid flat
    index: tuple[int, ...]  # along its axes: row and column of a matrix
    why: Why


@dataclass(frozen=True)
class Trace:
    """What a method does to some entries: from the task vectors, or the models where no base enters, to the merge."""

    name: str
    shape: tuple[int, ...]
    experts: tuple[str, ...]  # those that have the tensor, in the order of what is told for each
    picks: tuple[Pick, ...]  # in the order of what is told for each entry
    steps: tuple[Told, ...]
    estimated: bool  # whether thresholds and norms are those of a sample of the model, and not of all of it


def trace(
    seen: Lens, entries: Sequence[int] | None = None, *, memory: int = MEMORY, stop: threading.Event | None = None
) -> Trace:
    """Merge some entries by the method's torch definition and keep every step; telling entries if none are asked for.

    `entries` are places in the tensor laid flat. A tensor that is merged as a whole is merged, in so many bytes of
    memory; of others no more is read than these entries, or their rows. MergeError where an entry is not there, memory
    does not suffice or a number is not finite.
    """
    picks = picked(seen.work, seen.name, entries)
    if not picks:
        return Trace(seen.name, seen.shape, seen.experts, (), (), seen.estimated)
    steps = _of_whole(seen, picks, memory, stop) if seen.whole else _of_runs(seen, picks)
    if not all(told.values.isfinite().all() for told in (steps[0], steps[-1])):
        raise broken(seen.name)
    return Trace(seen.name, seen.shape, seen.experts, tuple(picks), tuple(steps), seen.estimated)


def picked(work: Plan, name: str, places: Sequence[int] | None) -> list[Pick]:
    """The entries at these places, or telling ones; MergeError where one is not there."""
    if places is None:
        return telling(work, name)
    entry = work.base.entries[name]
    for place in places:
        if not 0 <= place < entry.size:
            raise MergeError(f"`{name}` has {entry.size:,} entries, and none at {place}. Choose one from 0 on.")
    return [Pick(place, index_of(entry.shape, place), "asked") for place in places]


def index_of(shape: tuple[int, ...], place: int) -> tuple[int, ...]:
    """Where an entry of a tensor laid flat is along its axes."""
    return tuple(int(number) for number in np.unravel_index(place, shape)) if shape else ()


def broken(name: str) -> MergeError:
    """What is to be said where a number is not finite."""
    return MergeError(f"`{name}` holds NaN or infinity, or its merge would. Choose another tensor, or another model.")


def _of_runs(seen: Lens, picks: list[Pick]) -> list[Told]:
    """The steps of entries that are merged one by one, or row by row."""
    units: dict[int, list[int]] = {}  # the numbers of the picks in a run of what must be seen together
    for number, pick in enumerate(picks):
        units.setdefault(pick.place // seen.unit * seen.unit, []).append(number)
    heard = []
    for start, numbers in units.items():
        places = torch.tensor([picks[number].place - start for number in numbers])
        listener = Listener(places, len(seen.experts))
        with listening(listener):
            _merged(seen, start, min(start + seen.unit, seen.size))
        heard.append(listener.told)
    order = torch.tensor([number for numbers in units.values() for number in numbers]).argsort()
    return [_joined([told[label] for told in heard], order) for label in heard[0]]


def _joined(parts: list[Told], order: Tensor) -> Told:
    """One step of all entries; what is not told for each entry is the same in all runs."""
    if not parts[0].per.endswith("entry"):
        return parts[0]
    return replace(parts[0], values=torch.cat([part.values for part in parts], -1)[..., order])


def _merged(seen: Lens, start: int, stop: int) -> None:
    """Merge a run of entries, and tell how."""
    group = seen.run(start, stop)
    _begin(group)
    outcome = seen.outcome(group)
    if isinstance(outcome, FactorCoefficients):
        with seen.averaged(outcome):
            one = seen.run(start, stop)
            tell("product of the averaged factors", one.tau[0], "entry")
            tell("merged task vector", outcome.scaling * one.tau[0], "entry")
            tell("merged", one.base + outcome.scaling * one.tau[0], "entry")
    else:
        tell("merged", outcome.merged(group), "entry")


def _begin(group: Group) -> None:
    if group.based:
        tell("base", group.base, "entry")
    tell("task vectors" if group.based else "models", group.vectors)


def _of_whole(seen: Lens, picks: list[Pick], memory: int, stop: threading.Event | None) -> list[Told]:
    """The steps of a tensor that is merged with all its entries in memory."""
    listener = Listener(torch.tensor([pick.place for pick in picks]), len(seen.experts))

    def merge(outcome: Whole) -> None:
        tell("merged", made_whole(outcome, seen.stream, seen.name), "entry")

    with listening(listener):
        outcome = seen.outcome(seen.empty())
        assert isinstance(outcome, Whole)
        needed = round(4 * seen.size * (1 + len(seen.experts) + outcome.copies))
        for words in cramped(seen.work, {seen.name: needed}, memory, 0):
            raise MergeError(words)
        try:
            Crew(1, stop).run(merge, [outcome])
        except NotFiniteError:
            raise broken(seen.name) from None
    return list(listener.told.values())


def telling(work: Plan, name: str) -> list[Pick]:
    """About a dozen entries that show what a method does: large, disputed, typical, small and unmoved ones.

    They are chosen among entries all over the tensor, the same every time.
    """
    entry = work.base.entries[name]
    places, rows = read_runs(work, name, spread(entry.size, LOOKED, RUN))
    if not rows.isfinite().all():
        raise broken(name)
    picks, free = list[Pick](), torch.ones(len(places), dtype=torch.bool)
    for why, ranks in _ranked(rows[1:] - rows[0]).items():
        order = ranks.where(free, -torch.inf).sort(descending=True, stable=True)
        for rank, number in zip(order.values[: SHOWN[why]].tolist(), order.indices.tolist(), strict=False):
            if rank > -torch.inf:
                free[number] = False
                picks.append(Pick(int(places[number]), index_of(entry.shape, int(places[number])), why))
    return picks


def _ranked(tau: Tensor) -> dict[Why, Tensor]:
    """How well each entry of task vectors shows something, (entries); less than anything where it does not."""
    size = tau.abs().amax(0)
    moved, never = size > 0, -torch.inf
    against = torch.minimum(tau.amax(0), -tau.amin(0))  # the weaker side where experts differ in sign
    middle = size[moved].median() if moved.any() else size.new_zeros(())
    return {
        "large": size.where(moved, never),
        "disputed": against.where(against > 0, never),
        "typical": (-(size - middle).abs()).where(moved, never),
        "small": (-size).where(moved, never),
        "unmoved": torch.zeros_like(size).where(~moved, never),
    }
