"""The algebra that methods share: norms, and exact order statistics over a stream.

Tensors here are float32 of shape (experts, entries) unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from merging.lazy import torch
from merging.method import Group, Groups

if TYPE_CHECKING:
    from torch import Tensor

BIN = 1 << 16  # the upper half of a float32's bits picks the bin, the lower half the place in it


def norms(groups: Groups) -> Tensor:
    """The Frobenius norm of each expert's task vector, (experts), accumulated in float64."""
    return groups.total(lambda group: group.tau.double().square().sum(-1)).sqrt()


def magnitudes(group: Group) -> Tensor:
    """The magnitudes of the task vectors' entries."""
    return group.tau.abs()


def order_statistics(
    groups: Groups, values: Callable[[Group], Tensor], ranks: Callable[[int], list[int]]
) -> tuple[Tensor, int]:
    """The values of the given ranks, and the number of entries that were ranked.

    For each expert, `values` of all chunks are ranked together, ascending and counted from 0; `ranks` maps the number
    of entries to the ranks wanted. Returns (experts, ranks). Exact, in two passes and constant memory: the order of
    float32 numbers is that of their bits, so a histogram of the upper 16 bits finds the bin of a rank, and one of the
    lower 16 bits inside that bin finds the number.
    """
    upper = groups.total(lambda group: _counts(_ordered(values(group)) >> 16))
    entries = int(upper[0].sum())
    wanted = torch.tensor(ranks(entries)).expand(len(upper), -1).contiguous()
    bins, inside = _find(upper, wanted)

    def lower(group: Group) -> Tensor:
        codes = _ordered(values(group))
        return torch.stack([_counts(codes & (BIN - 1), codes >> 16 == chosen[:, None]) for chosen in bins.T])

    counts = groups.total(lower)  # (ranks, experts, BIN)
    places = [_find(count, rank[:, None])[0][:, 0] for count, rank in zip(counts, inside.T, strict=True)]
    return _from_ordered(bins << 16 | torch.stack(places, dim=1)), entries


def _ordered(values: Tensor) -> Tensor:
    """Integers from 0 to 2^32 - 1 in the order of the float32 values."""
    bits = values.contiguous().view(torch.int32).long()
    return torch.where(bits < 0, ~bits, bits + 2**31)


def _from_ordered(codes: Tensor) -> Tensor:
    bits = torch.where(codes < 2**31, ~codes, codes - 2**31)
    return bits.int().view(torch.float32)


def _counts(codes: Tensor, where: Tensor | None = None) -> Tensor:
    rows = codes if where is None else [code[mask] for code, mask in zip(codes, where, strict=True)]
    return torch.stack([torch.bincount(row, minlength=BIN) for row in rows])


def _find(counts: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """The bins, of (experts, BIN), that hold the ranks, (experts, ranks); and the ranks inside those bins."""
    ends = counts.cumsum(1)
    bins = torch.searchsorted(ends, ranks.contiguous(), right=True)
    return bins, ranks - (ends - counts).gather(1, bins)
