"""FroM: Frobenius Norm-Based Data-Free Adaptive Model Merging (2025), after its published objective.

The paper weights each layer's task vectors by minimising sum_i |tau_i|^k |theta - tau_i|^2 in Frobenius norms, whose
minimum is their mean with weights |tau_i|^k. Its exponent, and what it does with tensors that are not matrices and with
adapters, could not be confirmed: all three are choices here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from merging.groups import Groups
from merging.lazy import torch
from merging.method import FactorCoefficients, TaskCoefficients, method
from merging.params import Param, ShortScaling
from merging.trace import tell
from merging.vectors import squares

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

Lora = Annotated[
    Literal["product", "factors", "weights"],
    Param(
        "LoRA adapters",
        "What is averaged of adapters: their products B·A; or A and B apart, each weighed by its own norm (factors) or "
        "by the product's (weights), which keeps the rank and mixes the experts.",
    ),
]


def lengths(groups: Groups, scope: str, lora: str) -> Tensor:
    """The norms by which each expert is weighed, (experts, 2): for its A, or what is no product, and for its B."""
    return lengths_of(squares(groups), scope, lora)


def lengths_of(squares: Tensor, scope: str, lora: str) -> Tensor:
    """The same from squared norms of task vectors and their factors, (experts, 3), which `vectors.squares` gives."""
    if lora != "factors":
        return squares[:, [0, 0]].sqrt()
    down, up = squares[:, 1], squares[:, 2]
    if scope == "model":
        down = up = down + up
    return torch.stack([down, up], dim=1).sqrt()


@method(
    name="from",
    title="FroM",
    paper="https://arxiv.org/abs/2506.02478",
    formula=r"W = W_0 + \lambda \sum_i \alpha_i \tau_i, \qquad"
    r"\alpha_i = \frac{\lVert\tau_i\rVert_F^{\,k}}{\sum_j \lVert\tau_j\rVert_F^{\,k}}",
    where=r"$k$ is the exponent, and $\alpha_i$ the share of expert $i$: 0 for one that did not move, unless $k$ is "
    "0. The norms are those of each tensor, or with `scope: model` of all tensors together.",
    use="when experts moved by very different amounts, and one number for all layers would drown the quiet ones "
    "or let the loud one win everywhere. It needs no tuning: with a scaling of 1 no tensor moves further "
    "than the expert that moved furthest.",
    differs="No code is public. The published objective has this minimum; its exponent, what biases and norms get, "
    "and how adapters are averaged could not be confirmed, and are choices here.",
    survey=lengths,
    scope="tensor",
)
def frobenius(
    survey: Tensor,
    matrix: bool,
    factored: bool,
    *,
    k: Exponent = 1.0,
    scaling: ShortScaling = 1.0,
    others: Others = "from",
    lora: Lora = "product",
) -> TaskCoefficients | FactorCoefficients:
    """Averages the task vectors of each tensor, giving more weight to the experts that moved further there.

    The weights are powers of the Frobenius norms, after the published objective; the default exponent is our choice.
    """
    exponent = k if matrix or others == "from" else 0
    down = norm_weights(survey[..., 0], exponent)
    apart = factored and lora == "factors"
    tell("norms of A" if apart else "norms", survey[..., 0], "expert")
    tell("α of A" if apart else "α", down, "expert")
    if apart:
        up = norm_weights(survey[..., 1], exponent)
        tell("norms of B", survey[..., 1], "expert")
        tell("α of B", up, "expert")
        return FactorCoefficients(down, up, scaling)
    if factored and lora == "weights":
        return FactorCoefficients(down.sqrt(), down.sqrt(), scaling)
    return TaskCoefficients((scaling * down).float())


def norm_weights(norm: Tensor, k: float) -> Tensor:
    """The weights |tau_i|^k / sum_j |tau_j|^k of norms, (..., experts), as a softmax so that no k overflows.

    Norms of zero get no weight, unless k is 0, which is the plain mean over all experts.
    """
    if k == 0:
        return torch.full_like(norm, 1 / norm.shape[-1])
    moved = norm > 0
    shares = torch.where(moved, k * norm.log(), -torch.inf).softmax(-1)
    return torch.where(moved.any(-1, keepdim=True), shares, 0.0)
