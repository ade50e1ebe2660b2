"""Merging tensors that are in memory: for the screen's what-if, for tests and for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.chunks import writer
from merging.errors import MergeError
from merging.groups import Group, Groups
from merging.lazy import torch
from merging.method import Method, Outcome

if TYPE_CHECKING:
    from torch import Tensor


def outcomes(method: Method, values: dict[str, Any], model: dict[str, list[Group]]) -> Iterator[tuple[Group, Outcome]]:
    """How each chunk of the model is merged, tensor by tensor, after the method's survey of the scope.

    `model` holds the chunks of each tensor; `values` are by argument name, missing ones have their defaults.
    """
    for group, survey, known in _surveyed(method, values, model):
        yield group, method.outcome(group, survey, known)


def _surveyed(
    method: Method, values: dict[str, Any], model: dict[str, list[Group]]
) -> Iterator[tuple[Group, Any, dict[str, Any]]]:
    first = next(iter(model.values()))[0]
    values = method.filled(values, len(first.which))
    tensors = [[group.weighed(values["weight"]) for group in chunks] for chunks in model.values()]
    tensorwise = values.get("scope") == "tensor"
    survey = None if tensorwise else method.look(Groups.of(list(chain.from_iterable(tensors))), values)
    for chunks in tensors:
        if tensorwise:
            survey = method.look(Groups.of(chunks), values)
        for group in chunks:
            yield group, survey, values


def merge_groups(method: Method, groups: list[Group], **values: Any) -> Iterator[tuple[str, Tensor]]:
    """Merge tensors as a merge of models would, in float32; values by argument name and not by recipe key."""
    shapes = {group.name: group.shape for group in groups}
    for group, survey, known in _surveyed(method, values, {group.name: [group.cut(0, group.size)] for group in groups}):
        out = np.empty(group.size, np.uint32)
        if not writer(method, survey, known, group)(group, out):
            raise MergeError(f"`{group.name}` holds NaN or infinity, or its merge would.")
        yield group.name, torch.from_numpy(out.view(np.float32)).reshape(shapes[group.name])
