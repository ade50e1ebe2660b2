"""Magnitudes, and where the codes of float32 numbers lie, from which exact order statistics follow."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import TILE, as_float, code, kernel, lift

BLOCK = 32  # codes that are looked at together: most blocks have none in a narrow interval


@kernel
def magnitudes(bits: Any, out: Any) -> None:
    """The magnitudes of the task vectors' entries, (experts, entries) of float32."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base = np.empty(TILE, np.float32)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        lift(bits[0][start:stop], base)
        for expert in range(experts):
            row, values = bits[expert + 1][start:stop], out[expert][start:stop]
            for i in range(stop - start):
                values[i] = abs(as_float(row[i]) - base[i])


@kernel
def _codes(values: Any, out: Any) -> Any:
    """The codes of a tile, and the least and the largest of them."""
    for i in range(len(values)):
        out[i] = code(values[i])
    least, largest = np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(len(values)):
        least = min(least, out[i])
        largest = max(largest, out[i])
    return least, largest


@kernel
def _tally(codes: Any, low: Any, shift: Any, bins: Any, counts: Any) -> Any:
    """Count the codes of a tile in an interval by bins of 2^shift; and the number of codes below it."""
    below = np.int32(0)
    for i in range(len(codes)):
        below += np.int32(codes[i] < low)
        bins[i] = np.uint32(np.uint32(codes[i] - low) >> shift)
    most = np.uint32(len(counts))
    whole = len(codes) - len(codes) % BLOCK
    for start in range(0, whole, BLOCK):
        least = most
        part = bins[start : start + BLOCK]
        for i in range(BLOCK):
            least = min(least, part[i])
        if least < most:
            for i in range(BLOCK):
                if part[i] < most:
                    counts[part[i]] += 1
    for i in range(whole, len(codes)):
        if bins[i] < most:
            counts[bins[i]] += 1
    return below


@kernel
def tally(
    values: Any,
    which: Any,
    low: Any,
    shift: Any,
    starts: Any,
    ends: Any,
    below: Any,
    counts: Any,
    least: Any,
    largest: Any,
) -> None:
    """Count the values of each expert, (rows, entries), in the intervals of the ranks that are looked for.

    `which` are the experts' numbers; by these, `low`, `shift` and `below` are (experts, ranks), as are `starts` and
    `ends`, which say where in `counts` the bins of an interval are; `least` and `largest` are the extreme codes so far.
    """
    codes, bins = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    for row in range(values.shape[0]):
        expert = which[row]
        for start in range(0, values.shape[1], TILE):
            part = values[row][start : start + TILE]
            first, last = _codes(part, codes)
            least[expert] = min(least[expert], first)
            largest[expert] = max(largest[expert], last)
            for rank in range(low.shape[1]):
                if low[expert, rank] < np.uint32(0xFFFFFFFF):
                    place = counts[starts[expert, rank] : ends[expert, rank]]
                    size = len(part)
                    found = _tally(codes[:size], low[expert, rank], shift[expert, rank], bins[:size], place)
                    below[expert, rank] += found
