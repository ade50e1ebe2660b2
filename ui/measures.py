"""What can be said of the tensors of an expert in one number each, before anything is merged; and of two experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.compare import Comparison
from merging.lazy import torch
from merging.statistics.magnitudes import DENSITIES
from merging.statistics.pairs import Pairs

if TYPE_CHECKING:
    from torch import Tensor


TOP = 0.2  # share of entries, as TIES keeps by default


@dataclass(frozen=True)
class Measure:
    """A number per tensor and expert: its name in the list, what is beside the colour bar, and how it is written."""

    title: str
    label: str
    table: Callable[[Comparison], Tensor]  # (tensors, experts); NaN where there is none
    over: Callable[
        [Comparison, Tensor], Tensor
    ]  # the same for groups of tensors: (groups, tensors) to (groups, experts)
    form: str = ".4g"


def _norms(known: Comparison, groups: Tensor) -> Tensor:
    return (groups @ known.norms.square().nan_to_num()).sqrt()


def _relative(known: Comparison, groups: Tensor) -> Tensor:
    base = groups @ torch.where(known.has, known.base_norms.square()[:, None], 0.0).nan_to_num()
    return torch.where(base > 0, _norms(known, groups) / base.sqrt(), torch.nan)


def averaged(table: Callable[[Comparison], Tensor]) -> Callable[[Comparison, Tensor], Tensor]:
    """The mean of a table over groups of tensors, by their numbers of entries."""

    def over(known: Comparison, groups: Tensor) -> Tensor:
        found = table(known).double()
        sizes = torch.tensor([float(max(1, _size(shape))) for shape in known.shapes], dtype=torch.float64)[:, None]
        sizes = torch.where(found.isnan(), 0.0, sizes)
        whole = groups @ sizes
        return torch.where(whole > 0, (groups @ (found.nan_to_num() * sizes)) / whole, torch.nan)

    return over


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


RELATIVE = Measure("Distance from the base, relative", "‖τ‖ / ‖W₀‖", lambda known: known.relative, _relative)
ABSOLUTE = Measure("Norm of the task vector", "‖τ‖", lambda known: known.norms, _norms)
UNMOVED = Measure(
    "Entries that did not move", "unmoved", lambda known: known.zeros, averaged(lambda known: known.zeros), ".1%"
)
KURTOSIS = Measure(
    "Kurtosis of the entries", "kurtosis", lambda known: known.kurtosis, averaged(lambda known: known.kurtosis), ".3g"
)
MEAN = Measure("Mean of the entries", "mean", lambda known: known.means, averaged(lambda known: known.means), ".3g")
ENERGY = Measure(
    f"Energy in the largest {TOP:.0%} of entries", "energy", lambda known: _energy(known),
    averaged(lambda known: _energy(known)), ".0%",
)  # fmt: skip
CONFLICT = Measure(
    "Entries in sign conflict with other experts", "in conflict", lambda known: _conflicts(known, None),
    lambda known, groups: _conflicts(known, groups), ".1%",
)  # fmt: skip
MEASURES = {measure.title: measure for measure in (RELATIVE, ABSOLUTE, UNMOVED, CONFLICT, ENERGY, KURTOSIS, MEAN)}


def _energy(known: Comparison) -> Tensor:
    """The share of each squared norm that the largest entries hold, (tensors, experts), between what is known of it."""
    above = next(index for index, density in enumerate(DENSITIES) if density >= TOP)
    share = (TOP - DENSITIES[above - 1]) / (DENSITIES[above] - DENSITIES[above - 1])
    return torch.lerp(known.energy[..., above - 1], known.energy[..., above], share)


def _conflicts(known: Comparison, groups: Tensor | None) -> Tensor:
    """Of the entries that an expert and another one moved, counted for each other one, those to different signs."""
    both, conflicts = (table.nan_to_num() for table in (known.pairs.both, known.pairs.conflicts))
    others = 1 - torch.eye(len(known.experts), dtype=torch.float64)
    whole, apart = (both * others).sum(2), (conflicts * others).sum(2)
    if groups is not None:
        whole, apart = groups @ whole, groups @ apart
    return torch.where(whole > 0, apart / whole, torch.nan)


def grouped(labels: list[str], wanted: list[str]) -> Tensor:
    """Which tensors belong to which of the wanted labels, (wanted, tensors) of zeros and ones."""
    member = torch.zeros(len(wanted), len(labels), dtype=torch.float64)
    places = {label: index for index, label in enumerate(wanted)}
    for column, label in enumerate(labels):
        if label in places:
            member[places[label], column] = 1
    return member


def awaited(known: Comparison, density: float | None) -> Tensor:
    """The tensors of which it will be told, and is not yet, what each two experts have in common, (tensors)."""
    if density is None:
        return known.unread
    whole, left = (pairs.products.isfinite().all(2).all(1) for pairs in (known.pairs, known.trimmed[density]))
    return known.unread | (whole & ~left)


def pairs_of(known: Comparison, density: float | None) -> Pairs:
    """What each two experts have in common, before trimming, or after trimming each to that share of entries."""
    return known.pairs if density is None else known.trimmed[density]
