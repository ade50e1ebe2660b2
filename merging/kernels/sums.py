"""Weighted sums of tensors, and sums of squares of task vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels import SMALL
from merging.kernels.bits import BLOCK, INFINITE, as_float, kernel, lift, lower

ZERO = np.float32(0)


@kernel
def weighted_sum(bits: Any, weights: Any, from_base: bool, out: Any) -> bool:
    """Write base + the sum of weights times task vectors, or the sum of weights times experts; whether all is finite.

    `bits` is (1 + experts, entries), the base first; `weights` is float32, (experts). Sums go from first to last.
    """
    experts, size = bits.shape[0] - 1, bits.shape[1]
    total, largest = np.empty(BLOCK, np.float32), np.uint32(0)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        base, first = bits[0][start:stop], bits[1][start:stop]
        if experts == 1:
            _one(base, first, weights, from_base, total)
        elif experts == 2:
            _two(base, first, bits[2][start:stop], weights, from_base, total)
        else:
            _three(base, first, bits[2][start:stop], bits[3][start:stop], weights, from_base, experts == 3, total)
        for expert in range(3, experts):
            _another(base, bits[expert + 1][start:stop], weights[expert], from_base, expert == experts - 1, total)
        largest = max(largest, lower(total, out[start:stop]))
    return largest < INFINITE


# Three experts at once: what is summed up so far is not written down in between, which costs as much as the sum.
@kernel
def _one(base: Any, one: Any, weights: Any, from_base: bool, total: Any) -> None:
    for i in range(len(one)):
        start = as_float(base[i]) if from_base else ZERO
        moved = weights[0] * (as_float(one[i]) - start)
        total[i] = moved + start if from_base else moved


@kernel
def _two(base: Any, one: Any, two: Any, weights: Any, from_base: bool, total: Any) -> None:
    for i in range(len(one)):
        start = as_float(base[i]) if from_base else ZERO
        moved = weights[0] * (as_float(one[i]) - start) + weights[1] * (as_float(two[i]) - start)
        total[i] = moved + start if from_base else moved


@kernel
def _three(base: Any, one: Any, two: Any, three: Any, weights: Any, from_base: bool, last: bool, total: Any) -> None:
    first, second, third = weights[0], weights[1], weights[2]
    for i in range(len(one)):
        start = as_float(base[i]) if from_base else ZERO
        moved = first * (as_float(one[i]) - start) + second * (as_float(two[i]) - start)
        moved += third * (as_float(three[i]) - start)
        total[i] = moved + start if from_base and last else moved


@kernel
def _another(base: Any, row: Any, weight: Any, from_base: bool, last: bool, total: Any) -> None:
    for i in range(len(row)):
        start = as_float(base[i]) if from_base else ZERO
        moved = total[i] + weight * (as_float(row[i]) - start)
        total[i] = moved + start if from_base and last else moved


@kernel
def squares(bits: Any) -> Any:
    """The sums of squares of the task vectors, (experts), in float64.

    Eight squares are added in float32, and what comes out in float64, in an order that is the same on every machine.
    Where squares do not fit float32 they are taken in float64, too.
    """
    total = _squares(bits, np.zeros(BLOCK // 8, np.float32))
    lost = ~((total >= SMALL) & (total < np.inf))  # those that are not numbers, too
    if lost.any():
        total[lost] = _squares(bits, np.zeros(BLOCK // 8, np.float64))[lost]
    return total


@kernel
def _squares(bits: Any, eights: Any) -> Any:
    """The same with eight squares in the precision of `eights`, which is scratch of (BLOCK / 8)."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, padded = np.zeros(BLOCK, np.float32), np.zeros(BLOCK, bits.dtype)
    sums = np.zeros((experts, len(eights)), np.float64)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        if stop - start < BLOCK:
            base[:] = np.float32(0)
        lift(bits[0][start:stop], base)
        for expert in range(experts):
            row = bits[expert + 1][start:stop]
            if len(row) < BLOCK:
                padded[: len(row)] = row
                row = padded
            _eight_squares(row, base, eights)
            _add(sums[expert], eights)
    total = np.empty(experts)
    for expert in range(experts):
        total[expert] = together(sums[expert])
    return total


@kernel
def together(sums: Any) -> Any:
    """The sum of sums, a power of two of them, which are added by halves."""
    half = len(sums)
    while half > 1:
        half //= 2
        _add(sums[:half], sums[half : 2 * half])
    return sums[0]


@kernel
def _eight_squares(row: Any, base: Any, out: Any) -> None:
    """The squares of the task vector of a block, those added that lie an eighth of it apart."""
    n, kind = len(out), out.dtype.type
    row1, row2, row3, row4 = row[n:], row[2 * n :], row[3 * n :], row[4 * n :]
    row5, row6, row7 = row[5 * n :], row[6 * n :], row[7 * n :]
    base1, base2, base3, base4 = base[n:], base[2 * n :], base[3 * n :], base[4 * n :]
    base5, base6, base7 = base[5 * n :], base[6 * n :], base[7 * n :]
    for i in range(n):
        a, b = kind(as_float(row[i]) - base[i]), kind(as_float(row1[i]) - base1[i])
        c, d = kind(as_float(row2[i]) - base2[i]), kind(as_float(row3[i]) - base3[i])
        e, f = kind(as_float(row4[i]) - base4[i]), kind(as_float(row5[i]) - base5[i])
        g, h = kind(as_float(row6[i]) - base6[i]), kind(as_float(row7[i]) - base7[i])
        out[i] = ((a * a + b * b) + (c * c + d * d)) + ((e * e + f * f) + (g * g + h * h))


@kernel
def add_up(values: Any, sums: Any) -> None:
    """Add a block's numbers in float64 to the sums of all entries that are so many apart, a power of two of them."""
    for start in range(0, len(values), len(sums)):
        part = values[start : start + len(sums)]
        for i in range(len(part)):
            sums[i] += np.float64(part[i])


@kernel
def _add(one: Any, other: Any) -> None:
    for i in range(len(one)):
        one[i] += np.float64(other[i])
