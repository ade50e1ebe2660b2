"""Task arithmetic: Editing Models with Task Arithmetic (Ilharco et al., 2023)."""

from __future__ import annotations

from typing import Annotated

from merging.method import TaskCoefficients, method
from merging.params import Param, ShortScaling, Weight

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
    total = weight.sum()
    # Weights that cancel are left as they are, as in mergekit, which knows only 1e-8: less than their rounding.
    cancel = total.abs() <= (1e-6 * weight.abs().sum()).clamp(min=1e-8)
    divided = weight / total if normalize and not cancel else weight
    return TaskCoefficients(scaling * divided)
