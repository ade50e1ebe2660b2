"""Task arithmetic: Editing Models with Task Arithmetic (Ilharco et al., 2023)."""

from __future__ import annotations

from merging.method import TaskCoefficients, method
from merging.params import Normalize, ShortScaling, Weight
from merging.trace import tell
from merging.vectors import averaging


@method(
    title="Task arithmetic",
    paper="https://arxiv.org/abs/2212.04089",
    formula=r"W = W_0 + \lambda \sum_i w_i \tau_i",
    use="first. It is the one to beat, has one number to tune, and is hard to beat for adapters and for experts "
    "that hardly overlap. Divide the scaling by about the number of experts; a negative weight takes "
    "something away.",
)
def task_arithmetic(*, weight: Weight, scaling: ShortScaling = 0.4, normalize: Normalize = False) -> TaskCoefficients:
    """Adds what every expert learned to the base model, shortened by one common factor.

    A negative weight makes the model forget what that expert learned.
    """
    coefficients = scaling * (weight / averaging(weight) if normalize else weight)
    tell("coefficients", coefficients, "expert")
    return TaskCoefficients(coefficients)
