"""Weighted sums of tensors, and sums of squares of task vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import BLOCK, INFINITE, as_float, kernel, lift, lower

SMALL = 2.0**-64  # sums of squares in float32 that are less may have lost a part that matters


@kernel
def weighted_sum(bits: Any, weights: Any, from_base: bool, out: Any) -> bool:
    """Write base + the sum of weights times task vectors, or the sum of weights times experts; whether all is finite.

    `bits` is (1 + experts, entries), the base first; `weights` is float32, (experts). Sums go from first to last.
    """
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, total = np.zeros(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    largest = np.uint32(0)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
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
def squares(bits: Any) -> Any:
    """The sums of squares of the task vectors, (experts), in float64.

    Four squares are added in float32, and what comes out in float64, in an order that is the same on every machine.
    Where squares do not fit float32 they are taken in float64, too.
    """
    total = _squares(bits, np.zeros(BLOCK // 4, np.float32))
    lost = ~((total >= SMALL) & (total < np.inf))  # those that are not numbers, too
    if lost.any():
        total[lost] = _squares(bits, np.zeros(BLOCK // 4, np.float64))[lost]
    return total


@kernel
def _squares(bits: Any, like: Any) -> Any:
    """The same in the precision of `like`, which is scratch of (BLOCK / 4)."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, padded = np.zeros(BLOCK, np.float32), np.zeros(BLOCK, bits.dtype)
    sums = np.zeros((experts, BLOCK // 4), np.float64)
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
            _add_squares(row, base, like, sums[expert])
    total = np.empty(experts)
    for expert in range(experts):
        half = BLOCK // 4
        while half > 1:
            half //= 2
            _add(sums[expert][:half], sums[expert][half : 2 * half])
        total[expert] = sums[expert][0]
    return total


@kernel
def _add_squares(row: Any, base: Any, four: Any, sums: Any) -> None:
    """Add the squares of a block's task vector, four of them as `four` is precise."""
    size = len(sums)
    _four_squares(row[:size], row[size:], row[2 * size :], row[3 * size :], base, four)
    for i in range(size):
        sums[i] += np.float64(four[i])


@kernel
def _four_squares(one: Any, two: Any, three: Any, four: Any, base: Any, out: Any) -> None:
    size = len(out)
    base_two, base_three, base_four = base[size:], base[2 * size :], base[3 * size :]
    for i in range(size):
        a, b = out.dtype.type(as_float(one[i]) - base[i]), out.dtype.type(as_float(two[i]) - base_two[i])
        c, d = out.dtype.type(as_float(three[i]) - base_three[i]), out.dtype.type(as_float(four[i]) - base_four[i])
        out[i] = (a * a + b * b) + (c * c + d * d)


@kernel
def _add(one: Any, other: Any) -> None:
    for i in range(len(one)):
        one[i] += other[i]
