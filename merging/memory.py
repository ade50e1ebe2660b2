"""Merging tensors that are in memory: for the screen's what-if, for tests and for notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.errors import MergeError
from merging.groups import Group, Groups, of_some
from merging.lazy import torch
from merging.method import Method, Outcome
from merging.settings import depths
from merging.writer import writer

if TYPE_CHECKING:
    from torch import Tensor


def outcomes(method: Method, values: dict[str, Any], model: dict[str, list[Group]]) -> Iterator[tuple[Group, Outcome]]:
    """How each tile of the model is merged, tensor by tensor, after the method's survey of the scope.

    `model` holds the tiles of each tensor, of the experts that have it; `values` are by argument name and for all
    experts, missing ones have their defaults.
    """
    for group, survey, known in _surveyed(method, values, model):
        yield group, method.outcome(group, survey, known)


def of_experts(method: Method, values: dict[str, Any], which: Sequence[int]) -> dict[str, Any]:
    """The values of some of the experts, where each has its own."""
    own = {"weight", *(param.name for param in method.params.values() if param.per_expert or param.by_expert)}
    some = {name: [value[index] for index in which] if name in own else value for name, value in values.items()}
    return {**method.filled(some, len(which)), "weight": values["weight"][list(which)]}


def _surveyed(
    method: Method, values: dict[str, Any], model: dict[str, list[Group]]
) -> Iterator[tuple[Group, Any, dict[str, Any]]]:
    """Every tile with what the survey says of its experts, and their values."""
    experts = 1 + max(max(tiles[0].which) for tiles in model.values())
    values = method.filled(values, experts)
    known = [of_experts(method, values, tiles[0].which) for tiles in model.values()]
    depth = depths(model, lone=0.0)
    tensors = [
        [_ready(method, group, some, depth[name]) for group in tiles]
        for some, (name, tiles) in zip(known, model.items(), strict=True)
    ]
    tensorwise = values.get("scope") == "tensor"
    whole = None if tensorwise else method.look(Groups.of(list(chain.from_iterable(tensors))), values)
    for some, tiles in zip(known, tensors, strict=True):
        survey = method.look(Groups.of([_alone(group) for group in tiles]), some) if tensorwise else None
        for group in tiles:
            yield group, survey if tensorwise else of_some(whole, group.which), some


def _ready(method: Method, group: Group, values: dict[str, Any], depth: float) -> Group:
    """The group as the method will see it."""
    ready = group.weighed(values["weight"])
    ready.unit, ready.seed = method.unit(group.row), values.get("seed", 0)
    ready.depth, ready.based = depth, group.based and method.takes_base
    return ready


def _alone(group: Group) -> Group:
    """The group with its experts numbered as if there were no others."""
    alone = group.weighed(group.weight)
    alone.which, alone.numbers = tuple(range(len(group.which))), group.numbers or group.which
    return alone


def merge_groups(method: Method, groups: list[Group], **values: Any) -> Iterator[tuple[str, Tensor]]:
    """Merge tensors as a merge of models would, in float32.

    Values are by argument name and not by recipe key; `seed` may be among them.
    """
    shapes = {group.name: group.shape for group in groups}
    for group, survey, known in _surveyed(method, values, {group.name: [group.cut(0, group.size)] for group in groups}):
        alone, out = _alone(group), np.empty(group.size, np.uint32)  # its survey is of its own experts alone
        if method.whole:
            alone.shape = shapes[group.name]
        if not writer(method, survey, known, alone)(alone, out):
            raise MergeError(f"`{group.name}` holds NaN or infinity, or its merge would.")
        yield group.name, torch.from_numpy(out.view(np.float32)).reshape(shapes[group.name])
