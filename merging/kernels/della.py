"""DELLA: entries drawn by their ranks in the rows of a task vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import INFINITE, as_float, kernel, lift, magnitude
from merging.kernels.draws import SPARE, draw
from merging.kernels.sparse import ZERO, largest

SHORT = 32  # entries that are quicker sorted by insertion
U64 = np.uint64
BYTE, LOW = U64(0xFF), U64(0xFFFFFFFF)


@kernel
def sampled(bits: Any, keys: Any, first: int, row: int, chances: Any, divisor: Any, out: Any) -> bool:
    """What is drawn of each task vector by the rank of an entry in its row, (experts, entries); whether all is finite.

    `chances` is (experts, row), for the smallest magnitude first; `divisor` is (experts), and 0 for the chance itself.
    """
    base, tau, drawn = np.empty(row, np.float32), np.empty(row, np.float32), np.empty(row + SPARE, np.float32)
    ranked, other, chance = np.empty(row, U64), np.empty(row, U64), np.empty(row, np.float32)
    counts, top = np.empty((4, 256), np.int64), largest(bits[0])
    for start in range(0, bits.shape[1], row):
        lift(bits[0][start : start + row], base)
        for expert in range(len(divisor)):
            stored, result = bits[expert + 1][start : start + row], out[expert][start : start + row]
            top = max(top, largest(stored))
            for i in range(row):
                tau[i] = as_float(stored[i]) - base[i]
                ranked[i] = U64(magnitude(tau[i])) << U64(32) | U64(i)
            order = _sorted(ranked, other, counts)
            for rank in range(row):
                chance[order[rank] & LOW] = chances[expert, rank]
            _draw(tau, draw(keys[expert], first + start, row, drawn), chance, divisor[expert], result)
    return top < INFINITE


@kernel
def _draw(tau: Any, drawn: Any, chance: Any, divisor: Any, out: Any) -> None:
    for i in range(len(out)):
        by = divisor if divisor > ZERO else chance[i]
        out[i] = tau[i] / by if drawn[i] < chance[i] else ZERO


@kernel
def _sorted(pairs: Any, other: Any, counts: Any) -> Any:
    """Magnitudes with their places below them, ascending, in either of two arrays; `counts` is scratch of (4, 256)."""
    if len(pairs) <= SHORT:
        for i in range(1, len(pairs)):
            pair, at = pairs[i], i
            while at > 0 and pairs[at - 1] > pair:
                pairs[at] = pairs[at - 1]
                at -= 1
            pairs[at] = pair
        return pairs
    counts[:] = 0
    for i in range(len(pairs)):
        for byte in range(4):
            counts[byte, pairs[i] >> U64(32 + 8 * byte) & BYTE] += 1
    for byte in range(4):
        shift, places = U64(32 + 8 * byte), counts[byte]
        if places[pairs[0] >> shift & BYTE] < len(pairs):  # else all have the same
            _by_byte(pairs, shift, places, other)
            pairs, other = other, pairs
    return pairs


@kernel
def _by_byte(pairs: Any, shift: Any, counts: Any, out: Any) -> None:
    """Sort by one byte, of which each value is so often there; what has the same keeps its order."""
    first = 0
    for value in range(256):
        first, counts[value] = first + counts[value], first
    for i in range(len(pairs)):
        value = pairs[i] >> shift & BYTE
        out[counts[value]] = pairs[i]
        counts[value] += 1
