"""How often a method goes over the weights, and what it has against its values, found out on a few numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from merging.errors import MergeError
from merging.groups import FEW, Group, Groups
from merging.lazy import torch
from merging.method import Method
from merging.plan import Plan
from merging.settings import Settings, depths


def values_of(work: Plan, settings: Settings, name: str, depth: float) -> dict[str, Any]:
    """The parameters for a tensor by argument name, of the experts that have it."""
    values, which = settings.of(name, depth), work.merged[name]
    for param in settings.method.params.values():
        if param.per_expert or param.by_expert:
            values[param.name] = [values[param.name][index] for index in which]
    return settings.method.filled(values, len(which))


def tensorwise(settings: Settings) -> bool:
    """Whether each tensor is surveyed on its own."""
    return settings.method.survey is not None and settings.fixed.get("scope") == "tensor"


def passes(method: Method, values: dict[str, Any], few: bool) -> int:
    """How often the method's survey goes over entries that are few, or many, where all goes well.

    Raises MergeError when the method has something against its values.
    """
    count, experts = 0, len(values["weight"])
    group = Group("", torch.zeros(2), torch.arange(2.0 * experts).reshape(experts, 2)).weighed(values["weight"])

    def read(piece: Group) -> Iterator[Group]:
        nonlocal count
        count += 1
        return piece.tiles()

    groups = Groups([group], read, [group.size] * experts)
    groups.few = few
    method.outcome(group, method.look(groups, values), values)
    return count


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
    depth = depths(work.merged)
    if settings.constant or settings.method.survey:
        names = list({which: name for name, which in work.merged.items()}.values())
    else:
        names = list(work.merged)
    for name in names:
        try:
            passes(settings.method, values_of(work, settings, name, depth[name]), few=True)
        except MergeError as error:
            yield str(error) if settings.constant else f"`{name}`: {error}"
            return
