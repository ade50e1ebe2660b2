"""SCE: the variance of entries over the experts, what is selected by it, and the merge of one tile."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import BLOCK, INFINITE, kernel, lower
from merging.kernels.entries import LEAST, ZERO, F, moved, sum_up
from merging.kernels.sums import add_up, together

SUMS = BLOCK // 8  # that are added up next to each other


@kernel
def _spread(tau: Any, count: int, mean: Any, out: Any) -> None:
    """The variance of each entry over the experts."""
    number = F(len(tau))
    sum_up(tau, count, mean)
    for i in range(count):
        mean[i] /= number
        apart = tau[0, i] - mean[i]
        out[i] = apart * apart
    for expert in range(1, len(tau)):
        row = tau[expert]
        for i in range(count):
            apart = row[i] - mean[i]
            out[i] += apart * apart
    for i in range(count):
        out[i] /= number


@kernel
def variances(bits: Any, out: Any) -> None:
    """The variance over the experts of each entry of the task vectors, (entries)."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, tau, mean = np.empty(BLOCK, F), np.empty((experts, BLOCK), F), np.empty(BLOCK, F)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        moved(bits, start, stop, base, tau)
        _spread(tau, stop - start, mean, out[start:stop])


@kernel
def _select(row: Any, spread: Any, threshold: Any) -> None:
    for i in range(len(row)):
        row[i] = row[i] if spread[i] >= threshold else ZERO


@kernel
def _squares(row: Any, out: Any) -> None:
    for i in range(len(row)):
        out[i] = np.float64(row[i]) * np.float64(row[i])


@kernel
def squares(bits: Any, threshold: Any) -> Any:
    """The sums of squares of the task vectors where they vary enough, (experts) of float64."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, tau, mean = np.empty(BLOCK, F), np.empty((experts, BLOCK), F), np.empty(BLOCK, F)
    spread, work, sums = np.empty(BLOCK, F), np.empty(BLOCK), np.zeros((experts, SUMS))
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        count = stop - start
        moved(bits, start, stop, base, tau)
        _spread(tau, count, mean, spread)
        for expert in range(experts):
            _select(tau[expert][:count], spread, threshold)
            _squares(tau[expert][:count], work)
            add_up(work[:count], sums[expert])
    found = np.empty(experts)
    for expert in range(experts):
        found[expert] = together(sums[expert])
    return found


@kernel
def sce(bits: Any, threshold: Any, weights: Any, out: Any) -> bool:
    """Write the base and the weighted mean of what varies enough and goes with the majority; whether all is finite."""
    experts, size, top = bits.shape[0] - 1, bits.shape[1], np.uint32(0)
    base, tau, mean = np.empty(BLOCK, F), np.empty((experts, BLOCK), F), np.empty(BLOCK, F)
    spread, total, counted = np.empty(BLOCK, F), np.empty(BLOCK, F), np.empty(BLOCK, F)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        count = stop - start
        top = max(top, moved(bits, start, stop, base, tau))
        if threshold > ZERO:
            _spread(tau, count, mean, spread)
            for expert in range(experts):
                _select(tau[expert][:count], spread, threshold)
        sum_up(tau, count, mean)
        for expert in range(experts):
            row, weight = tau[expert], weights[expert]
            for i in range(count):
                agrees = ((mean[i] >= ZERO) & (row[i] > ZERO)) | ((mean[i] < ZERO) & (row[i] < ZERO))
                part, share = (weight * row[i], weight) if agrees else (ZERO, ZERO)
                total[i] = part if expert == 0 else total[i] + part
                counted[i] = share if expert == 0 else counted[i] + share
        for i in range(count):
            total[i] = base[i] + total[i] / max(counted[i], LEAST)
        top = max(top, lower(total, out[start:stop]))
    return top < INFINITE
