"""What each two experts have in common: the angle between their task vectors, and how often their signs differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Pairs of experts in each tensor, (tensors, experts, experts), float64; NaN where it is not known.

    After trimming, entries that were trimmed count as not moved. What an expert lacks counts as 0.
    """

    products: Tensor  # inner, of task vectors
    both: Tensor  # entries that both experts moved; of an expert and itself, those that it moved
    conflicts: Tensor  # those of them that they moved to different signs

    @property
    def cosines(self) -> Tensor:
        """Between task vectors of each tensor, from -1 to 1; NaN where one is zero everywhere."""
        return _cosines(self.products)

    @property
    def rates(self) -> Tensor:
        """The share of entries with different signs, of those that both moved; NaN where there is none."""
        return self.conflicts / self.both

    def of(self, rows: Tensor | slice = slice(None)) -> Pairs:
        """The same over some tensors together, those of a layer for instance, or all: (1, experts, experts)."""
        parts = (self.products, self.both, self.conflicts)
        return Pairs(*(part[rows].nan_to_num(posinf=0, neginf=0).sum(0, keepdim=True) for part in parts))


def _cosines(products: Tensor) -> Tensor:
    lengths = products.diagonal(dim1=-2, dim2=-1).sqrt()
    return (products / (lengths[..., None] * lengths[..., None, :])).where(products.isfinite(), torch.nan)
