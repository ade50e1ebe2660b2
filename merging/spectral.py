"""Matrices taken apart into singular values and directions, as the methods need it that look at whole matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from merging.crew import breathe
from merging.lazy import torch
from merging.method import TaskCoefficients
from merging.params import Param
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor

Solver = Annotated[
    Literal["exact", "randomised"],
    Param(
        "Decomposition",
        "All of every matrix exactly, or where few directions are wanted these alone from a random sketch: quicker.",
    ),
]
SPARE, ROUNDS = 10, 3  # directions that a sketch has beyond those wanted, and how often it is improved


class Parts(NamedTuple):
    """A matrix as left @ diag(values) @ right, the largest values first."""

    left: Tensor  # (rows, rank), orthonormal columns
    values: Tensor  # (rank)
    right: Tensor  # (rank, columns), orthonormal rows


def parts(matrix: Tensor, rank: int | None = None, solver: str = "exact", made_of: Tensor | None = None) -> Parts:
    """The largest singular values of a matrix, (rows, columns), and their directions: so many, or all of them.

    Values that are 0 but for rounding are left out: their directions are no property of the matrix. The rounding is
    that of the matrix, or of the larger one that it was made of.
    """
    breathe()
    turned = matrix.shape[0] < matrix.shape[1]  # libraries are several times quicker with matrices that stand
    tall = matrix.T if turned else matrix
    wanted = tall.shape[1] if rank is None else rank
    sketched = solver == "randomised" and 2 * (wanted + SPARE) < tall.shape[1]
    found = _sketched(tall, wanted) if sketched else _decomposed(tall)
    least = torch.finfo(tall.dtype).eps * max(matrix.shape) ** 0.5
    size = found.values[0] if made_of is None else made_of.norm()
    kept = min(int((found.values > least * size).sum()), wanted)
    if kept < len(found.values):  # copied, so that the others need not be kept
        found = Parts(found.left[:, :kept].clone(), found.values[:kept].clone(), found.right[:kept].clone())
    return Parts(found.right.T, found.values, found.left.T) if turned else found


def _decomposed(tall: Tensor) -> Parts:
    try:
        return Parts(*torch.linalg.svd(tall, full_matrices=False))
    except torch.linalg.LinAlgError:  # happens to some whose rank is low, where float64 tells their zeros apart
        return Parts(*(part.to(tall) for part in torch.linalg.svd(tall.cpu().double(), full_matrices=False)))


def _sketched(tall: Tensor, rank: int) -> Parts:
    """About the same, from what the matrix makes of a few random vectors (Halko, Martinsson and Tropp, 2011)."""
    source = torch.Generator().manual_seed(0)
    sketch = torch.randn(tall.shape[1], rank + SPARE, generator=source).to(tall)
    span = torch.linalg.qr(tall @ sketch).Q
    for _ in range(ROUNDS):
        span = torch.linalg.qr(tall @ torch.linalg.qr(tall.T @ span).Q).Q
    left, values, right = torch.linalg.svd(span.T @ tall, full_matrices=False)
    return Parts(span @ left, values, right)


def joined(several: Iterable[Parts]) -> Parts:
    """The directions of several matrices side by side."""
    lefts, values, rights = zip(*several, strict=True)
    return Parts(torch.cat(lefts, 1), torch.cat(values), torch.cat(rights))


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix whose directions all have length 1, (rows, columns); 0 along those where it was 0."""
    if not matrix.numel():
        return matrix
    left, _, right = parts(matrix)
    return left @ right


def mean_step(tau: Tensor, scaling: float) -> TaskCoefficients:
    """What tensors get that are no matrices: the plain mean of the task vectors, scaled."""
    shares = torch.full((len(tau),), scaling / len(tau))
    tell("coefficients", shares, "expert")
    return TaskCoefficients(shares)
