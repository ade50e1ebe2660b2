"""Multi-SLERP: barycentric interpolation on a sphere of any number of experts, after mergekit's."""

from __future__ import annotations

from typing import Annotated

from merging.errors import MergeError
from merging.gram import Gram, coefficients, gram
from merging.lazy import torch
from merging.method import ModelCoefficients, TaskCoefficients, method
from merging.params import Param, Weight
from merging.trace import tell

Normalize = Annotated[bool, Param("Normalize weights", "Divide the weights by their sum.")]
Epsilon = Annotated[
    float,
    Param(
        "Epsilon", "What is added to norms, and the length below which a vector has no direction.", high=1e-3, step=1e-8
    ),
]


@method(
    title="Multi-SLERP",
    paper="https://github.com/arcee-ai/mergekit",
    formula=r"W = W_0 + \Big(\sum_i w_i \lVert\tau_i\rVert_F\Big) \frac{m}{\lVert m\rVert_F}, \qquad "
    r"m = \sum_i w_i \frac{\tau_i}{\lVert\tau_i\rVert_F}",
    where="$m$ is the mean direction. The $w_i$ are divided by their sum first, unless `normalize_weights` is false. "
    r"Without a base model, the $W_i$ stand for the $\tau_i$, and nothing for $W_0$.",
    use="for three or more experts whose average would be too short, because their task vectors point in different "
    "directions: it goes the mean of their lengths.",
    differs="The step back along the tangents is left out, since it is zero at the mean that is taken.",
    survey=gram,
    scopes=("tensor",),
)
def multislerp(
    survey: Gram, based: bool, name: str, *, weight: Weight, normalize_weights: Normalize = True, eps: Epsilon = 1e-8
) -> TaskCoefficients | ModelCoefficients:
    """Averages the directions of the task vectors, or of the experts without a base model, and their lengths apart.

    The mean of directions is projected onto the sphere, so that experts who disagree do not shorten the step.
    """
    weight = weight.double()
    if normalize_weights:
        if abs(weight.sum()) <= 1e-6 * weight.abs().sum():  # what is left is rounding
            raise MergeError("The weights add up to 0. Change a weight or turn Normalize weights off.")
        weight = weight / weight.sum()
    norms = survey.norms
    along = torch.where(norms > 0, weight / (norms + eps), 0.0)  # of the weighted mean of the unit vectors
    length = survey.length(along)
    tell("norms", norms, "expert")
    tell("weights", weight, "expert")
    tell("length of the mean direction", length, "tensor")
    short = length <= eps
    if len(weight) > 2 and (short & (norms > 0).any(-1)).any():
        raise MergeError(f"The experts cancel out in `{name}`, and have no mean direction. Change a weight.")
    # The tangents at the mean add up to a vector along it, so to nothing: its direction is already the result's.
    short = short[..., None]
    step = along / torch.where(short, 1.0, length[..., None]) * (weight * norms).sum(-1, keepdim=True)
    return coefficients(torch.where(short, weight, step), based)
