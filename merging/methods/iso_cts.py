"""Iso-CTS: No Task Left Behind: Isotropic Model Merging with Common Subspaces (Marczak et al., 2025)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated

from merging.method import TaskCoefficients, Whole, method
from merging.params import Param, Scaling
from merging.spectral import Parts, Solver, joined, mean_step, orthogonal, parts
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor

Fraction = Annotated[
    float, Param("Common share", "Share of a matrix's directions that are the sum's; the rest is single experts'.")
]


@method(
    title="Iso-CTS",
    paper="https://arxiv.org/abs/2502.04959",
    formula=r"\begin{gathered}W = W_0 + \lambda\,\bar\sigma\, U_\perp V_\perp^\top, \qquad U = [U_1 \dots U_n\ U_c], \\"
    r"\textstyle\sum_i \tau_i \approx U_c \Sigma_c V_c^\top, "
    r"\qquad \tau_i - U_c U_c^\top \tau_i \approx U_i \Sigma_i V_i^\top\end{gathered}",
    where=r"$U_c$, $\Sigma_c$ and $V_c$ are the strongest directions of the sum and their singular values, a share of "
    r"`common_space_fraction` of the shorter side of the matrix; $U_i$, $\Sigma_i$ and $V_i$ those of what expert $i$ "
    r"has beside them, for each as many, so that all fill that side. $V$ is made as $U$ is, $U_\perp$ and $V_\perp$ "
    r"are the nearest matrices whose columns are orthonormal, and $\bar\sigma$ is the mean of all these singular "
    "values.",
    use="as Iso-C, with many experts: some directions are kept for each of them. A smaller common share gives them "
    "more.",
    differs="Where there are fewer directions than are asked for, the code makes up the others; here they stay zero.",
)
def iso_cts(
    experts: Tensor,
    axes: tuple[int, ...],
    *,
    common_space_fraction: Fraction = 0.8,
    scaling: Scaling = 1.0,
    svd: Solver = "exact",
) -> TaskCoefficients | Whole:
    """Makes the strongest directions of the experts' sum, and of what each has beside them, equally strong.

    The weakest directions of the sum give way to those of single experts. Needs whole matrices in memory.
    """
    if len(axes) != 2:
        return mean_step(experts, scaling)
    return Whole(partial(merged, fraction=common_space_fraction, solver=svd), scaling)


def merged(tau: Tensor, fraction: float, solver: str) -> Tensor:
    """The step from the task vectors, (experts, rows, columns), all of whose singular values are the same."""
    experts, rank = len(tau), min(tau.shape[1:])
    own = min(round((rank - int(rank * fraction)) / experts), rank // experts)  # directions of each expert
    common = parts(tau.sum(0), rank - experts * own)
    # Differs: where there are fewer directions than these the released code makes up the others.
    tell("singular values of the sum", common.values, "direction")
    tell("common part of the sum", lambda: common.left * common.values @ common.right, "entry")

    def beside() -> Iterator[Parts]:
        for expert, matrix in enumerate(tau if own else ()):
            found = parts(matrix - common.left @ (common.left.T @ matrix), own, solver, matrix)
            tell("singular values beside the sum's", found.values, "direction", expert)
            yield found

    left, values, right = joined(chain(beside(), [common]))
    mean = values.sum() / max(len(values), 1)
    tell("mean of all singular values", mean, "tensor")
    return orthogonal(left) * mean @ orthogonal(right)
