"""DoRA: Weight-Decomposed Low-Rank Adaptation (Liu et al., 2024): a matrix whose outputs have lengths of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from merging.lazy import torch
from merging.lora import BLOCK, Update

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scaled:
    """One matrix of the base with an adapter's product, W0 + s B A, each output of which is brought to a length.

    After equation 5 of arXiv:2402.09353. It is read like any full weight: its task vector is no product of factors.
    """

    update: Update
    magnitude: str  # the lengths, (outputs)

    @property
    def files(self) -> set[Path]:
        return self.update.files | self.update.factors.files_of(self.magnitude)

    @cached_property
    def lengthened(self) -> Tensor:
        """What each output is multiplied by, (outputs), float32: its length over what it has, or 0 if that is none."""
        rows, columns = self.update.shape
        squares = torch.zeros(columns if self.update.transposed else rows, dtype=torch.float64)
        step = max(1, BLOCK // columns)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            block = self.update.read(first * columns, last * columns).view(-1, columns).double().square()
            if self.update.transposed:
                squares += block.sum(0)
            else:
                squares[first:last] = block.sum(1)
        wanted = self.update.factors.tensor(self.magnitude).double().flatten()
        return torch.where(squares > 0, wanted / squares.sqrt(), 0.0).float()

    def read(self, start: int, stop: int) -> Tensor:
        """Entries of it, laid flat, in float32."""
        values, columns = self.update.read(start, stop), self.update.shape[1]
        places = torch.arange(start, stop)
        return values * self.lengthened[places % columns if self.update.transposed else places // columns]
