"""Linear merging: Model Soups (Wortsman et al., 2022)."""

from __future__ import annotations

from typing import Annotated

from merging.errors import MergeError
from merging.method import ModelCoefficients, method
from merging.params import Param, Weight

Normalize = Annotated[bool, Param("Normalize", "Divide by the sum of the weights, so that the result is an average.")]


@method(
    title="Linear",
    paper="https://arxiv.org/abs/2203.05482",
    formula=r"W = \sum_i w_i W_i \,\big/ \sum_i w_i",
)
def linear(*, weight: Weight, normalize: Normalize = True) -> ModelCoefficients:
    """The weighted average of the experts, also called a model soup. The base model itself does not count."""
    if not normalize:
        return ModelCoefficients(weight)
    total = weight.sum()
    if abs(total) <= 1e-6 * weight.abs().sum():  # what is left is rounding
        raise MergeError("The weights add up to 0, so they have no average. Change a weight or turn Normalize off.")
    return ModelCoefficients(weight / total)
