"""How one tile is merged: by a kernel where there is one for it, else by the torch code that defines the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.groups import Bits, Group, Stored, of_some
from merging.lazy import torch
from merging.method import FactorCoefficients, Method, ModelCoefficients, Outcome, TaskCoefficients, Whole

if TYPE_CHECKING:
    from torch import Tensor

Writer = Callable[[Group, Bits], bool]  # writes a tile's merge as bits; whether that and what it came from are finite


def writer(
    method: Method,
    survey: Any,
    values: dict[str, Any],
    like: Group,
    average: Callable[[FactorCoefficients], None] | None = None,
    remark: Callable[[str], Any] = lambda _: None,
) -> Writer:
    """What merges the tiles of one tensor, given its survey and values; `like` is any group of that tensor.

    `average` has adapters' updates of the tensor read as one from now on, as the only expert. `remark` is told what is
    odd about the coefficients.
    """
    device = like.device if method.entrywise else "cpu"  # a few numbers per expert stay here, in float64
    survey, values = of_some(survey, like.which, device), {**values, "weight": like.weight.to(device)}
    if not method.entrywise:
        outcome = method.outcome(like, survey, values)
        if isinstance(outcome, FactorCoefficients) and average:
            average(outcome)
            outcome = TaskCoefficients(torch.tensor([outcome.scaling]))
        if isinstance(outcome, TaskCoefficients) and outcome.note:
            remark(outcome.note)
        return _weighted(outcome, like.fused)
    if like.fused and method.fused and (kernel := method.fused(survey, values)):
        return kernel
    return lambda group, out: _plainly(method.outcome(group, survey, values), group, out)


def _weighted(outcome: Outcome, fused: bool) -> Writer:
    some_of_base = isinstance(outcome, TaskCoefficients) and outcome.base != 1  # so seldom that no kernel is there
    if not fused or some_of_base or not isinstance(outcome, TaskCoefficients | ModelCoefficients):
        return lambda group, out: _plainly(outcome, group, out)
    return WeightedSum(outcome.values.cpu().numpy(), isinstance(outcome, TaskCoefficients))


@dataclass(frozen=True)
class WeightedSum:
    """Merges by one number per expert: tiles that were read, or at once what is in files."""

    weights: Bits  # (experts), float32
    from_base: bool

    def __call__(self, group: Group, out: Bits) -> bool:
        from merging.kernels import sums

        finite: bool = sums.weighted_sum(group.bits, self.weights, self.from_base, out)
        return finite

    def from_files(self, stored: Stored, out: Bits, number: int, place: int) -> bool:
        """Read, merge and write what is stored there; whether all went well. See `kernels.files.sum_up`."""
        from merging.kernels import files

        done: bool = files.sum_up(*stored.place, self.weights, self.from_base, out, number, place)
        return done


def _plainly(outcome: Outcome, group: Group, out: Bits) -> bool:
    assert not isinstance(outcome, FactorCoefficients), "these are no weights of what was read"
    assert not isinstance(outcome, Whole) or group.shape == group.axes, "there are more entries than those of a tile"
    based = group.based and not isinstance(outcome, ModelCoefficients)
    if not _finite(group.experts) or (based and not _finite(group.base)):
        return False
    merged = outcome.merged(group)
    signed, dtype = (np.int16, torch.bfloat16) if out.itemsize == 2 else (np.int32, torch.float32)
    lowered = merged.to(dtype)
    torch.from_numpy(out.view(signed)).view(dtype).copy_(lowered.reshape(-1))
    return _finite(lowered)


def _finite(values: Tensor) -> bool:
    least, largest = values.aminmax()
    return bool(least > -torch.inf) and bool(largest < torch.inf)
