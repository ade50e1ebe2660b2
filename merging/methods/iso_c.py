"""Iso-C: No Task Left Behind: Isotropic Model Merging with Common Subspaces (Marczak et al., 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merging.method import TaskCoefficients, Whole, method
from merging.params import Scaling
from merging.spectral import mean_step, parts
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor


@method(
    title="Iso-C",
    paper="https://arxiv.org/abs/2502.04959",
    formula=r"W = W_0 + \lambda\,\bar\sigma\, U V^\top, \qquad \sum_i \tau_i = U \Sigma V^\top,"
    r"\quad \bar\sigma = \operatorname{mean} \Sigma",
    where=r"$U$, $\Sigma$ and $V$ are the directions of the sum and its singular values, those that are 0 left out, "
    r"and $\bar\sigma$ is the mean of these.",
    use="when experts of different tasks share most of what they changed, so that plain addition drowns what "
    "single ones have learned. Its authors search the scaling from 0 to 3.",
    differs="Where the sum has fewer directions than a matrix could have, the code makes up the others; here they "
    "stay zero.",
)
def iso_c(experts: Tensor, axes: tuple[int, ...], *, scaling: Scaling = 1.0) -> TaskCoefficients | Whole:
    """Adds up the experts' changes of a matrix, and makes all of the sum's directions equally strong.

    What one expert alone has learned is then not drowned by what all share. Needs whole matrices in memory.
    """
    return Whole(merged, scaling) if len(axes) == 2 else mean_step(experts, scaling)


def merged(tau: Tensor) -> Tensor:
    """The sum of the task vectors, (experts, rows, columns), with the mean of its singular values for each of them."""
    # Differs: where the sum has fewer directions than a matrix could, the released code makes up the others.
    whole = tau.sum(0)
    left, values, right = parts(whole)
    mean = values.sum() / max(len(values), 1)
    tell("sum of the task vectors", whole, "entry")
    tell("singular values of the sum", values, "direction")
    tell("their mean", mean, "tensor")
    return left * mean @ right
