"""TSV-Merge: Task Singular Vectors: Reducing Task Interference in Model Merging (Gargiulo et al., 2025)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from merging.method import TaskCoefficients, Whole, method
from merging.params import Scaling
from merging.spectral import Parts, Solver, joined, mean_step, orthogonal, parts
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor


@method(
    title="TSV-Merge",
    paper="https://arxiv.org/abs/2412.00081",
    formula=r"W = W_0 + \lambda\, \hat U_\perp \hat\Sigma\, \hat V_\perp^\top, \qquad "
    r"\hat U = [U_1 \dots U_n], \qquad \tau_i \approx U_i \Sigma_i V_i^\top",
    where=r"$U_i$, $\Sigma_i$ and $V_i$ are the $\lfloor q/n \rfloor$ strongest directions of $\tau_i$ and their "
    r"singular values, $q$ being the shorter side of the matrix. $\hat V$ holds the $V_i$ side by side as $\hat U$ "
    r"does the $U_i$, and $\hat\Sigma$ the $\Sigma_i$ on its diagonal. $\hat U_\perp$ and $\hat V_\perp$ are the "
    "nearest matrices whose columns are orthonormal. With more experts than $q$, they are averaged.",
    use="when many experts of different tasks must fit into one model, and time for decompositions is there. It needs "
    "no tuning; on published vision tasks it is among the best that need no data.",
    differs="A task vector with fewer directions than its share, as an adapter's, brings those that it has; the code "
    "takes arbitrary ones along. Tensors that are no matrices take the plain mean.",
)
def tsv_m(
    experts: Tensor, axes: tuple[int, ...], *, scaling: Scaling = 1.0, svd: Solver = "exact"
) -> TaskCoefficients | Whole:
    """Keeps the strongest directions of each expert's change of a matrix, and turns them until they do not interfere.

    Every expert has an equal share of the directions that a matrix has room for. Needs whole matrices in memory.
    """
    return Whole(partial(merged, solver=svd), scaling) if len(axes) == 2 else mean_step(experts, scaling)


def merged(tau: Tensor, solver: str) -> Tensor:
    """The strongest directions of the task vectors, (experts, rows, columns), made orthogonal: (rows, columns)."""
    share = min(tau.shape[1:]) // len(tau)
    if share == 0:
        return tau.mean(0)

    def strongest() -> Iterator[Parts]:
        for expert, matrix in enumerate(tau):
            found = parts(matrix, share, solver)
            tell("singular values", found.values, "direction", expert)
            tell("truncated", partial(_product, found), "entry", expert)
            yield found

    # Differs: the released code takes arbitrary directions along where a task vector has less than its share.
    left, values, right = joined(strongest())
    return orthogonal(left) * values @ orthogonal(right)


def _product(found: Parts) -> Tensor:
    return found.left * found.values @ found.right
