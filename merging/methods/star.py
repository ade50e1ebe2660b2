"""STAR: Spectral Truncation and Rescale for Model Merging (Lee et al., 2025)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from merging.lazy import torch
from merging.method import TaskCoefficients, Whole, method
from merging.params import Param, Scaling
from merging.spectral import mean_step, parts
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor

Eta = Annotated[
    float,
    Param("Kept η", "Percent of the sum of singular values that the directions kept have.", low=1, high=100, step=1),
]


@method(
    title="STAR",
    paper="https://arxiv.org/abs/2502.10339",
    formula=r"W = W_0 + \frac{\lambda}{n} \sum_i \frac{\sum_k \sigma_{ik}}{\sum_{k \le r_i} \sigma_{ik}}"
    r"\sum_{k \le r_i} \sigma_{ik}\, u_{ik} v_{ik}^\top",
    where=r"$\sigma_{ik}$ are the singular values of $\tau_i$, the largest first, counted by $k$, and $u_{ik}$ and "
    r"$v_{ik}$ are their directions. $r_i$ is the least number of them that make up $\eta$ percent of their sum "
    "(`eta`). $n$ counts the experts that moved in that matrix.",
    use="when experts are noisy, or many: what is weak in each is dropped before it can interfere. The authors "
    "keep 40 percent.",
)
def star(
    experts: Tensor, axes: tuple[int, ...], *, eta: Eta = 40.0, scaling: Scaling = 1.0
) -> TaskCoefficients | Whole:
    """Drops the weak directions of each expert's change of a matrix, makes up for their loss, and averages.

    Noise goes with the weak directions, so that experts interfere less. Needs whole matrices in memory.
    """
    return Whole(partial(merged, share=eta / 100), scaling) if len(axes) == 2 else mean_step(experts, scaling)


def merged(tau: Tensor, share: float) -> Tensor:
    """The mean of the truncated task vectors, (experts, rows, columns) to (rows, columns)."""
    total, count = torch.zeros_like(tau[0]), 0
    for expert, matrix in enumerate(tau):
        if matrix.any():  # an expert that did not move has nothing to truncate, and is not counted
            total, count = total.add_(_truncated(matrix, share, expert)), count + 1
    return total.div_(max(count, 1))


def _truncated(matrix: Tensor, share: float, expert: int) -> Tensor:
    left, values, right = parts(matrix)
    so_far = values.cpu().double().cumsum(0)
    rank = min(int((so_far < share * so_far[-1]).sum()) + 1, len(values))
    restored = values[:rank] * float(so_far[-1] / so_far[rank - 1])
    rescaled = left[:, :rank] * restored @ right[:rank]
    tell("singular values", values, "direction", expert)
    tell("directions kept", rank, "tensor", expert)
    tell("truncated and rescaled", rescaled, "entry", expert)
    return rescaled
