"""What an adapter makes of one tensor of its base: W0 + s B A, or a tensor that was trained in full.

No dense copy is ever written: each run of entries is computed when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from merging.checkpoint import Checkpoint


@dataclass(frozen=True)
class Update:
    """One matrix of the base with what an adapter adds to it: scaling times the product of its two factors."""

    base: Checkpoint
    name: str
    factors: Checkpoint
    down: str  # A, (rank, columns)
    up: str  # B, (rows, rank)
    scaling: float
    transposed: bool = False  # the base stores rows as columns: embeddings, and GPT-2's own linear layers

    @property
    def files(self) -> set[Path]:
        factors = self.factors
        return self.base.files_of(self.name) | factors.files_of(self.down) | factors.files_of(self.up)

    def read(self, start: int, stop: int) -> Tensor:
        """Entries of the sum, laid flat, in float32."""
        values = self.base.read(self.name, start, stop).float()
        if not len(values):
            return values
        columns, rank = self.base.entries[self.name].shape[1], self.factors.entries[self.down].shape[0]
        first, last = start // columns, (stop - 1) // columns + 1
        if self.transposed:
            up = self.factors.tensor(self.down)[:, first:last].T.float()
            down = self.factors.tensor(self.up).T.float()
        else:
            up = self.factors.read(self.up, first * rank, last * rank).reshape(-1, rank).float()
            down = self.factors.tensor(self.down).float()
        product = (up @ down).flatten()[start - first * columns :]
        return values + self.scaling * product[: len(values)]


@dataclass(frozen=True)
class Instead:
    """A tensor that was trained in full beside an adapter, in place of the base's."""

    adapter: Checkpoint
    name: str

    @property
    def files(self) -> set[Path]:
        return self.adapter.files_of(self.name)

    def read(self, start: int, stop: int) -> Tensor:
        """Entries of it, laid flat, in float32."""
        return self.adapter.read(self.name, start, stop).float()
