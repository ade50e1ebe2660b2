"""Numbers of the models on the screen that checks look at, from their comparison alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from merging.coefficients import coefficients
from merging.compare import Comparison
from merging.errors import MergeError
from merging.lazy import torch
from merging.memory import outcomes
from merging.method import Blend
from ui.lessons.lesson import Seen

if TYPE_CHECKING:
    from torch import Tensor


class Trimmed(NamedTuple):
    """What is left where each expert keeps only its largest entries, ranked over the whole model."""

    energy: float  # share of ‖τ‖², the mean over the experts
    conflict: float  # share of all entries in which two experts pull in opposite directions


class Step(NamedTuple):
    """What an entrywise method makes of the task vectors."""

    decided: tuple[float, float, float]  # shares of entries that no expert, one alone, or several decide
    length: float  # ‖merged τ‖ over the mean of the experts' ‖τ‖


def lengths(comparison: Comparison) -> dict[str, float]:
    """‖τ‖ of each expert over the whole model."""
    norms = comparison.norms.nan_to_num().square().sum(0).sqrt()
    return dict(zip(comparison.experts, norms.tolist(), strict=True))


def trimmed(comparison: Comparison, density: float = 1.0) -> Trimmed:
    """What is left of the entries looked at when each expert keeps that share of them."""
    tau = _task_vectors(comparison)
    size = tau.abs()
    rank = tau.shape[1] - max(1, int(density * tau.shape[1])) + 1
    kept = torch.where(size >= size.kthvalue(rank, dim=1, keepdim=True).values, tau, 0.0)
    energy = (kept.square().sum(1) / tau.square().sum(1)).mean()
    conflict = ((kept > 0).any(0) & (kept < 0).any(0)).float().mean()
    return Trimmed(float(energy), float(conflict))


def weights(seen: Seen) -> dict[str, float]:
    """The weight with which each expert enters the merge, the mean over its tensors by ‖τ‖²; empty where unknown."""
    found = _values(seen)
    if not found or not seen.comparison or not seen.recipe:
        return {}
    comparison = seen.comparison
    table = coefficients(seen.recipe.settings().method, found, comparison, comparison.probe).nan_to_num()
    by = comparison.norms.nan_to_num().square()
    return dict(zip(comparison.experts, ((table * by).sum(0) / by.sum(0)).tolist(), strict=True))


def step(seen: Seen) -> Step | None:
    """What the entrywise method on the screen makes of the entries looked at; none where that is not known."""
    found = _values(seen)
    if not found or not seen.comparison or not seen.recipe:
        return None
    comparison, method = seen.comparison, seen.recipe.settings().method
    entries, squares, counts = 0, 0.0, torch.zeros(3)
    for group, outcome in outcomes(method, found, {group.name: [group] for group in comparison.probe.groups}):
        if not isinstance(outcome, Blend):
            return None
        shares = outcome.shares()
        entries += group.size
        squares += float(shares.sum(0).square().sum())
        counts += (shares != 0).sum(0).clamp(max=2).flatten().bincount(minlength=3)
    lone = _task_vectors(comparison).norm(dim=1).mean()
    nobody, one, several = (counts / entries).tolist()
    return Step((nobody, one, several), squares**0.5 / float(lone))


def _values(seen: Seen) -> dict[str, object]:
    """The method's values by argument name, with the weights; empty where they vary or are wrong."""
    try:
        _, values, weights = seen.recipe.checked() if seen.recipe else (None, {}, [])
    except MergeError:
        return {}
    return {**values, "weight": torch.tensor(weights)}


def _task_vectors(comparison: Comparison) -> Tensor:
    """The entries looked at of all tensors, (experts, entries); 0 where an expert lacks a tensor."""
    rows = []
    for group in comparison.probe.groups:
        row = torch.zeros(len(comparison.experts), group.size)
        row[list(group.which)] = group.tau.flatten(1)
        rows.append(row)
    return torch.cat(rows, dim=1)
