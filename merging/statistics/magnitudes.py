"""What follows from how often each magnitude occurs: thresholds of trimming, and the energy kept.

Magnitudes are counted in bins of one part in 128, finer than the steps of bfloat16 numbers; so the share of entries
that a threshold keeps is the wanted one or a little more, and of energies about one part in 100 is uncertain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from merging.groups import Bits
from merging.lazy import torch
from merging.statistics.measures import BINS

if TYPE_CHECKING:
    from torch import Tensor

DENSITIES = tuple((k / 32) ** 2 for k in range(33))  # at which the energy kept is noted: closer where it rises most
_EDGES = (np.arange(BINS, dtype=np.uint32) << 16).view(np.float32)  # the least magnitude of each bin
_FINITE = 0x7F80  # bins from here on hold what is no number


def thresholds(counts: Bits, densities: tuple[float, ...]) -> Tensor:
    """The largest magnitudes, (experts, densities), that keep at least such shares of the entries counted."""
    kept = counts[:, ::-1].cumsum(1)[:, ::-1]  # by each bin's first magnitude
    wanted = np.ceil(np.array(densities) * kept[:, :1])  # (experts, densities)
    places = (kept[:, None] >= wanted[:, :, None]).sum(2) - 1
    return torch.from_numpy(_EDGES[places])


def energies(counts: Bits) -> Tensor:
    """The share of the sum of squares that the largest entries hold, (experts, DENSITIES); NaN where all is 0."""
    return torch.from_numpy(np.stack([_energy(row[:_FINITE]) for row in counts]))


def _energy(counts: Bits) -> Bits:
    there = np.flatnonzero(counts)[::-1]  # from the largest on
    edge = _EDGES[there].astype(np.float64)
    step = np.where(there < 1 << 7, 0, edge / 256)  # to about the middle of a bin; the first ones hold zeros
    squares = counts[there] * (edge + step) ** 2
    total, kept = np.concatenate([[0.0], squares.cumsum()]), np.concatenate([[0], counts[there].cumsum()])
    if not total[-1] > 0:
        return np.full(len(DENSITIES), np.nan)
    found: Bits = np.interp(np.array(DENSITIES) * kept[-1], kept, total / total[-1])
    return found
