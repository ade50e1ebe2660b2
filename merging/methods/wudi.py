"""WUDI-Merging: Whoever Started the Interference Should End It (Cheng et al., 2025)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from merging.crew import breathe
from merging.lazy import torch
from merging.method import TaskCoefficients, Whole, method
from merging.params import Param, Scaling
from merging.places import place
from merging.spectral import parts
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor

Variant = Annotated[
    Literal["release", "closed_form"],
    Param("Variant", "The authors' 300 steps of Adam, or where they would end: the minimum itself, which is ours."),
]
STEPS, RATE = 300, 1e-5


@method(
    title="WUDI",
    paper="https://arxiv.org/abs/2503.08099",
    formula=r"W = W_0 + \lambda\,\theta, \qquad"
    r"\theta = \arg\min_\theta \sum_i \frac{\lVert (\theta - \tau_i)\, \tau_i^\top \rVert_F^2}{\lVert\tau_i\rVert_F^2}",
    where=r"$\theta$ is the change of the matrix that is searched for: 300 steps of Adam, from the sum of the "
    r"$\tau_i$ on, towards that minimum, or with `variant: closed_form` the minimum.",
    use="when there is time: it is the slowest here, and on published tasks among the best that need no data. "
    "Only matrices in the layers are merged; what else was fine-tuned is lost.",
    differs="The search begins and ends as the code's; `closed_form` goes to the minimum itself, which is not the "
    "authors' result. An expert that did not move is left out of the sum.",
)
def wudi(
    experts: Tensor, name: str, axes: tuple[int, ...], *, scaling: Scaling = 1.0, variant: Variant = "release"
) -> TaskCoefficients | Whole:
    """Searches the change of each matrix that does to every expert's own directions most nearly what the expert does.

    Only matrices in the layers are merged; all else stays the base model's. Needs whole matrices in memory, and long.
    """
    if len(axes) != 2 or place(name).layer is None:
        nothing = torch.zeros(len(experts))
        tell("coefficients", nothing, "expert")
        return TaskCoefficients(nothing)
    if variant == "release":
        return Whole(descended, scaling, rounds=STEPS)
    return Whole(least, scaling, copies=3 * len(experts) + 10)


def descended(tau: Tensor, steps: int = STEPS) -> Tensor:
    """Where Adam is after its steps from the sum of the task vectors, (experts, rows, columns) to (rows, columns)."""
    theta, slope = tau.sum(0), _slope(tau)
    tell("sum of the task vectors", theta, "entry")
    adam = torch.optim.Adam([theta], lr=RATE)
    for _ in range(steps):
        breathe()
        theta.grad = slope(theta)
        adam.step()
    tell("found by descent", theta, "entry")
    return theta


def _slope(tau: Tensor) -> Callable[[Tensor], Tensor]:
    """The gradient of what is minimised, at any theta: 2 sum_i (theta - tau_i) tau_i' tau_i / |tau_i|^2."""
    rows, columns = tau.shape[1:]
    scales = _inverse_norms(tau).square()
    if columns <= 4 * rows:  # then it is the shorter way to multiply the task vectors with themselves first
        square, pull = torch.zeros(columns, columns).to(tau), torch.zeros_like(tau[0])
        for scale, matrix in zip(scales, tau, strict=True):
            own = (scale * matrix).T @ matrix
            square += own
            pull += matrix @ own
        return lambda theta: 2 * (theta @ square - pull)
    wanted = [matrix @ matrix.T for matrix in tau]

    def slope(theta: Tensor) -> Tensor:
        total = torch.zeros_like(theta)
        for scale, matrix, own in zip(scales, tau, wanted, strict=True):
            total += scale * (theta @ matrix.T - own) @ matrix
        return 2 * total

    return slope


def least(tau: Tensor) -> Tensor:
    """The minimum of least norm, (experts, rows, columns) to (rows, columns).

    It is RegMean with inner products of inputs that are estimated from the task vectors: their own.
    """
    units = tau * _inverse_norms(tau)[:, None, None]
    left, values, right = parts(units.flatten(0, 1))
    tell("of length 1", units)
    tell("singular values of all", values, "direction")
    pull = torch.zeros(tau.shape[1], len(values)).to(tau)
    for matrix, unit, own in zip(tau, units, left.split(tau.shape[1]), strict=True):
        pull += matrix @ (unit.T @ own)
    return pull / values @ right


def _inverse_norms(tau: Tensor) -> Tensor:
    """1 / |tau_i|, (experts); 0 for an expert that did not move, which asks for nothing."""
    norms = tau.flatten(1).norm(dim=1)
    return torch.where(norms > 0, 1 / norms, 0.0)
