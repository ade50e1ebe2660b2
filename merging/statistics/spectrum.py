"""The singular values of one tensor's task vectors, when they are asked for."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.crew import Crew, breathe
from merging.errors import MergeError
from merging.factored import factored
from merging.lazy import torch
from merging.lora import Update
from merging.plan import Plan
from merging.stream import Stream

if TYPE_CHECKING:
    from torch import Tensor

WORK = 1 << 25  # entries of one matrix that are looked at: some seconds, and memory for all experts' in float32
WIDEST = 2048  # of its shorter side


@dataclass(frozen=True)
class Spectrum:
    """The singular values of a task vector, the largest first; none where it is no matrix, or holds NaN or infinity."""

    values: Tensor  # (shorter side), float64
    stable_rank: float  # the squared norm over the square of the largest value, at least 1; NaN where all is zero
    share: float  # of the matrix that was looked at; 1 when the values are exact

    @property
    def exact(self) -> bool:
        return self.share == 1


def _nothing() -> Spectrum:
    return Spectrum(torch.zeros(0, dtype=torch.float64), float("nan"), 1.0)


def spectrum(work: Plan, name: str) -> dict[int, Spectrum]:
    """The spectrum of each expert's task vector of a tensor, by the expert's number; axes after the first count as one.

    That of an adapter follows from its factors; of others, from the inner products of rows, or of columns where those
    are fewer, in float64. Where these would take more than some seconds they are those of rows and columns drawn
    evenly, and the values an estimate for the whole: see `share`. MergeError where the tensor is not merged.
    """
    if name not in work.merged:
        raise MergeError(f"`{name}` is no tensor that is merged here. Choose another one.")
    which, entry = work.merged[name], work.base.entries[name]
    if len(entry.shape) < 2:
        return {index: _nothing() for index in which}
    known = {index: _of_factors(update) if update else _nothing() for index, update in factored(work, name).items()}
    if len(known) < len(which):
        read = _matrices(work, name, *_taken(entry.shape[0], entry.size // entry.shape[0]))
        known = {
            i: _decomposed(each, entry.size) for i, each in zip(which, read, strict=True) if i not in known
        } | known
    return {index: known[index] for index in which}


def _of_factors(update: Update) -> Spectrum:
    """That of a product: of the triangles that are left of its factors without their orthogonal parts."""
    rows, columns = update.shape
    sides = update.left(slice(0, rows)), update.right(slice(0, columns)).T
    up, down = (torch.linalg.qr(side.double(), mode="r").R for side in sides)
    if not (up.isfinite().all() and down.isfinite().all()):
        return _nothing()
    return _spectrum(torch.linalg.svdvals(up @ down.T) * abs(update.scaling), 1.0)


def _taken(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The rows and the columns that are looked at, all of them where the work allows it."""
    short = min(rows, columns, WIDEST)
    long = min(max(rows, columns), WORK // short)
    counts = (short, long) if rows <= columns else (long, short)
    return _evenly(rows, counts[0]), _evenly(columns, counts[1])


def _evenly(size: int, count: int) -> Tensor:
    return torch.arange(count) * size // count


def _matrices(work: Plan, name: str, rows: Tensor, columns: Tensor) -> Tensor:
    """These rows and columns of each expert's task vector, (experts, rows, columns)."""
    stream, long = Stream(work, Crew()), work.base.entries[name].size // work.base.entries[name].shape[0]
    stream.unit = lambda _: long
    parts: list[Tensor] = []
    with closing(stream.files):
        for tile in (tile for span in stream.spans(name) for tile in stream.read(span)):
            breathe()
            first, count = tile.start // long, tile.size // long
            mine = rows[(rows >= first) & (rows < first + count)] - first
            if len(mine):
                parts.append(tile.tau.reshape(-1, count, long)[:, mine][..., columns])
    return torch.cat(parts, 1)


def _decomposed(matrix: Tensor, entries: int) -> Spectrum:
    """The spectrum of a matrix; its values, of what was taken, stand for as much of the whole."""
    share = matrix.numel() / entries
    if not matrix.isfinite().all():
        return Spectrum(_nothing().values, float("nan"), share)
    breathe()
    double = matrix.double()
    gram = double @ double.T if matrix.shape[0] <= matrix.shape[1] else double.T @ double
    squares = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)
    return _spectrum((squares / share).sqrt(), share)


def _spectrum(values: Tensor, share: float) -> Spectrum:
    squares = values.square()
    return Spectrum(values, float(squares.sum() / squares[0]) if squares[0] else float("nan"), share)
