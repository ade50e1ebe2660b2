"""What two passes over task vectors note of them: signs, magnitudes and powers; and what trimming leaves of pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from merging.kernels import SMALL, sums
from merging.kernels.bits import BLOCK, I32, LANES, kernel, lift
from merging.kernels.gram import _move, add_products
from merging.kernels.lanes import PART, exact_products, powers, products
from merging.kernels.masks import WORDS, mirror, pairs, signs, trim
from merging.kernels.sums import together

ZERO = np.float32(0)
BITS, LAST = np.uint64(16), np.uint64(0xFFFF)  # of a code
TABLES = 2  # that neighbouring entries are counted in: one that has just been counted up is not at once there again


@intrinsic
def bin_of(context: Any, value: Any) -> Any:
    """The upper half of a float32 without its sign: exponent and seven bits, in the order of the magnitudes."""

    def cut(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.and_(builder.bitcast(args[0], I32), I32(0x7FFFFFFF))
        return builder.trunc(builder.lshr(bits, I32(16)), ir.IntType(16))

    return types.uint16(types.float32), cut


@kernel
def look(bits: Any, counts: Any, still: Any, both: Any, conflicts: Any) -> Any:
    """What a first pass measures of a tile, in float64.

    These are the sums of squares of the task vectors, (experts), as `sums.squares` has them; the inner products of base
    and task vectors, as `gram.products` has them; and the sums of first, third and fourth powers, (3, experts).

    Added to are `counts`, (experts, TABLES, bins) of uint32, by magnitude; `still`, (experts), the entries that are 0;
    `both` and `conflicts`, (experts, experts), of which the lower halves: entries that both moved, and to
    different signs.
    """
    experts, size = bits.shape[0] - 1, bits.shape[1]
    rows, wide, codes = np.zeros((experts + 1, BLOCK), np.float32), np.empty(BLOCK), np.empty(BLOCK, np.uint16)
    up, down = np.empty((experts, WORDS), np.uint64), np.empty((experts, WORDS), np.uint64)
    squares, parts = np.zeros((experts, PART)), np.zeros((experts, 3 * PART))
    inner = np.zeros((experts + 1, experts + 1))
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        count = stop - start
        lift(bits[0][start:stop], rows[0])
        rows[:, count:] = ZERO
        add_products(rows, 0, wide, inner)
        for expert in range(experts):
            row = rows[expert + 1]
            _move(bits[expert + 1][start:stop], rows[0], row)
            add_products(rows, expert + 1, wide, inner)
            for at in range(0, PART, LANES):
                products(row, row, at, squares[expert])
                powers(wide, at, parts[expert])
            still[expert] += signs(row, up[expert], down[expert]) - (BLOCK - count)
            _bins(row[:count], codes)
            _count(codes, count, counts[expert, 0], counts[expert, 1])
        pairs(up, down, both, conflicts)
    mirror(inner)
    return _squares(bits, squares), inner, _powers(parts)


@kernel
def _squares(bits: Any, parts: Any) -> Any:
    """The sums of squares from their parts, (experts, PART)."""
    total, lost = np.empty(len(parts)), False
    for expert in range(len(parts)):
        total[expert] = together(parts[expert])
        lost |= not SMALL <= total[expert] < np.inf
    return sums.squares(bits) if lost else total


@kernel
def _powers(parts: Any) -> Any:
    """The sums of powers, (3, experts), from their parts, (experts, 3 * PART)."""
    total = np.empty((3, len(parts)))
    for power in range(3):
        for expert in range(len(parts)):
            total[power, expert] = together(parts[expert][power * PART : (power + 1) * PART])
    return total


@kernel
def _bins(row: Any, codes: Any) -> None:
    for i in range(len(row)):
        codes[i] = bin_of(row[i])


@kernel
def _count(codes: Any, number: int, one: Any, other: Any) -> None:
    """Count the first `number` codes of a block, (BLOCK), which are read four at a time: often they are all 0."""
    fours, zeros = codes.view(np.uint64), 0
    for i in range(number // 4):
        word = fours[i]
        if word == 0:
            zeros += 4
        else:
            one[word & LAST] += np.uint32(1)
            other[(word >> BITS) & LAST] += np.uint32(1)
            one[(word >> (BITS + BITS)) & LAST] += np.uint32(1)
            other[word >> (BITS + BITS + BITS)] += np.uint32(1)
    for i in range(number - number % 4, number):
        one[codes[i]] += np.uint32(1)
    one[0] += np.uint32(zeros)


@kernel
def trimmed(bits: Any, thresholds: Any, both: Any, conflicts: Any) -> Any:
    """The inner products of task vectors that are trimmed at each density, (densities, experts, experts), in float64.

    `thresholds`, (experts, densities) of float32, are the least magnitudes that are kept. `both` and `conflicts`,
    (densities, experts, experts), are added to as in `look`. Eight products are added in float32 where they fit it.
    """
    before, lost = both.copy(), False
    found = _trimmed(bits, thresholds, both, conflicts, False)
    for density in range(len(found)):
        for expert in range(len(thresholds)):
            square = found[density, expert, expert]
            lost |= both[density, expert, expert] > before[density, expert, expert] and not SMALL <= square < np.inf
    if lost:
        found = _trimmed(bits, thresholds, both, conflicts, True)
    return found


@kernel
def _trimmed(bits: Any, thresholds: Any, both: Any, conflicts: Any, exact: bool) -> Any:
    """The same; what is `exact` multiplies in float64, and counts nothing."""
    experts, size, densities = bits.shape[0] - 1, bits.shape[1], thresholds.shape[1]
    base, tau = np.empty(BLOCK, np.float32), np.zeros((experts, BLOCK), np.float32)
    kept = np.empty((experts, BLOCK), np.float32)
    up, down = np.empty((experts, WORDS), np.uint64), np.empty((experts, WORDS), np.uint64)
    sums = np.zeros((densities, experts, experts, PART))
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        lift(bits[0][start:stop], base)
        tau[:, stop - start :] = ZERO
        for expert in range(experts):
            _move(bits[expert + 1][start:stop], base, tau[expert])
        for density in range(densities):
            for expert in range(experts):
                trim(tau[expert], thresholds[expert, density], kept[expert], up[expert], down[expert])
                for other in range(expert + 1):
                    _multiply(kept[expert], kept[other], exact, sums[density, expert, other])
            if not exact:
                pairs(up, down, both[density], conflicts[density])
    total = np.empty((densities, experts, experts))
    for density in range(densities):
        for expert in range(experts):
            for other in range(expert + 1):
                total[density, expert, other] = together(sums[density, expert, other])
        mirror(total[density])
    return total


@kernel
def _multiply(one: Any, other: Any, exact: bool, sums: Any) -> None:
    for start in range(0, PART, LANES):
        if exact:
            exact_products(one, other, start, sums)
        else:
            products(one, other, start, sums)
