"""Linear merging: Model Soups (Wortsman et al., 2022)."""

from __future__ import annotations

from typing import Annotated

from merging.errors import MergeError
from merging.method import ModelCoefficients, method
from merging.params import Param, Weight
from merging.trace import tell

Normalize = Annotated[bool, Param("Normalize", "Divide by the sum of the weights, so that the result is an average.")]


@method(
    title="Linear",
    paper="https://arxiv.org/abs/2203.05482",
    formula=r"W = \sum_i w_i W_i \,\big/ \sum_i w_i",
    use="for checkpoints of one task, such as several runs or late steps of one training: their average is often "
    "better than each. Experts of different tasks weaken each other, for each enters by its share only.",
)
def linear(*, weight: Weight, normalize: Normalize = True) -> ModelCoefficients:
    """The weighted average of the experts, also called a model soup. The base model itself does not count."""
    tell("weights", weight, "expert")
    if not normalize:
        return ModelCoefficients(weight)
    total = weight.sum()
    if abs(total) <= 1e-6 * weight.abs().sum():  # what is left is rounding
        raise MergeError("The weights add up to 0 and have no average. Change one, or say `normalize: false`.")
    tell("share of the weights", weight / total, "expert")
    return ModelCoefficients(weight / total)
