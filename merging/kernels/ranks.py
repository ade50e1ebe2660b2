"""Magnitudes, and where the codes of float32 numbers lie, from which exact order statistics follow."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import BLOCK, LANES, as_float, code, gather, kernel, larger, less, lift, same, smaller

NOWHERE = np.uint32(0xFFFFFFFF)  # where an interval begins that nothing is counted in


@kernel
def magnitudes(bits: Any, out: Any) -> None:
    """The magnitudes of the task vectors' entries, (experts, entries) of float32."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base = np.empty(BLOCK, np.float32)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        lift(bits[0][start:stop], base)
        for expert in range(experts):
            _magnitudes(bits[expert + 1][start:stop], base, out[expert][start:stop])


@kernel
def _magnitudes(row: Any, base: Any, out: Any) -> None:
    for i in range(len(row)):
        out[i] = abs(as_float(row[i]) - base[i])


@kernel
def _count(codes: Any, first: Any, last: Any) -> Any:
    """How many codes of a block lie below an interval, at its first and at its last code."""
    below, at_first, at_last = np.int32(0), np.int32(0), np.int32(0)
    for i in range(len(codes)):
        below += less(codes[i], first)
        at_first += same(codes[i], first)
        at_last += same(codes[i], last)
    return np.int32(below), np.int32(at_first), np.int32(at_last)  # numba would count in 64 bits


@kernel
def _between(codes: Any, first: Any, last: Any, found: Any) -> int:
    """Write the codes of a block that lie between two to `found`, one after the other; how many there are."""
    number, whole = 0, len(codes) - len(codes) % LANES
    for at in range(0, whole, LANES):
        number += gather(codes, at, first, last, found, number)
    for i in range(whole, len(codes)):
        if first < codes[i] < last:
            found[number] = codes[i]
            number += 1
    return number


@kernel
def count(codes: Any, expert: int, where: Any, into: Any, found: Any) -> None:
    """Count a block of one expert's codes in the intervals of its ranks; `found` is scratch of (BLOCK).

    `where` are the first and the last codes of the intervals, the codes that the bins begin at, the bits that a bin is
    wide, and where in the counts the bins begin, each (experts, ranks). `into` are the numbers of codes below the
    intervals, at the first and at the last code, (experts, ranks, 3), the counts of all bins, whether they hold other
    codes than their first, and the least and the largest codes so far, (experts).
    """
    (first, last, start, shift, begins), (below, counts, mixed, least, largest) = where, into
    low, high = least[expert], largest[expert]
    for i in range(len(codes)):
        low, high = smaller(low, codes[i]), larger(high, codes[i])
    least[expert], largest[expert] = low, high
    for rank in range(first.shape[1]):
        one, other = first[expert, rank], last[expert, rank]
        if one < NOWHERE:
            under, at_first, at_last = _count(codes, one, other)
            below[expert, rank, 0] += under
            below[expert, rank, 1] += at_first
            if one < other:  # else it is one number that very many entries have, as in bfloat16
                below[expert, rank, 2] += at_last
                begin, bits, origin = begins[expert, rank], shift[expert, rank], start[expert, rank]
                rest = np.uint32((np.uint32(1) << bits) - np.uint32(1))
                for i in range(_between(codes, one, other, found)):
                    number = begin + np.int64((found[i] - origin) >> bits)
                    counts[number] += 1
                    mixed[number] |= found[i] & rest != 0


@kernel
def tally(values: Any, which: Any, where: Any, into: Any) -> None:
    """Count the values of each expert, (rows, entries), in the intervals of its ranks; `which` are their numbers."""
    codes, found = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    for row in range(values.shape[0]):
        for start in range(0, values.shape[1], BLOCK):
            block = values[row][start : start + BLOCK]
            codes_of(block, codes)
            count(codes[: len(block)], which[row], where, into, found)


@kernel
def codes_of(values: Any, codes: Any) -> None:
    """Integers in the order of the values."""
    for i in range(len(values)):
        codes[i] = code(values[i])


@kernel
def tally_magnitudes(bits: Any, which: Any, where: Any, into: Any) -> None:
    """Count the magnitudes of the task vectors' entries."""
    codes, found, base = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.float32)
    size = bits.shape[1]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        lift(bits[0][start:stop], base)
        for expert in range(len(which)):
            row = bits[expert + 1][start:stop]
            for i in range(len(row)):
                codes[i] = code(abs(as_float(row[i]) - base[i]))
            count(codes[: len(row)], which[expert], where, into, found)
