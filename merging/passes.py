"""How often a method goes over the weights, and what it has against its values, found out on a few numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from merging.collected import Collected, of_tensor
from merging.errors import MergeError
from merging.groups import FEW, Group, Groups
from merging.header import Entry
from merging.lazy import torch
from merging.method import Method, Outcome
from merging.plan import Plan
from merging.settings import Settings, depths


def values_of(work: Plan, settings: Settings, name: str, depth: float) -> dict[str, Any]:
    """The parameters for a tensor by argument name, of the experts that have it."""
    return of_those(settings, settings.of(name, depth), work.merged[name])


def of_those(settings: Settings, values: dict[str, Any], which: Sequence[int]) -> dict[str, Any]:
    """The values that settings have for a tensor, as the method wants them, of the experts that have it."""
    values = dict(values)
    for param in settings.method.params.values():
        if param.per_expert or param.by_expert:
            values[param.name] = [values[param.name][index] for index in which]
    return settings.method.filled(values, len(which))


def tensorwise(settings: Settings) -> bool:
    """Whether each tensor is surveyed on its own."""
    return settings.method.survey is not None and settings.fixed.get("scope") == "tensor"


def largest_unit(work: Plan, settings: Settings | None) -> int:
    """The largest number of entries that the method must see together."""
    return max(settings.method.unit(work.base.entries[name].row) for name in work.merged) if settings else 1


def passes(method: Method, values: dict[str, Any], few: bool) -> int:
    """How often the method's survey goes over entries that are few, or many, where all goes well.

    Raises MergeError when the method has something against its values.
    """
    return _tried(method, values, few)[0]


def readings(work: Plan, settings: Settings, whole: Collection[str]) -> dict[str, int]:
    """How often each tensor is read in all where no sample is taken, which would be many small readings.

    Ranks are then found in two passes. `whole` are the tensors that are merged with all their entries.
    """
    sizes = {name: work.base.entries[name].size for name in work.merged}
    first = next(iter(sizes))
    values = values_of(work, settings, first, depths(sizes)[first])
    if not tensorwise(settings):
        seldom = all(name in whole for name in sizes)
        surveyed = 0 if seldom else _without_sample(settings.method, values, sum(sizes.values()) <= FEW)
        return dict.fromkeys(sizes, 1 + surveyed)
    few, many = (_without_sample(settings.method, values, each) for each in (True, False))
    return {name: 1 if name in whole else 1 + (few if size <= FEW else many) for name, size in sizes.items()}


def _without_sample(method: Method, values: dict[str, Any], few: bool) -> int:
    count, _, sampled = _tried(method, values, few)
    return count + sampled


def outcome_of(work: Plan, settings: Settings, name: str, depth: float) -> Outcome:
    """What the method makes of a tiny tensor in the place of this one: of the same kind, with other numbers."""
    known, like = of_tensor(work, name), work.base.entries[name]
    return _tried(settings.method, values_of(work, settings, name, depth), True, like, known)[1]


def _tried(
    method: Method, values: dict[str, Any], few: bool, like: Entry | None = None, known: Collected | None = None
) -> tuple[int, Outcome, bool]:
    """How often the survey goes over a tensor, what comes out for two numbers in its place, and whether it samples."""
    count, sampled, experts = 0, False, len(values["weight"])
    numbers = torch.arange(2.0 * experts).reshape(experts, 2)
    group = Group(like.name if like else "", torch.zeros(2), numbers).weighed(values["weight"])
    group.axes, group.based, group.collected = like.shape if like else (2,), method.takes_base, known
    group.unit = method.unit(group.row)

    def read(piece: Group) -> Iterator[Group]:
        nonlocal count
        count += 1
        return piece.tiles()

    def sample(*_: Any) -> list[Any]:
        nonlocal sampled
        sampled = True
        return []

    groups = Groups([group], read, [group.size] * experts)
    groups.few, groups.sample = few, sample  # type: ignore[assignment,method-assign]
    outcome = method.outcome(group, method.look(groups, values), values)
    return count, outcome, sampled


def all_passes(work: Plan, settings: Settings) -> dict[str, int]:
    """How often the survey goes over each tensor."""
    sizes = {name: work.base.entries[name].size for name in work.merged}
    first = next(iter(sizes))
    values = values_of(work, settings, first, depths(sizes)[first])
    if not tensorwise(settings):
        return dict.fromkeys(sizes, passes(settings.method, values, few=sum(sizes.values()) <= FEW))
    few, many = (passes(settings.method, values, each) for each in (True, False))
    return {name: few if size <= FEW else many for name, size in sizes.items()}


def objections(work: Plan, settings: Settings) -> Iterator[str]:
    """What the method has against its values, for the tensors where they may be others."""
    method, depth = settings.method, depths(work.merged)
    for name, which in work.merged.items():
        if words := method.miscounted(len(which)):
            yield f"`{name}`: {words}, and no more have this tensor. Choose another method."
            return
    tried = set()
    for name, which in work.merged.items():
        known = f"{which} {settings.of(name, depth[name])}"
        if known in tried:
            continue
        tried.add(known)
        try:
            passes(method, values_of(work, settings, name, depth[name]), few=True)
        except MergeError as error:
            yield str(error) if settings.constant else f"`{name}`: {error}"
            return
