"""All that is known of a base and its experts before they are merged, as tables by tensor and expert."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from merging.lazy import torch
from merging.statistics import warned
from merging.statistics.pairs import Pairs
from merging.statistics.probe import Probe

if TYPE_CHECKING:
    from torch import Tensor


def _unknown() -> Tensor:
    return torch.zeros(0)


def _no_pairs() -> Pairs:
    return Pairs(*(torch.zeros(0, 0, 0) for _ in range(3)))


@dataclass(frozen=True)
class Comparison:
    """Every merged tensor of the experts against the base, as two passes over the weights see it.

    Numbers of a tensor are NaN for an expert that lacks it, where a weight is not finite, and where they are not known
    yet. What `pairs`, `means` and all after them hold is empty where nothing of the kind was measured.
    """

    base: str
    experts: tuple[str, ...]
    names: tuple[str, ...]  # of the tensors, in the order of the layers
    shapes: tuple[tuple[int, ...], ...]
    has: Tensor  # (tensors, experts), whether the expert has the tensor
    base_norms: Tensor  # (tensors), Frobenius norms, float64
    norms: Tensor  # (tensors, experts), of the task vectors
    products: Tensor  # (tensors, 1 + experts, 1 + experts), inner, of base and task vectors; 0 where one is lacking
    squares: Tensor  # (tensors, experts, 3), of these norms and of those of adapters' factors: see `vectors.squares`
    factored: Tensor  # (tensors), whether each expert's task vector is a product of factors, or zero
    obstacles: dict[str, str]  # why adapters' factors cannot be averaged, by FroM's readings that would
    zeros: Tensor  # (tensors, experts), share of entries that did not move at all
    still: Tensor  # (experts), the same share over all tensors that the expert has
    # (experts, experts), between task vectors over the whole model, zero in tensors that are lacking; NaN where one is
    # zero everywhere.
    cosines: Tensor
    probe: Probe
    rows: Probe = field(default_factory=lambda: Probe((), 0.0))  # whole rows, for methods that look at rows
    means: Tensor = field(default_factory=_unknown)  # (tensors, experts), of the task vectors' entries
    kurtosis: Tensor = field(default_factory=_unknown)  # (tensors, experts), not the excess: 3 of a normal distribution
    # (tensors, experts, densities), the share of each squared norm that the largest entries hold, at the shares of
    # entries that `magnitudes.DENSITIES` lists; and over the whole model, (experts, densities), when all is read.
    energy: Tensor = field(default_factory=_unknown)
    energies: Tensor = field(default_factory=_unknown)
    pairs: Pairs = field(default_factory=_no_pairs)
    # The same after trimming, by density: each expert keeps that share of all its entries, or as little more as
    # `thresholds`, (experts, densities), make it, which rank the entries over the whole model, as TIES does.
    trimmed: dict[float, Pairs] = field(default_factory=dict)
    thresholds: Tensor = field(default_factory=_unknown)
    read: Tensor = field(default_factory=_unknown)  # (tensors), whether it has been read; empty when all have

    @property
    def relative(self) -> Tensor:
        """The task vectors' norms over those of the base, (tensors, experts); NaN where the base is zero."""
        base = self.base_norms[:, None]
        return torch.where(base > 0, self.norms / base, torch.nan)

    @property
    def unread(self) -> Tensor:
        """Which tensors are not known yet, (tensors)."""
        return ~self.read if len(self.read) else torch.zeros(len(self.names), dtype=torch.bool)

    @property
    def kept(self) -> dict[float, Tensor]:
        """The share of entries of each tensor that trimming leaves, (tensors, experts), by density."""
        sizes = torch.tensor([max(1, torch.Size(shape).numel()) for shape in self.shapes])[:, None]
        tables = {density: pairs.both.diagonal(dim1=1, dim2=2) / sizes for density, pairs in self.trimmed.items()}
        return {density: torch.where(self.has, table, torch.nan) for density, table in tables.items()}

    def gaps(self, table: Tensor, otherwise: str = "none of the entries looked at moved") -> dict[tuple[int, int], str]:
        """Why a table of tensors and experts has no number, in words, by row and column."""
        places = table.isnan().nonzero().tolist()
        unread = self.unread
        return {(row, col): "not read yet" if unread[row] else self._gap(row, col) or otherwise for row, col in places}

    def _gap(self, tensor: int, expert: int) -> str:
        if not self.has[tensor, expert]:
            return "does not have this tensor"
        if self.norms[tensor, expert].isnan():
            return "holds NaN or infinity"
        if self.norms[tensor, expert] == 0:
            return "did not move here"
        return "the base is zero here" if self.base_norms[tensor] == 0 else ""

    def warnings(self) -> list[str]:
        """What looks wrong with the experts, one sentence each; of all tensors, so none before they are read."""
        return [] if self.unread.any() else warned.warnings(self)
