"""What a merge method gives for a tensor: coefficients, entries, or what makes the whole of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from merging.groups import Group
from merging.lazy import torch
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TaskCoefficients:
    """The merge is `base` times the base model plus the sum of `values` times the task vectors.

    Where a survey is one of several tensors, `values` has an axis for these in front, and so have the others' below.
    """

    values: Tensor  # (experts)
    base: Any = 1.0  # a number; a list of them for several tensors
    note: str = ""  # what is odd about them, as half a sentence for the user

    def merged(self, group: Group) -> Tensor:
        step = _weighted_sum(self.values, group.tau, "weighted task vectors")
        tell("merged task vector", lambda: step + (self.base - 1) * group.base, "entry")
        merged: Tensor = self.base * group.base + step
        return merged


@dataclass(frozen=True)
class ModelCoefficients:
    """The merge is the sum of `values` times the experts; the base model does not enter."""

    values: Tensor  # (experts)

    def merged(self, group: Group) -> Tensor:
        return _weighted_sum(self.values, group.experts, "weighted models")


@dataclass(frozen=True)
class FactorCoefficients:
    """The merge is the base model plus `scaling` times B A, which are the sums of `ups` times the B_i, `downs` the A_i.

    For tensors that adapters change by s_i B_i A_i; the factors here are those times the root of s_i.
    """

    downs: Tensor  # (experts)
    ups: Tensor  # (experts)
    scaling: float

    @property
    def values(self) -> Tensor:
        """The weight with which each expert's own product enters; products of one's B with another's A come on top."""
        return self.scaling * self.downs * self.ups


@dataclass(frozen=True)
class Blend:
    """The merge is the base model plus `scaling` times the sum of `parts`, divided by `divisor`."""

    parts: Tensor  # (experts, *shape): what each expert puts in
    divisor: Tensor | float = 1.0  # (*shape)
    scaling: float = 1.0

    def merged(self, group: Group) -> Tensor:
        total = self.parts[0].clone()
        for part in self.parts[1:]:
            total += part
        step = self.scaling * (total / self.divisor)
        tell("what each adds", self.shares)
        tell("merged task vector", step, "entry")
        return group.base + step

    def shares(self) -> Tensor:
        """What each expert adds to the base model, entry by entry, (experts, *shape)."""
        return self.scaling * (self.parts / self.divisor)


@dataclass(frozen=True)
class Whole:
    """The merge is the base model plus `scaling` times what `step` makes of all of a tensor's task vectors.

    Where the base does not enter, `step` makes the merge of the experts themselves.
    """

    step: Callable[..., Tensor]  # (experts, *shape) to (*shape)
    scaling: float = 1.0
    copies: float = 16.0  # of the tensor in float32 that `step` works with, beside what it is given; as measured
    notes: list[str] = field(default_factory=list)  # what `step` found odd, as half a sentence for the user
    rounds: int = 1  # of the same work, by which it takes long: as a second argument `step` then takes a smaller number

    def merged(self, group: Group) -> Tensor:
        return self.of(group.base if group.based else None, group.vectors)

    def of(self, base: Tensor | None, vectors: Tensor) -> Tensor:
        """The merge of a base, (*shape), and task vectors, (experts, *shape); or of experts alone."""
        tell("models" if base is None else "task vectors", vectors)
        step = self.step(vectors)
        if base is None:
            return step
        tell("merged task vector", lambda: self.scaling * step, "entry")
        return torch.add(base, step, alpha=self.scaling)


def _weighted_sum(weights: Tensor, tensors: Tensor, label: str) -> Tensor:
    tell(label, lambda: weights.reshape(-1, *(1 for _ in tensors.shape[1:])) * tensors)
    total = weights[0] * tensors[0]
    for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
        total += weight * tensor
    return total


Outcome = TaskCoefficients | FactorCoefficients | ModelCoefficients | Blend | Whole
