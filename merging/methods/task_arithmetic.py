"""Task arithmetic: Editing Models with Task Arithmetic (Ilharco et al., 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from merging.method import TaskCoefficients, method
from merging.params import Param, ShortScaling, Weight

if TYPE_CHECKING:
    from torch import Tensor

Normalize = Annotated[bool, Param("Normalize", "Divide by the sum of the weights, so that the step is an average.")]


@method(
    title="Task arithmetic",
    paper="https://arxiv.org/abs/2212.04089",
    formula=r"W = W_0 + \lambda \sum_i w_i \tau_i",
)
def task_arithmetic(*, weight: Weight, scaling: ShortScaling = 0.4, normalize: Normalize = False) -> TaskCoefficients:
    """Adds what every expert learned to the base model, shortened by one common factor.

    A negative weight makes the model forget what that expert learned.
    """
    return TaskCoefficients(scaling * (_normalized(weight) if normalize else weight))


def _normalized(weight: Tensor) -> Tensor:
    """Weights divided by their sum; as they are where they cancel, as in mergekit, which knows only sums below 1e-8."""
    total = weight.sum()
    cancel = total.abs() <= (1e-6 * weight.abs().sum()).clamp(min=1e-8)  # but for rounding
    return weight if cancel else weight / total
