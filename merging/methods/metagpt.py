"""MetaGPT: Merging Large Language Models Using Model Exclusive Task Arithmetic (Zhou et al., 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merging.method import TaskCoefficients, method
from merging.methods.frobenius import norm_weights
from merging.params import ShortScaling
from merging.trace import tell
from merging.vectors import norms

if TYPE_CHECKING:
    from torch import Tensor


@method(
    title="MetaGPT",
    paper="https://arxiv.org/abs/2406.11385",
    formula=r"W = W_0 + \lambda \sum_i \lambda_i \tau_i, \qquad"
    r"\lambda_i = \frac{\lVert\tau_i\rVert_F^2}{\sum_j \lVert\tau_j\rVert_F^2}",
    where=r"$\lambda_i$ is the share of expert $i$. The norms are those of all tensors together, or with `scope: "
    "tensor` of each.",
    use="in place of task arithmetic when there is nothing to tune the scaling on. The expert that moved furthest "
    "counts most, by the square of how far; FroM does that for each tensor, and less sharply.",
    survey=norms,
    scope="model",
)
def metagpt(survey: Tensor, *, scaling: ShortScaling = 1.0) -> TaskCoefficients:
    """Adds up the task vectors, each scaled by its share of the sum of squares over the whole model.

    It is FroM with exponent 2 and one norm for each expert.
    """
    share = norm_weights(survey, 2)
    tell("norms", survey, "expert")
    tell("λ", share, "expert")
    return TaskCoefficients((scaling * share).float())
