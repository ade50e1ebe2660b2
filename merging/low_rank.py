"""Matrices of low rank as products of two factors: several side by side, fewer of them, and the best for any matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

SPARE, ROUNDS = 8, 6  # of a randomised decomposition: directions beyond the rank, and how often they are refined
WIDE = 1 << 10  # rows or columns that are lifted to float64 at a time


@dataclass(frozen=True)
class Factors:
    """The matrix B A, (rows, columns), as its factors."""

    down: Tensor  # A, (rank, columns)
    up: Tensor  # B, (rows, rank)

    @property
    def rank(self) -> int:
        return len(self.down)

    def product(self) -> Tensor:
        """The matrix itself."""
        return self.up @ self.down


class Loss(NamedTuple):
    """What a lower rank costs: the squared norm of what is left out, and of all there was."""

    lost: float
    whole: float

    @property
    def share(self) -> float:
        return self.lost / self.whole if self.whole > 0 else 0.0


def beside(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The sum of weights times products, exactly: the factors side by side, with the weights on A."""
    down = torch.cat([weight * part.down for weight, part in zip(weights, parts, strict=True)])
    return Factors(down, torch.cat([part.up for part in parts], dim=1))


def squared_norm(factors: Factors) -> float:
    """The squared Frobenius norm of a product, which is not formed; in float64."""
    up, down = factors.up.double(), factors.down.double()
    return max(0.0, float(((up.T @ up) * (down @ down.T)).sum()))


def compressed(factors: Factors, rank: int) -> tuple[Factors, Loss]:
    """The product of that rank which is nearest to this one, or this one where its rank is no higher.

    By QR decompositions of both factors and the SVD of a matrix of rank times rank, all in float64.
    """
    if rank >= factors.rank:
        return factors, Loss(0.0, squared_norm(factors))
    left, inner = torch.linalg.qr(factors.up.double())
    right, outer = torch.linalg.qr(factors.down.double().T)
    turned, sizes, back = torch.linalg.svd(inner @ outer.T, full_matrices=False)
    return _cut(left @ turned, sizes, back @ right.T, rank)


Blocks = Callable[[], Iterable["Tensor"]]  # the rows of a matrix from first to last, some at a time, float32


def nearest(blocks: Blocks, shape: tuple[int, int], rank: int, randomised: bool = False) -> tuple[Factors, Loss]:
    """The product of that rank which is nearest to a matrix of that shape: its truncated SVD.

    By the eigenvectors of its smaller Gram matrix, in float64; or by a randomised decomposition, which is quicker and
    finds a little less.
    """
    if randomised and rank + SPARE < min(shape):
        return _sketched(blocks, shape, rank)
    if shape[0] < shape[1]:
        matrix = torch.cat([*blocks()])
        values, vectors = torch.linalg.eigh(sum(_outer(part) for part in matrix.split(WIDE, dim=1)))
        basis = vectors[:, -rank:].flip(1)
        right = torch.cat([basis.T @ part.double() for part in matrix.split(WIDE, dim=1)], dim=1)
        sizes = right.norm(dim=1)
        factors = Factors((right / torch.where(sizes > 0, sizes, 1.0)[:, None]).float(), (basis * sizes).float())
    else:
        values, vectors = torch.linalg.eigh(sum(_outer(block.T) for block in blocks()))
        basis = vectors[:, -rank:].flip(1)
        factors = Factors(
            basis.T.float().contiguous(), torch.cat([(block.double() @ basis).float() for block in blocks()])
        )
    squares = values.clamp(min=0)
    return factors, Loss(float(squares[:-rank].sum()), float(squares.sum()))


def _outer(part: Tensor) -> Tensor:
    wide = part.double()
    return wide @ wide.T


def _sketched(blocks: Blocks, shape: tuple[int, int], rank: int) -> tuple[Factors, Loss]:
    """The same within the directions that a few random ones become when the matrix is applied to them."""
    generator = torch.Generator().manual_seed(0)
    right = torch.randn(shape[1], rank + SPARE, generator=generator)
    for _ in range(ROUNDS):
        left = torch.linalg.qr(torch.cat([block @ right for block in blocks()])).Q
        right = torch.linalg.qr(_applied(blocks, left)).Q
    left = torch.linalg.qr(torch.cat([block @ right for block in blocks()])).Q
    turned, sizes, back = torch.linalg.svd(_applied(blocks, left).T, full_matrices=False)
    whole = sum(float(block.double().square().sum()) for block in blocks())
    factors, loss = _cut(left @ turned, sizes, back, rank)
    return factors, Loss(max(0.0, whole - loss.whole + loss.lost), whole)


def _applied(blocks: Blocks, left: Tensor) -> Tensor:
    """The matrix, transposed, times another, (rows, any)."""
    total, row = None, 0
    for block in blocks():
        part = block.T @ left[row : row + len(block)]
        total, row = part if total is None else total + part, row + len(block)
    assert total is not None
    return total


def _cut(left: Tensor, sizes: Tensor, right: Tensor, rank: int) -> tuple[Factors, Loss]:
    """The first terms of a decomposition, with the singular values on B, as PEFT has them."""
    squares = sizes.double().square()
    factors = Factors(right[:rank].float(), (left[:, :rank] * sizes[:rank]).float())
    return factors, Loss(float(squares[rank:].sum()), float(squares.sum()))


def of_matrix(matrix: Tensor, rank: int, randomised: bool = False) -> tuple[Factors, Loss]:
    """The nearest product to a matrix in memory."""
    rows, columns = matrix.shape
    return nearest(lambda: matrix.split(WIDE), (rows, columns), rank, randomised)


def passes(shape: tuple[int, int], rank: int, randomised: bool) -> int:
    """How often `nearest` goes over a matrix."""
    if randomised and rank + SPARE < min(shape):
        return 2 * ROUNDS + 3
    return 1 if shape[0] < shape[1] else 2


def room_for(shape: tuple[int, int]) -> int:
    """About how many bytes it takes to find the nearest product to a matrix that is read by rows."""
    side = min(shape)
    return 8 * 4 * side * side + (4 * 2 * shape[0] * shape[1] if shape[0] < shape[1] else 0)


def told(losses: dict[str, Loss]) -> list[str]:
    """What was lost of several matrices, by name, in a sentence; nothing where it is no more than rounding."""
    lost, whole = (sum(numbers) for numbers in zip(*losses.values(), strict=True)) if losses else (0.0, 0.0)
    if lost <= 1e-9 * whole:
        return []
    worst = max(losses, key=lambda name: losses[name].share)
    words = f"The rank leaves out {lost / whole:.2%} of the squared norm of all updates"
    return [f"{words}, and most of `{worst}`: {losses[worst].share:.2%}. A higher one leaves out less."]
