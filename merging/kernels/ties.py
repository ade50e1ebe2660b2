"""TIES-Merging's election and disjoint merge of one tile, for the sign rule `mass`."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import BLOCK, INFINITE, as_float, kernel, lift, lower

ZERO, ONE = np.float32(0), np.float32(1)


@kernel
def _trim(row: Any, base: Any, threshold: Any, tau: Any) -> None:
    """The entries of a task vector that reach the threshold, 0 in place of the others."""
    for i in range(len(row)):
        moved = as_float(row[i]) - base[i]
        tau[i] = moved if abs(moved) >= threshold else ZERO


@kernel
def _vote(bits: Any, start: int, stop: int, thresholds: Any, weights: Any, base: Any, tau: Any, votes: Any) -> None:
    """Lift and trim a block, and sum up the weighted task vectors, whose signs are elected."""
    lift(bits[0][start:stop], base)
    for expert in range(len(weights)):
        weight, row = weights[expert], tau[expert]
        _trim(bits[expert + 1][start:stop], base, thresholds[expert], row)
        if expert == 0:
            for i in range(stop - start):
                votes[i] = weight * row[i]
        else:
            for i in range(stop - start):
                votes[i] += weight * row[i]


@kernel
def balance(bits: Any, thresholds: Any, weights: Any) -> int:
    """The number of entries that elect a positive sign minus the number of those that elect a negative one."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, tau, votes = np.empty(BLOCK, np.float32), np.empty((experts, BLOCK), np.float32), np.empty(BLOCK, np.float32)
    total = 0
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        _vote(bits, start, stop, thresholds, weights, base, tau, votes)
        above, below = np.int32(0), np.int32(0)
        for i in range(stop - start):
            above += np.int32(votes[i] > ZERO)
            below += np.int32(votes[i] < ZERO)
        total += above - below
    return total


@kernel
def merge(
    bits: Any, thresholds: Any, weights: Any, majority: Any, scaling: Any, averaged: bool, least: Any, out: Any
) -> bool:
    """Write the merge of one tile; whether all of it is finite.

    `averaged` divides by the sum of the weights that agree, unless it is `least` or less.
    """
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, tau, votes = np.empty(BLOCK, np.float32), np.empty((experts, BLOCK), np.float32), np.empty(BLOCK, np.float32)
    sign, total, counted = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    largest = np.uint32(0)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        count = stop - start
        _vote(bits, start, stop, thresholds, weights, base, tau, votes)
        elect(votes[:count], majority, sign)
        total[:count] = ZERO
        counted[:count] = ZERO
        for expert in range(experts):
            agree(tau[expert][:count], weights[expert], sign, total, counted)
        if averaged:
            for i in range(count):
                total[i] /= ONE if abs(counted[i]) <= least else counted[i]
        for i in range(count):
            total[i] = base[i] + scaling * total[i]
        largest = max(largest, lower(total, out[start:stop]))
    return largest < INFINITE


@kernel
def elect(votes: Any, majority: Any, sign: Any) -> None:
    """1 where a positive sign is elected, -1 elsewhere."""
    for i in range(len(votes)):
        vote = majority if votes[i] == ZERO else votes[i]
        sign[i] = ONE if vote > ZERO else -ONE


@kernel
def agree(row: Any, weight: Any, sign: Any, total: Any, counted: Any) -> None:
    """Add the entries of a trimmed task vector that have the elected sign, and count their weight."""
    for i in range(len(row)):
        part = weight * row[i]
        agrees = part * sign[i] > ZERO
        total[i] += part if agrees else ZERO
        counted[i] += weight if agrees else ZERO
