"""Weighted sums of tensors, and sums of squares of task vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import INFINITE, TILE, as_float, kernel, lift, lower


@kernel
def weighted_sum(bits: Any, weights: Any, from_base: bool, out: Any) -> bool:
    """Write base + the sum of weights times task vectors, or the sum of weights times experts; whether all is finite.

    `bits` is (1 + experts, entries), the base first; `weights` is float32, (experts). Sums go from first to last.
    """
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, total = np.zeros(TILE, np.float32), np.empty(TILE, np.float32)
    largest = np.uint32(0)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        count = stop - start
        if from_base:
            lift(bits[0][start:stop], base)
        for expert in range(experts):
            row, weight = bits[expert + 1][start:stop], weights[expert]
            if from_base and expert == 0:
                for i in range(count):
                    total[i] = weight * (as_float(row[i]) - base[i])
            elif from_base:
                for i in range(count):
                    total[i] += weight * (as_float(row[i]) - base[i])
            elif expert == 0:
                for i in range(count):
                    total[i] = weight * as_float(row[i])
            else:
                for i in range(count):
                    total[i] += weight * as_float(row[i])
        if from_base:
            for i in range(count):
                total[i] += base[i]
        largest = max(largest, lower(total, out[start:stop]))
    return largest < INFINITE


@kernel
def _sum_of_squares(row: Any, base: Any, tau: Any, work: Any) -> Any:
    """The sum of squares of a tile's task vector, added in a fixed order: the same on every machine.

    `tau` is scratch of (TILE), `work` of (TILE / 4) in float64.
    """
    for i in range(len(row)):
        tau[i] = as_float(row[i]) - base[i]
    tau[len(row) :] = np.float32(0)
    half = len(work)
    _add_squares(tau[:half], tau[half : 2 * half], tau[2 * half : 3 * half], tau[3 * half :], work)
    while half > 1:
        half //= 2
        _add(work[:half], work[half : 2 * half])
    return work[0]


@kernel
def _add_squares(one: Any, two: Any, three: Any, four: Any, out: Any) -> None:
    for i in range(len(out)):
        a, b, c, d = np.float64(one[i]), np.float64(two[i]), np.float64(three[i]), np.float64(four[i])
        out[i] = (a * a + b * b) + (c * c + d * d)


@kernel
def _add(one: Any, other: Any) -> None:
    for i in range(len(one)):
        one[i] += other[i]


@kernel
def squares(bits: Any) -> Any:
    """The sums of squares of the task vectors, (experts), in float64."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, tau, work = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE // 4)
    total = np.zeros(experts)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        lift(bits[0][start:stop], base)
        for expert in range(experts):
            total[expert] += _sum_of_squares(bits[expert + 1][start:stop], base, tau, work)
    return total
