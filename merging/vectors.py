"""The algebra that methods share: sums, norms, and exact order statistics over a stream.

Tensors here are float32 of shape (experts, entries) unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from merging import kernels
from merging.groups import Bits, Group, Groups
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

BIN = 1 << 16  # the upper half of a float32's bits picks the bin, the lower half the place in it
FEW = 1 << 16  # numbers that are quicker sorted than counted
Ranks = Callable[[int, int], list[int]]
FIRST, LAST = 0x0080, 0xFF80  # the bins of finite numbers begin here and end before there


class NotFiniteError(Exception):
    """Some number is infinite or not a number, in the tensor of that name or anywhere; the engine finds out which."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.name = name


def total(rows: Tensor) -> Tensor:
    """The sum over experts, (entries), added from the first to the last."""
    result = rows[0].clone()
    for row in rows[1:]:
        result += row
    return result


def norms(groups: Groups) -> Tensor:
    """The Frobenius norm of each expert's task vector, (experts), accumulated in float64."""
    squares = groups.sum(squared_norms)
    if not squares.isfinite().all():
        raise NotFiniteError
    return squares.sqrt()


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


def order_statistics(groups: Groups, values: Callable[[Group], Tensor], ranks: Ranks) -> Tensor:
    """For each expert, the values of the ranks wanted, (experts, ranks).

    `values` of all groups are ranked together, ascending and counted from 0; `ranks` is asked for the ranks wanted, by
    the number of an expert's entries and the number of the expert. Exact, in two passes and constant memory: the order
    of float32 numbers is that of their bits, so a histogram of the upper 16 bits finds the bin of a rank, and one of
    the lower 16 bits inside that bin finds the number.
    """
    if groups.entries <= FEW:
        return _sorted(groups, values, ranks)
    upper = torch.from_numpy(groups.count(lambda group, into: _count_upper(values(group), into), (BIN,)))
    if upper[:, :FIRST].any() or upper[:, LAST:].any():
        raise NotFiniteError
    wanted = torch.tensor([ranks(entries, expert) for expert, entries in enumerate(upper.sum(1).tolist())])
    bins, inside = _find(upper, wanted)

    def count(group: Group, into: Bits) -> None:
        _count_lower(values(group), bins[list(group.which)], into)

    lower = torch.from_numpy(groups.count(count, (wanted.shape[1], BIN)))
    places = [_find(lower[:, place], inside[:, place, None])[0][:, 0] for place in range(wanted.shape[1])]
    return _from_ordered(bins << 16 | torch.stack(places, dim=1))


def _sorted(groups: Groups, values: Callable[[Group], Tensor], ranks: Ranks) -> Tensor:
    """The same for a few numbers, which all fit the memory."""
    found: list[list[Tensor]] = [[] for _ in range(groups.experts)]

    def visit(_: int, group: Group) -> None:
        for expert, row in zip(group.which, values(group).cpu(), strict=True):
            found[expert].append(row.clone())

    groups.each(visit)
    rows = [torch.cat(parts).sort().values for parts in found]
    if not all(row.isfinite().all() for row in rows):
        raise NotFiniteError
    return torch.stack([row[ranks(len(row), expert)] for expert, row in enumerate(rows)])


def _count_upper(values: Tensor, counts: Bits) -> None:
    if values.device.type == "cpu" and kernels.usable():
        from merging.kernels import ranks

        return ranks.count_upper(values.numpy(), counts)  # type: ignore[no-any-return]
    for row, codes in zip(counts, _ordered(values) >> 16, strict=True):
        row += torch.bincount(codes, minlength=BIN).cpu().numpy()
    return None


def _count_lower(values: Tensor, bins: Tensor, counts: Bits) -> None:
    if values.device.type == "cpu" and kernels.usable():
        from merging.kernels import ranks

        return ranks.count_lower(values.numpy(), bins.numpy(), counts)  # type: ignore[no-any-return]
    for rows, codes, chosen in zip(counts, _ordered(values), bins.tolist(), strict=True):
        for row, place in zip(rows, chosen, strict=True):
            row += torch.bincount(codes[codes >> 16 == place] & (BIN - 1), minlength=BIN).cpu().numpy()
    return None


def _ordered(values: Tensor) -> Tensor:
    """Integers from 0 to 2^32 - 1 in the order of the float32 values."""
    bits = values.contiguous().view(torch.int32).long()
    return torch.where(bits < 0, ~bits, bits + 2**31)


def _from_ordered(codes: Tensor) -> Tensor:
    bits = torch.where(codes < 2**31, ~codes, codes - 2**31)
    return bits.int().view(torch.float32)


def _find(counts: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """The bins, of (experts, BIN), that hold the ranks, (experts, ranks); and the ranks inside those bins."""
    ends = counts.cumsum(1)
    bins = torch.searchsorted(ends, ranks.contiguous(), right=True)
    return bins, ranks - (ends - counts).gather(1, bins)
