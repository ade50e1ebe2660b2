"""How one chunk is merged: by a kernel where there is one for it, else by the torch code that defines the method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.groups import Bits, Group, of_some
from merging.lazy import torch
from merging.method import Blend, Method, ModelCoefficients, Outcome, TaskCoefficients

if TYPE_CHECKING:
    from torch import Tensor

Writer = Callable[
    [Group, Bits], bool
]  # writes the merge of a chunk as bits; whether it and what it came from are finite


def writer(method: Method, survey: Any, values: dict[str, Any], like: Group) -> Writer:
    """What merges the chunks of one tensor, given its survey and values; `like` is any group of that tensor."""
    device = like.device if method.entrywise else "cpu"  # a few numbers per expert stay here, in float64
    survey, values = of_some(survey, like.which, device), {**values, "weight": like.weight.to(device)}
    if not method.entrywise:
        return _weighted(method.outcome(like, survey, values))

    def write(group: Group, out: Bits) -> bool:
        if group.fused and method.fused and (finite := method.fused(group, survey, values, out)) is not None:
            return finite
        return _plainly(method.outcome(group, survey, values), group, out)

    return write


def _weighted(outcome: Outcome) -> Writer:
    assert not isinstance(outcome, Blend)
    weights = outcome.values.cpu().numpy()

    def write(group: Group, out: Bits) -> bool:
        if not group.fused:
            return _plainly(outcome, group, out)
        from merging.kernels import sums

        finite: bool = sums.weighted_sum(group.bits, weights, isinstance(outcome, TaskCoefficients), out)
        return finite

    return write


def _plainly(outcome: Outcome, group: Group, out: Bits) -> bool:
    merged = outcome.merged(group)
    signed, dtype = (np.int16, torch.bfloat16) if out.itemsize == 2 else (np.int32, torch.float32)
    lowered = merged.to(dtype)
    torch.from_numpy(out.view(signed)).view(dtype).copy_(lowered)
    read = group.experts if isinstance(outcome, ModelCoefficients) else torch.cat([group.base[None], group.experts])
    return _finite(lowered) and _finite(read)


def _finite(values: Tensor) -> bool:
    return bool(values.float().abs().max() < torch.inf)
