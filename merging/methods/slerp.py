"""SLERP: Animating Rotation with Quaternion Curves (Shoemake, 1985), on the weights of two models."""

from __future__ import annotations

from typing import Annotated

from merging.gram import Gram, arc, gram
from merging.method import TaskCoefficients, method
from merging.params import Param
from merging.trace import tell

Position = Annotated[float, Param("Position t", "Where to stop on the way: 0 is the base model, 1 the expert.")]
STRAIGHT = 0.9995  # the cosine from which on the way is as good as straight


@method(
    title="SLERP",
    paper="https://doi.org/10.1145/325165.325242",
    formula=r"W = \frac{\sin((1-t)\,\Omega)}{\sin\Omega}\,W_0 + \frac{\sin(t\,\Omega)}{\sin\Omega}\,W_1, \qquad"
    r"\cos\Omega = \frac{\langle W_0, W_1\rangle}{\lVert W_0\rVert_F\,\lVert W_1\rVert_F}",
    where=r"$t$ is the place on the way, and $\Omega$ the angle between the base and the expert, $W_1$. Where the "
    "cosine is beyond 0.9995, the way is straight: $W = (1-t) W_0 + t W_1$.",
    use="to blend a model with its base, or with another of the same shape. The less a model was changed, the nearer "
    "is the arc to the straight line; where the base and the expert are nearly parallel, it is linear interpolation.",
    survey=gram,
    scopes=("tensor",),
    experts=(1, 1),
)
def slerp(survey: Gram, *, t: Position = 0.5) -> TaskCoefficients:
    """Goes from the base model to one expert on an arc instead of a straight line, so that no length is lost.

    A model that was fine-tuned only a little points nearly the same way as its base, and the arc is a straight line.
    """
    cosine = survey.cosine
    one, other = arc(cosine, t, straight=cosine.abs() > STRAIGHT)
    tell("cosine", cosine, "tensor")
    tell("coefficient of the base", one, "tensor")
    tell("coefficients", other[..., None], "expert")
    return TaskCoefficients(other.float()[..., None], base=(one + other).tolist())
