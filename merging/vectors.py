"""The algebra that methods share: sums, norms and magnitudes.

Tensors here are float32 of shape (experts, entries) unless said otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from merging import kernels
from merging.groups import Group, Groups, of_some
from merging.lazy import torch
from merging.ranking import NotFiniteError

if TYPE_CHECKING:
    from torch import Tensor


def total(rows: Tensor) -> Tensor:
    """The sum over experts, (entries), added from the first to the last."""
    result = rows[0].clone()
    for row in rows[1:]:
        result += row
    return result


def norms(groups: Groups) -> Tensor:
    """The Frobenius norm of each expert's task vector, (experts), accumulated in float64."""
    return squares(groups)[:, 0].sqrt()


def squares(groups: Groups) -> Tensor:
    """The sums of squares of the task vectors, and of the factors A and B that they are products of, (experts, 3).

    What is no product of factors counts for A as it is. In float64; no product is formed.
    """
    known, rest = groups.apart() if groups.apart else (torch.zeros(len(groups.sizes), 3, dtype=torch.float64), groups)
    found = groups.sum(squared_norms) if rest is groups else rest.sum(squared_norms) if rest else known.new_zeros(1)
    total = known + found.reshape(-1, 1) * torch.tensor([1.0, 1.0, 0.0])
    if not total.isfinite().all():
        raise NotFiniteError
    return total


def squared_norms(group: Group) -> Tensor:
    """The sums of squares of the task vectors, (experts), float64."""
    if group.fused:
        from merging.kernels import sums

        return torch.from_numpy(sums.squares(group.bits))
    return group.tau.cpu().double().square().sum(-1)  # not every device has float64


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
