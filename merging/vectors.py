"""The algebra that methods share: sums, norms and magnitudes.

Tensors here are float32 of shape (experts, entries) unless said otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from merging import kernels
from merging.groups import Bits, Group, Groups, Stored, of_some
from merging.lazy import torch
from merging.ranking import NotFiniteError
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor

SUMS = kernels.BLOCK // 8  # that are added up next to each other


def total(rows: Tensor) -> Tensor:
    """The sum over experts, (entries), added from the first to the last."""
    result = rows[0].clone()
    for row in rows[1:]:
        result += row
    return result


def disjoint(weighted: Tensor, agrees: Tensor, weight: Tensor, merge: str) -> tuple[Tensor, Tensor | float]:
    """The entries of weighted task vectors that agree with an elected sign, and what their sum is divided by.

    `merge` is `mean`, over the weights (experts) of those that agree, or `sum`.
    """
    parts = torch.where(agrees, weighted, 0.0)
    tell("agreeing", parts)
    if merge == "sum":
        return parts, 1.0
    count = total(weight[:, None] * agrees)
    tell("weight that agrees", count, "entry")
    nothing = count.abs() <= least(weight)  # no expert, or weights that cancel but for rounding
    return parts, torch.where(nothing, 1.0, count)


def least(weight: Tensor) -> Tensor:
    """What a sum of some of the weights is more than, unless it is 0 but for rounding."""
    return 1e-6 * weight.abs().sum()


def averaging(weight: Tensor) -> Tensor:
    """The sum of the weights; 1 where they cancel, as in mergekit, which knows only 1e-8: less than their rounding."""
    whole = weight.sum()
    return torch.where(whole.abs() <= least(weight).clamp(min=1e-8), 1.0, whole)


def largest(rows: Tensor) -> Tensor:
    """The rows with only the largest magnitude at each entry, of the first expert that has it, and 0 in the others."""
    size = rows.abs()
    top = size.amax(0)
    parts, free = [], torch.ones_like(top, dtype=torch.bool)
    for row, own in zip(rows, size, strict=True):
        wins = free & (own == top)
        parts.append(torch.where(wins, row, 0.0))
        free = free & ~wins
    found = torch.stack(parts)
    tell("largest", found)
    return found


def norms(groups: Groups) -> Tensor:
    """The Frobenius norm of each expert's task vector, (experts), accumulated in float64."""
    return squares(groups)[:, 0].sqrt()


def squares(groups: Groups) -> Tensor:
    """The sums of squares of the task vectors, and of the factors A and B that they are products of, (experts, 3).

    What is no product of factors counts for A as it is. In float64; no product is formed.
    """
    if groups.one is not None:
        whole = groups.one.tau.double().square().sum(1)
        return torch.stack([whole, whole, torch.zeros_like(whole)], 1)
    known, rest = groups.apart() if groups.apart else (torch.zeros(len(groups.sizes), 3, dtype=torch.float64), groups)
    if rest:
        known[:, :2] += rest.sum(squared_norms, squared_norms_in)[:, None]
    if not known.isfinite().all():
        raise NotFiniteError
    return known


def squared_norms(group: Group) -> Tensor:
    """The sums of squares of the task vectors, (experts), float64; `kernels.sums.squares` says how they are added."""
    if group.fused:
        from merging.kernels import sums

        return torch.from_numpy(sums.squares(group.bits))
    tau = group.tau.cpu().flatten(1)  # not every device has float64
    total = _squared(tau)
    exact = _squared(tau.double())
    return torch.where((total >= kernels.SMALL) & (total < torch.inf), total, exact)


def _squared(tau: Tensor) -> Tensor:
    """The sums of squares, of which eight are added with the precision of `tau`, and what comes out in float64."""
    padded = torch.nn.functional.pad(tau, (0, -tau.shape[1] % (8 * SUMS)))
    a, b, c, d, e, f, g, h = padded.unflatten(1, (-1, 8, SUMS)).square().unbind(2)
    return _added(((a + b) + (c + d)) + ((e + f) + (g + h)))


def sums(rows: Tensor) -> Tensor:
    """The sums of numbers that are not negative, row by row, in float64; added as in `kernels.sums.add_up`."""
    rows = rows.cpu().double()
    return _added(torch.nn.functional.pad(rows, (0, -rows.shape[1] % SUMS)).unflatten(1, (-1, SUMS)))


def _added(parts: Tensor) -> Tensor:
    """The sums of (experts, parts, SUMS) in float64: over the parts first, and then by halves."""
    parts = parts.double()
    total = parts.cumsum(1)[:, -1] if parts.shape[1] else torch.zeros(len(parts), SUMS, dtype=torch.float64)
    while total.shape[1] > 1:
        total = total[:, : total.shape[1] // 2] + total[:, total.shape[1] // 2 :]
    return total[:, 0]


def squared_norms_in(stored: Stored) -> Bits | None:
    """The same of each tile of a piece in files, (tiles, experts); None where it cannot be read."""
    from merging.kernels import files

    out = np.empty((-(-stored.size // stored.tile), len(stored.which)))
    return out if files.squares(*stored.place, stored.size, out) else None


def magnitudes(group: Group) -> Tensor:
    """The magnitudes of the task vectors' entries. Valid until the thread asks for the next ones."""
    if group.fused:
        from merging.kernels import ranks

        out = kernels.scratch("values", (len(group.which), group.size), np.float32)
        ranks.magnitudes(group.bits, out)
        return torch.from_numpy(out)
    return group.tau.abs()


def count_magnitudes(group: Group, *counting: Any) -> None:
    """Count the magnitudes where `order_statistics` wants them counted, without writing them down."""
    from merging.kernels import ranks

    ranks.tally_magnitudes(group.bits, *counting)


class Picked:
    """What a survey says of the experts that have a tensor, kept for each set of them: where they are needed."""

    def __init__(self, survey: Any) -> None:
        self.survey = survey
        self.known: dict[tuple[int, ...], Any] = {}

    def of(self, group: Group) -> Any:
        """As tensors, where the group is."""
        if group.which not in self.known:
            self.known[group.which] = of_some(self.survey, group.which, group.device)
        return self.known[group.which]
