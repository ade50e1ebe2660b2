"""How many directions a task vector takes: its singular values, found in bounded time."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.crew import Crew
from merging.errors import MergeError
from merging.lazy import torch
from merging.microscope import finite, merged_entry, names_of
from merging.plan import Plan
from merging.sampled import spread
from merging.spectral import parts

if TYPE_CHECKING:
    from torch import Tensor

VALUES = 256  # singular values at most
SIDE = 1024  # of a matrix whose singular values are found exactly
READ = {True: 1 << 24, False: 1 << 26}  # entries of a matrix that are looked at, where it is exact or sketched
BLOCK = 1 << 20  # entries that are read or multiplied at once
NEAR = 16  # lines side by side, where not all are looked at


@dataclass(frozen=True)
class Spectra:
    """The largest singular values of each expert's task vector of a matrix."""

    experts: tuple[str, ...]
    values: Tensor  # (experts, values), descending, float64
    stable_ranks: Tensor  # (experts): squared Frobenius norm over squared largest value; NaN where nothing moved
    exact: bool  # or found from a sketch, of a part of the rows or columns where the matrix is very large


def spectra(work: Plan, name: str, stop: threading.Event | None = None) -> Spectra:
    """The largest singular values of each expert's task vector, at most 256, and its stable rank.

    MergeError where the tensor is no matrix or a number is not finite; MergeStopped when asked to stop.
    """
    shape = merged_entry(work, name).shape
    if len(shape) != 2:
        axes = " × ".join(map(str, shape)) or "a single number"
        raise MergeError(f"`{name}` ({axes}) is no matrix, and has no singular values. Choose one with two axes.")
    small = min(shape) <= SIDE
    kept = min(VALUES, *shape)
    values = torch.zeros(len(work.merged[name]), kept, dtype=torch.float64)
    ranks = torch.full((len(values),), torch.nan, dtype=torch.float64)

    def decompose(told: tuple[int, int]) -> None:
        row, index = told
        matrix = finite(_matrix(work, name, index, READ[small]), name)
        stretch = (shape[0] * shape[1] / matrix.numel()) ** 0.5  # of what stands for more rows or columns than it has
        found = stretch * (_by_gram(matrix) if small else parts(matrix, kept, "randomised").values.double())
        values[row, : len(found)] = found[:kept]
        if values[row, 0] > 0:
            ranks[row] = (stretch * matrix.norm(dtype=torch.float64) / values[row, 0]).square()

    Crew(1, stop).run(decompose, enumerate(work.merged[name]))
    return Spectra(names_of(work, name), values, ranks, small and shape[0] * shape[1] <= READ[small])


def _by_gram(matrix: Tensor) -> Tensor:
    """All singular values, descending, from the inner products of the shorter side, in float64."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    products = torch.zeros(2 * tall.shape[1:], dtype=torch.float64)
    for block in tall.split(max(1, BLOCK // tall.shape[1])):
        lifted = block.double()
        products.addmm_(lifted.T, lifted)
    squares: Tensor = torch.linalg.eigvalsh(products)
    return squares.clamp(min=0).sqrt().flip(0)


def _matrix(work: Plan, name: str, index: int, most: int) -> Tensor:
    """An expert's task vector of a matrix; of more entries than `most` some lines, spread along its longer side."""
    rows, columns = work.base.entries[name].shape
    tall = rows >= columns
    lines = spread(max(rows, columns), max(1, most // min(rows, columns)), NEAR)
    taken = torch.cat([torch.arange(run.start, run.stop) for run in lines])
    if not tall:
        step = max(1, BLOCK // columns)
        lines = [range(start, min(start + step, rows)) for start in range(0, rows, step)]
    out = torch.empty(len(taken) if tall else rows, columns if tall else len(taken))
    at = 0
    for run in (part for line in lines for part in _parted(line, max(1, BLOCK // columns))):
        one, base = (
            model.read(name, run.start * columns, run.stop * columns).float().reshape(-1, columns)
            for model in (work.experts[index], work.base)
        )
        out[at : at + len(run)] = (one - base) if tall else (one - base)[:, taken]
        at += len(run)
    return out


def _parted(run: range, most: int) -> list[range]:
    return [run[start : start + most] for start in range(0, len(run), most)]
