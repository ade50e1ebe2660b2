"""RegMean: Dataless Knowledge Fusion by Merging Weights of Language Models (Jin et al., 2023)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

from merging.crew import breathe
from merging.errors import MergeError
from merging.lazy import torch
from merging.method import TaskCoefficients, Whole, method
from merging.params import Param
from merging.spectral import mean_step
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor

Share = Annotated[float, Param("Off-diagonal α", "How much of the inner products between different inputs is kept.")]
RIDGE = 1e-6  # of the mean of the diagonal, where some inputs were never there


@method(
    title="RegMean",
    paper="https://arxiv.org/abs/2212.09849",
    formula=r"W = \Big(\sum_i W_i \tilde G_i\Big) \Big(\sum_i \tilde G_i\Big)^{-1}, \qquad"
    r"\tilde G_i = \alpha\, X_i^\top X_i + (1 - \alpha) \operatorname{diag}(X_i^\top X_i)",
    where=r"$X_i$ are the inputs that the layer has in expert $i$ on its own text, one a row; $\tilde G_i$ are their "
    r"inner products, of which those between different inputs are multiplied by $\alpha$.",
    use="when there is a text of each expert's task. For a single linear layer it is the exact answer; with "
    "little text, take a smaller α.",
    differs="Where some inputs never occur a small ridge is added, since the code's inverse does not exist there.",
)
def regmean(
    experts: Tensor, inputs: tuple[Callable[[], Tensor], ...], name: str, axes: tuple[int, ...], *, alpha: Share = 0.9
) -> TaskCoefficients | Whole:
    """Finds the weights of each linear layer whose outputs are nearest to those of every expert on its own inputs.

    All else takes the plain mean. Needs statistics of every expert, collected from a text of its task: `python -m
    merging collect`.
    """
    if not inputs:
        return mean_step(experts, 1.0)
    rows, columns = axes
    return Whole(partial(merged, inputs=inputs, alpha=alpha, name=name), copies=10 + 10 * columns / rows)


def merged(tau: Tensor, inputs: tuple[Callable[[], Tensor], ...], alpha: float, name: str) -> Tensor:
    """The step from task vectors, (experts, rows, columns), and what reads the inner products of each one's inputs."""
    whole, pull = torch.zeros(2 * tau.shape[-1:], dtype=torch.float64), torch.zeros(tau.shape[1:], dtype=torch.float64)
    for expert, (matrix, read) in enumerate(zip(tau, inputs, strict=True)):
        breathe()
        products = read().double()
        own = products.diagonal().clone()
        products.mul_(alpha).diagonal().copy_(own)
        whole += products
        pull += matrix.cpu().double() @ products
        tell("square of the input", own.expand(matrix.shape), "entry", expert)
    tell("sum of task vectors by inputs", pull, "entry")
    factor, singular = torch.linalg.cholesky_ex(whole)
    if singular:
        whole.diagonal().add_(RIDGE * whole.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny))
        factor, singular = torch.linalg.cholesky_ex(whole)
    if singular:
        words = f"The statistics of what goes into `{name}` are no inner products, since they have a negative square"
        raise MergeError(f"{words}. Collect those of all experts again.")
    return torch.cholesky_solve(pull.T, factor).T.to(tau)
