"""FroM: Frobenius Norm-Based Data-Free Adaptive Model Merging (2025), after its published objective.

The paper weights each layer's task vectors by minimising sum_i |tau_i|^k |theta - tau_i|^2 in Frobenius norms, whose
minimum is their mean with weights |tau_i|^k. Its exponent, and what it does with tensors that are not matrices, could
not be confirmed: both are choices here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from merging.lazy import torch
from merging.method import TaskCoefficients, method
from merging.params import Param, ShortScaling
from merging.vectors import norms

if TYPE_CHECKING:
    from torch import Tensor

Exponent = Annotated[
    float,
    Param(
        "Exponent k",
        "How strongly the expert that moved further counts: 0 averages, large values let the furthest win.",
        low=-2.0,
        high=8.0,
        step=0.1,
    ),
]

Others = Annotated[
    Literal["from", "mean"],
    Param("Other tensors", "What biases and norms get, which are not matrices: the same formula, or the plain mean."),
]


@method(
    name="from",
    title="FroM",
    paper="https://arxiv.org/abs/2506.02478",
    formula=r"W = W_0 + \lambda \sum_i \alpha_i \tau_i, \qquad"
    r"\alpha_i = \frac{\lVert\tau_i\rVert_F^{\,k}}{\sum_j \lVert\tau_j\rVert_F^{\,k}}",
    survey=norms,
    scope="tensor",
)
def frobenius(
    survey: Tensor, matrix: bool, *, k: Exponent = 1.0, scaling: ShortScaling = 1.0, others: Others = "from"
) -> TaskCoefficients:
    """Averages the task vectors of each tensor, giving more weight to the experts that moved further there.

    The weights are powers of the Frobenius norms, after the published objective; the default exponent is our choice.
    """
    return TaskCoefficients((scaling * norm_weights(survey, k if matrix or others == "from" else 0)).float())


def norm_weights(norm: Tensor, k: float) -> Tensor:
    """The weights |tau_i|^k / sum_j |tau_j|^k of (experts) norms, as a softmax so that no k overflows.

    Norms of zero get no weight, unless k is 0, which is the plain mean over all experts.
    """
    if k == 0:
        return torch.full_like(norm, 1 / len(norm))
    moved = norm > 0
    if not moved.any():
        return torch.zeros_like(norm)
    return torch.where(moved, k * norm.log(), -torch.inf).softmax(0)
