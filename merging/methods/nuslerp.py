"""NuSLERP: spherical interpolation between two experts, of their weights or of their task vectors, after mergekit's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from merging.gram import Gram, along, arc, by_lines, coefficients, gram
from merging.lazy import torch
from merging.method import Groups, ModelCoefficients, TaskCoefficients, Whole, method
from merging.params import Param, Weight
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor

Flatten = Annotated[bool, Param("Flatten", "Take one angle for the whole tensor, and not one for each of its lines.")]
Axis = Annotated[
    bool, Param("Along the first axis", "Where it is not flattened: lines run down the first axis, not along the last.")
]


def survey(groups: Groups, *, nuslerp_flatten: Flatten = True) -> Gram | None:
    """The inner products, where one angle is taken for the tensor."""
    return gram(groups) if nuslerp_flatten else None


@method(
    title="NuSLERP",
    paper="https://github.com/arcee-ai/mergekit",
    formula=r"W = W_0 + \frac{\sin((1-t)\,\Omega)}{\sin\Omega}\,\tau_1 + \frac{\sin(t\,\Omega)}{\sin\Omega}\,\tau_2,"
    r"\qquad t = \frac{w_2}{w_1 + w_2}",
    where=r"$\Omega$ is the angle between $\tau_1$ and $\tau_2$, and $t$ the place on the way between them. Without a "
    "base model, $W_1$ and $W_2$ stand for these, and nothing for $W_0$.",
    use="to blend two experts of one base: between their task vectors, which are far from parallel, the arc is no "
    "straight line, and the step keeps its length.",
    differs="As in mergekit, lines run along the last axis of a matrix as it is stored, and along the first with "
    "`nuslerp_row_wise`, whatever that name says.",
    survey=survey,
    scopes=("tensor",),
    experts=(2, 2),
)
def nuslerp(
    survey: Gram,
    based: bool,
    *,
    weight: Weight,
    nuslerp_flatten: Flatten = True,
    nuslerp_row_wise: Axis = False,
) -> TaskCoefficients | ModelCoefficients | Whole:
    """Goes from one expert's task vector to the other's on an arc; from one expert to the other without a base model.

    How far follows from their weights. The angle is that of the whole tensor, or each line of a matrix has its own.
    """
    first, second = weight.double()
    t = second / (first + second) if abs(first + second) >= 1e-6 else torch.tensor(0.5, dtype=torch.float64)
    if not nuslerp_flatten:
        return Whole(partial(_by_lines, t=t, axis=0 if nuslerp_row_wise else -1), copies=6)
    tell("norms", survey.norms, "expert")
    tell("t", t, "tensor")
    return coefficients(torch.stack(ends(survey.vectors, t), -1), based)


def ends(vectors: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """What multiplies both vectors, (...) each, by their inner products, (..., 2, 2)."""
    norms = vectors.diagonal(dim1=-2, dim2=-1).sqrt().clamp(min=1e-7)
    cosine = (vectors[..., 0, 1] / norms.prod(-1)).clamp(-1, 1)
    return arc(cosine, t, straight=cosine.acos().sin() < 1e-8)


def _by_lines(vectors: Tensor, t: Tensor, axis: int) -> Tensor:
    """The merge of both vectors line by line, each with its own angle, (2, *shape) to (*shape)."""
    found: list[Tensor] = []

    def step(lines: Tensor, products: Tensor) -> Tensor:
        both = torch.stack(ends(products, t)).to(lines)
        found.append(both)
        one, other = both[0, :, None], both[1, :, None]
        return one * lines[:, 0] + other * lines[:, 1]

    merged = by_lines(step, vectors, axis)
    tell("coefficients of the line", lambda: along(torch.cat(found, 1), vectors, axis))
    return merged
