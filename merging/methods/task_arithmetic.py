"""Task arithmetic: Editing Models with Task Arithmetic (Ilharco et al., 2023)."""

from __future__ import annotations

from typing import Annotated

from merging.method import TaskCoefficients, method
from merging.params import Param, Scaling, Weight

Normalize = Annotated[bool, Param("Normalize", "Divide by the sum of the weights, so that the step is an average.")]


@method(
    title="Task arithmetic",
    paper="https://arxiv.org/abs/2212.04089",
    formula=r"W = W_0 + \lambda \sum_i w_i \tau_i",
)
def task_arithmetic(*, weight: Weight, scaling: Scaling = 0.4, normalize: Normalize = False) -> TaskCoefficients:
    """Adds what every expert learned to the base model, shortened by one common factor.

    A negative weight makes the model forget what that expert learned.
    """
    total = weight.sum()
    # Below this sum mergekit, too, leaves the weights as they are.
    divided = weight / total if normalize and abs(total) >= 1e-8 else weight
    return TaskCoefficients(scaling * divided)
