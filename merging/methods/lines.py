"""LiNeS: Post-Training Layer Scaling Prevents Forgetting and Enhances Model Merging (Wang et al., 2025)."""

from __future__ import annotations

from typing import Annotated

from merging.method import TaskCoefficients, method
from merging.params import FAR, Param, ShortScaling, Weight
from merging.trace import tell

Start = Annotated[
    float,
    Param("First layer α", "What the first layer is scaled by, and what is outside the layers.", high=2.0, limits=FAR),
]
Rise = Annotated[
    float, Param("Rise β", "How much more the last layer is scaled by than the first.", high=2.0, limits=FAR)
]


@method(
    title="LiNeS",
    paper="https://arxiv.org/abs/2410.17146",
    formula=r"W^{(\ell)} = W_0^{(\ell)} + \lambda \Big(\alpha + \beta\,\frac{\ell}{L-1}\Big)"
    r"\sum_i w_i \tau_i^{(\ell)}",
    where=r"$\ell$ is the layer that a tensor is in, from 0 on, of $L$ layers; $\alpha$ is the factor of the first "
    r"one, and $\beta$ how much larger that of the last is. Outside the layers the factor is $\alpha$.",
    use="when a merge by task arithmetic forgets too much of what the base could do. With a start of 0 the first "
    "layer stays the base's; the end, the sum of both numbers, is what the last layer gets.",
    differs="It scales what plain task arithmetic adds; other methods get the same by a gradient over their scaling.",
)
def lines(
    depth: float, *, weight: Weight, alpha: Start = 0.0, beta: Rise = 1.0, scaling: ShortScaling = 0.4
) -> TaskCoefficients:
    """Adds the task vectors as task arithmetic does, with a factor that grows evenly from the first layer to the last.

    Early layers, which hold what all tasks share, stay closer to the base model.
    """
    factor = scaling * (alpha + beta * depth)
    tell("factor of the layer", factor, "tensor")
    tell("coefficients", factor * weight, "expert")
    return TaskCoefficients(factor * weight)
