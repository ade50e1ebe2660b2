"""The Karcher mean: the point of a sphere whose squared distances along it to the experts are least."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from merging.gram import Gram, gram, inner
from merging.lazy import torch
from merging.method import ModelCoefficients, method
from merging.params import Param
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor

Iterations = Annotated[
    float, Param("Iterations", "How many steps are taken at most.", low=1, high=100, step=1, counts="steps")
]
Tolerance = Annotated[
    float, Param("Tolerance", "The length below which a step is the last, and an angle none.", high=1e-3, step=1e-7)
]


ROUNDING = 1e-7  # of an angle, as the square root of that of a cosine


@method(
    title="Karcher mean",
    paper="https://arxiv.org/abs/2603.04972",
    formula=r"W = \Big(\frac{1}{n} \sum_i \lVert W_i\rVert_F\Big)\, u, \qquad u = "
    r"\arg\min_{\lVert u\rVert_F=1} \sum_i \arccos^2 \Big\langle u, \frac{W_i}{\lVert W_i\rVert_F} \Big\rangle",
    where="$u$ is the direction whose angles to the experts have the least sum of squares.",
    use="for the same as Multi-SLERP, without a base and with equal weights. The less the experts were "
    "changed from their base, the nearer it is to their average.",
    differs="Inner products are in float64, since float32 loses the small angles of models that have one base; where "
    "the directions cancel, so that no mean is nearest, the experts are averaged.",
    survey=gram,
    scopes=("tensor",),
)
def karcher(survey: Gram, *, max_iter: Iterations = 10, tol: Tolerance = 1e-5) -> ModelCoefficients:
    """The mean of the experts on the sphere, all counting the same, at the mean of their lengths.

    The base model itself does not count. Experts of one base point nearly the same way, where it is their average.
    """
    norms = survey.norms
    there = norms > 0
    scale = torch.where(there, 1 / norms, 0.0)
    units = survey.vectors * scale[..., :, None] * scale[..., None, :]
    mean = there.double() / there.sum(-1, keepdim=True).clamp(min=1)
    length = inner(mean, units, mean).clamp(min=0).sqrt()[..., None]
    cancel = length <= max(tol, ROUNDING)
    climbed = _climbed(units, mean, mean / torch.where(cancel, 1.0, length), int(max_iter), tol)
    if not cancel.all():
        tell("norms", norms, "expert")
        tell("coefficients of the directions", climbed, "expert")
    # Differs: where the directions cancel no point is nearer than others; the experts are averaged as they are.
    values = torch.where(cancel, 1 / norms.shape[-1], climbed * scale * norms.mean(-1, keepdim=True))
    tell("coefficients", values, "expert")
    return ModelCoefficients(values.float())


def _climbed(units: Tensor, mean: Tensor, point: Tensor, steps: int, tol: float) -> Tensor:
    """The Karcher mean as a sum of the unit vectors, (..., experts), by the inner products of these.

    All of the iteration stays in their span, so that only the numbers before them are needed.
    """
    for _ in range(steps):
        cosines = (units @ point[..., None])[..., 0].clamp(-1, 1)
        angles = cosines.acos()
        far = (angles > tol) & (angles < torch.pi - ROUNDING)  # all ways lead to the opposite point, so none is taken
        pull = torch.where(far, mean * angles / torch.where(far, angles.sin(), 1.0), 0.0)
        tangent = pull - (pull * cosines).sum(-1, keepdim=True) * point
        length = inner(tangent, units, tangent).clamp(min=0).sqrt()[..., None]
        moves = length > tol
        if not moves.any():
            break
        further = point * length.cos() + tangent * (length.sin() / torch.where(moves, length, 1.0))
        point = torch.where(moves, further / inner(further, units, further).sqrt()[..., None], point)
    return point
