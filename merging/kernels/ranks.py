"""Magnitudes, and where the codes of float32 numbers lie, from which exact order statistics follow."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels import SPARE
from merging.kernels.bits import TILE, as_float, bin_between, code, kernel, larger, less, lift, rest_of, same, smaller

BLOCK = 32  # codes that are looked at together: most blocks have none in a narrow interval
NOWHERE = np.uint32(0xFFFFFFFF)  # where an interval begins that nothing is counted in


@kernel
def magnitudes(bits: Any, out: Any) -> None:
    """The magnitudes of the task vectors' entries, (experts, entries) of float32."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base = np.empty(TILE, np.float32)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        lift(bits[0][start:stop], base)
        for expert in range(experts):
            _magnitudes(bits[expert + 1][start:stop], base, out[expert][start:stop])


@kernel
def _magnitudes(row: Any, base: Any, out: Any) -> None:
    for i in range(len(row)):
        out[i] = abs(as_float(row[i]) - base[i])


@kernel
def _count(codes: Any, interval: Any, bins: Any, counts: Any, mixed: Any) -> Any:
    """Count the codes of a tile: below the interval, at its first and at its last code, and in bins between them.

    `mixed` marks the bins that hold any other code than their first.
    """
    first, last, start, shift = interval
    below, at_first, at_last = np.int32(0), np.int32(0), np.int32(0)
    for i in range(len(codes)):
        below += less(codes[i], first)
        at_first += same(codes[i], first)
        at_last += same(codes[i], last)
    if first == last:  # one number that very many entries have, as in bfloat16
        return below, at_first, np.int32(0)
    for i in range(len(codes)):
        bins[i] = bin_between(codes[i], first, last, start, shift)
    most, whole = np.uint32(len(counts) - SPARE), len(codes) - len(codes) % BLOCK
    for at in range(0, whole, BLOCK):
        part, least = bins[at : at + BLOCK], most
        for i in range(BLOCK):
            least = smaller(least, part[i])
        if least < most:
            for i in range(BLOCK):  # without a question that the processor could guess wrong
                part[i] = smaller(part[i], np.uint32(most + np.uint32(i % SPARE)))
            for i in range(BLOCK):
                counts[part[i]] += 1
            _mark(codes[at : at + BLOCK], shift, part, most, mixed)
    for i in range(whole, len(codes)):
        if bins[i] < most:
            counts[bins[i]] += 1
    _mark(codes[whole:], shift, bins[whole:], most, mixed)
    return below, at_first, at_last


@kernel
def _mark(codes: Any, shift: Any, bins: Any, most: Any, mixed: Any) -> None:
    found = np.uint32(0)
    for i in range(len(codes)):
        found = larger(found, rest_of(codes[i], shift, bins[i], most))
    if found > np.uint32(0):
        for i in range(len(codes)):
            if rest_of(codes[i], shift, bins[i], most) > np.uint32(0):
                mixed[bins[i]] = True


@kernel
def count(values: Any, expert: int, where: Any, into: Any, codes: Any, bins: Any) -> None:
    """Count a tile of one expert's values in the intervals of its ranks; `codes` and `bins` are scratch of (TILE).

    `where` are the first and the last codes of the intervals, the codes that the bins begin at, the bits that a bin is
    wide, and where in the counts the bins begin and, with the spare ones, end, each (experts, ranks). `into` are the
    numbers of codes below the intervals, at the first and at the last code, (experts, ranks, 3), the counts of all
    bins, whether they hold other codes than their first, and the least and the largest codes so far, (experts).
    """
    (first, last, start, shift, begins, ends), (below, counts, mixed, least, largest) = where, into
    size = len(values)
    for i in range(size):
        codes[i] = code(values[i])
    low, high = least[expert], largest[expert]
    for i in range(size):
        low, high = smaller(low, codes[i]), larger(high, codes[i])
    least[expert], largest[expert] = low, high
    for rank in range(first.shape[1]):
        if first[expert, rank] < NOWHERE:
            interval = first[expert, rank], last[expert, rank], start[expert, rank], shift[expert, rank]
            begin, end = begins[expert, rank], ends[expert, rank]
            found = _count(codes[:size], interval, bins[:size], counts[begin:end], mixed[begin:end])
            below[expert, rank, 0] += found[0]
            below[expert, rank, 1] += found[1]
            below[expert, rank, 2] += found[2]


@kernel
def tally(values: Any, which: Any, where: Any, into: Any) -> None:
    """Count the values of each expert, (rows, entries), in the intervals of its ranks; `which` are their numbers."""
    codes, bins = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    for row in range(values.shape[0]):
        for start in range(0, values.shape[1], TILE):
            count(values[row][start : start + TILE], which[row], where, into, codes, bins)


@kernel
def tally_magnitudes(bits: Any, which: Any, where: Any, into: Any) -> None:
    """Count the magnitudes of the task vectors' entries."""
    codes, bins = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    base, values = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    size = bits.shape[1]
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        lift(bits[0][start:stop], base)
        for row in range(len(which)):
            tile = values[: stop - start]
            _magnitudes(bits[row + 1][start:stop], base, tile)
            count(tile, which[row], where, into, codes, bins)
