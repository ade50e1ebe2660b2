"""Merges of one tile, entry by entry: MagMax, EMR, RAM, Consensus TA, NearSwap, and the last step of Arcee Fusion."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import BLOCK, INFINITE, as_float, kernel, larger, lift, lower, magnitude

F = np.float32
ZERO, ONE = F(0), F(1)
LEAST = F(1e-6)  # what is divided by is at least


@kernel
def moved(bits: Any, start: int, stop: int, base: Any, tau: Any) -> Any:
    """Lift a block: the base, and the task vectors, (experts, BLOCK); the largest magnitude that was read, as bits."""
    lift(bits[0][start:stop], base)
    top = np.uint32(0)
    for i in range(stop - start):
        top = larger(top, magnitude(base[i]))
    for expert in range(len(tau)):
        row, change = bits[expert + 1][start:stop], tau[expert]
        for i in range(len(row)):
            value = as_float(row[i])
            top = larger(top, magnitude(value))
            change[i] = value - base[i]
    return top


@kernel
def sum_up(tau: Any, count: int, total: Any) -> None:
    """The sum over the experts, from the first to the last."""
    for i in range(count):
        total[i] = tau[0, i]
    for expert in range(1, len(tau)):
        row = tau[expert]
        for i in range(count):
            total[i] += row[i]


@kernel
def magmax(bits: Any, scaling: Any, out: Any) -> bool:
    """Write the base and `scaling` times the task vectors' largest entries; whether all is finite."""
    experts, size, top = bits.shape[0] - 1, bits.shape[1], np.uint32(0)
    base, tau, best = np.empty(BLOCK, F), np.empty((experts, BLOCK), F), np.empty(BLOCK, F)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        count = stop - start
        top = max(top, moved(bits, start, stop, base, tau))
        for i in range(count):
            best[i] = tau[0, i]
        for expert in range(1, experts):
            row = tau[expert]
            for i in range(count):
                # The others put in a zero each, which makes -0 to 0.
                best[i] = (row[i] if abs(row[i]) > abs(best[i]) else best[i]) + ZERO
        for i in range(count):
            best[i] = base[i] + scaling * best[i]
        top = max(top, lower(best, out[start:stop]))
    return top < INFINITE


@kernel
def emr(bits: Any, scaling: Any, out: Any) -> bool:
    """Write the base and `scaling` times the largest entries of the elected sign; whether all is finite."""
    experts, size, top = bits.shape[0] - 1, bits.shape[1], np.uint32(0)
    base, tau, total = np.empty(BLOCK, F), np.empty((experts, BLOCK), F), np.empty(BLOCK, F)
    high, low = np.empty(BLOCK, F), np.empty(BLOCK, F)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        count = stop - start
        top = max(top, moved(bits, start, stop, base, tau))
        sum_up(tau, count, total)
        high[:] = ZERO
        low[:] = ZERO
        for expert in range(experts):
            row = tau[expert]
            for i in range(count):
                high[i] = row[i] if row[i] > high[i] else high[i]
                low[i] = row[i] if row[i] < low[i] else low[i]
        for i in range(count):
            total[i] = base[i] + scaling * (high[i] if total[i] > ZERO else low[i])
        top = max(top, lower(total, out[start:stop]))
    return top < INFINITE


@kernel
def ram(bits: Any, epsilon: Any, out: Any) -> bool:
    """Write the base and the mean of the changes of more than `epsilon`; whether all is finite."""
    experts, size, top = bits.shape[0] - 1, bits.shape[1], np.uint32(0)
    base, tau = np.empty(BLOCK, F), np.empty((experts, BLOCK), F)
    total, counted = np.empty(BLOCK, F), np.empty(BLOCK, F)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        count = stop - start
        top = max(top, moved(bits, start, stop, base, tau))
        total[:] = ZERO
        counted[:] = ZERO
        for expert in range(experts):
            row = tau[expert]
            for i in range(count):
                active = abs(row[i]) > epsilon
                total[i] += row[i] if active else ZERO
                counted[i] += ONE if active else ZERO
        for i in range(count):
            total[i] = base[i] + total[i] / max(counted[i], ONE)
        top = max(top, lower(total, out[start:stop]))
    return top < INFINITE


@kernel
def consensus(bits: Any, ratio: Any, threshold: Any, scaling: Any, out: Any) -> bool:
    """Write the base and `scaling` times the sum of the task vectors where enough of them stand out; whether finite."""
    experts, size, top = bits.shape[0] - 1, bits.shape[1], np.uint32(0)
    base, tau = np.empty(BLOCK, F), np.empty((experts, BLOCK), F)
    total, used = np.empty(BLOCK, F), np.empty(BLOCK, F)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        count = stop - start
        top = max(top, moved(bits, start, stop, base, tau))
        sum_up(tau, count, total)
        used[:] = ZERO
        for expert in range(experts):
            row = tau[expert]
            for i in range(count):
                used[i] += ONE if abs(row[i]) > ratio * abs(total[i] - row[i]) else ZERO
        for i in range(count):
            total[i] = base[i] + scaling * (total[i] if used[i] >= threshold else ZERO)
        top = max(top, lower(total, out[start:stop]))
    return top < INFINITE


@kernel
def nearswap(bits: Any, reach: Any, out: Any) -> bool:
    """Write the base and the changes of one expert, each by no more than `reach`; whether all is finite."""
    size, top = bits.shape[1], np.uint32(0)
    base, tau = np.empty(BLOCK, F), np.empty((1, BLOCK), F)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        top = max(top, moved(bits, start, stop, base, tau))
        row = tau[0]
        for i in range(stop - start):
            row[i] = base[i] + min(reach / max(abs(row[i]), LEAST), ONE) * row[i]
        top = max(top, lower(row, out[start:stop]))
    return top < INFINITE


@kernel
def chosen(bits: Any, importance: Any, threshold: Any, out: Any) -> bool:
    """Write the base and the changes of one expert that are important enough; whether all is finite."""
    size, top = bits.shape[1], np.uint32(0)
    base, tau = np.empty(BLOCK, F), np.empty((1, BLOCK), F)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        top = max(top, moved(bits, start, stop, base, tau))
        row, known = tau[0], importance[start:stop]
        for i in range(stop - start):
            row[i] = base[i] + (row[i] if known[i] >= threshold else ZERO)
        top = max(top, lower(row, out[start:stop]))
    return top < INFINITE
