"""Task vectors of which entries are dropped, by DARE and Breadcrumbs, and what the rest adds up to."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import BLOCK, INFINITE, as_float, kernel, larger, lift, lower, magnitude
from merging.kernels.draws import SPARE, draw
from merging.kernels.sums import add_up, together
from merging.kernels.ties import agree, elect

ZERO, ONE = np.float32(0), np.float32(1)
SUMS = BLOCK // 8  # that are added up next to each other
SUM, AGREED_SUM, AGREED_MEAN = 0, 1, 2  # what entries add up to: all of them, or those that agree


@kernel
def largest(row: Any) -> Any:
    """The largest magnitude among stored numbers, as bits."""
    top = np.uint32(0)
    for i in range(len(row)):
        top = larger(top, magnitude(as_float(row[i])))
    return top


@kernel
def _drop(row: Any, base: Any, drawn: Any, chance: Any, divisor: Any, out: Any) -> None:
    for i in range(len(row)):
        out[i] = (as_float(row[i]) - base[i]) / divisor if drawn[i] < chance else ZERO


@kernel
def dropped(bits: Any, keys: Any, first: int, chance: Any, divisor: Any, out: Any) -> bool:
    """What is drawn of each task vector, divided, (experts, entries); whether all that was read is finite.

    `first` is the number of the first entry; `keys` is (experts, 4), `chance` and `divisor` are (experts).
    """
    size, top = bits.shape[1], largest(bits[0])
    base, tile = np.empty(BLOCK, np.float32), np.empty(BLOCK + SPARE, np.float32)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        lift(bits[0][start:stop], base)
        for expert in range(len(chance)):
            row = bits[expert + 1][start:stop]
            drawn = draw(keys[expert], first + start, stop - start, tile)
            _drop(row, base, drawn, chance[expert], divisor[expert], out[expert][start:stop])
            top = max(top, largest(row))
    return top < INFINITE


@kernel
def _trim(row: Any, base: Any, low: Any, high: Any, divisor: Any, out: Any) -> None:
    for i in range(len(row)):
        moved = as_float(row[i]) - base[i]
        out[i] = moved / divisor if (abs(moved) >= low) & (abs(moved) <= high) else ZERO


@kernel
def trimmed(bits: Any, low: Any, high: Any, divisor: Any, out: Any) -> bool:
    """The entries of each task vector from one magnitude to another, divided; whether all that was read is finite.

    `low`, `high` and `divisor` are (experts), `out` is (experts, entries).
    """
    size, top = bits.shape[1], largest(bits[0])
    base = np.empty(BLOCK, np.float32)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        lift(bits[0][start:stop], base)
        for expert in range(len(low)):
            row = bits[expert + 1][start:stop]
            _trim(row, base, low[expert], high[expert], divisor[expert], out[expert][start:stop])
            top = max(top, largest(row))
    return top < INFINITE


@kernel
def _sizes(row: Any, base: Any, kept: Any, before: Any, after: Any) -> None:
    for i in range(len(row)):
        before[i], after[i] = abs(as_float(row[i]) - base[i]), abs(kept[i])


@kernel
def sums(bits: Any, kept: Any) -> Any:
    """The sums of magnitudes of what is kept and of the task vectors, (experts, 2) of float64."""
    size, found = bits.shape[1], np.empty((len(kept), 2))
    base, before, after = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    parts = np.zeros((len(kept), 2, SUMS))
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        count = stop - start
        lift(bits[0][start:stop], base)
        for expert in range(len(kept)):
            _sizes(bits[expert + 1][start:stop], base, kept[expert][start:stop], before, after)
            add_up(after[:count], parts[expert, 0])
            add_up(before[:count], parts[expert, 1])
    for expert in range(len(kept)):
        found[expert, 0], found[expert, 1] = together(parts[expert, 0]), together(parts[expert, 1])
    return found


@kernel
def _sum(tau: Any, weights: Any, start: int, total: Any) -> None:
    """The sum of the weighted entries, from the first expert's to the last's."""
    for expert in range(len(weights)):
        weight, row = weights[expert], tau[expert][start : start + len(total)]
        if expert == 0:
            for i in range(len(total)):
                total[i] = weight * row[i]
        else:
            for i in range(len(total)):
                total[i] += weight * row[i]


@kernel
def blend(stored: Any, tau: Any, weights: Any, rule: int, divisor: Any, scaling: Any, out: Any) -> bool:
    """Write the base, of bits `stored`, and what task vectors, (experts, entries), add up to; whether all is finite.

    A plain sum is divided by `divisor`; a mean of those that agree is over their weight, where that is more than it.
    """
    base, sign = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    summed, added = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    top, counted = np.uint32(0), np.empty(BLOCK, np.float32)
    for start in range(0, len(stored), BLOCK):
        count = min(BLOCK, len(stored) - start)
        total = summed[:count]
        lift(stored[start : start + count], base)
        _sum(tau, weights, start, total)
        if rule == SUM:
            for i in range(count):
                total[i] /= divisor
        else:
            elect(total, ONE, sign)
            total = added[:count]
            total[:] = ZERO
            counted[:count] = ZERO
            for expert in range(len(weights)):
                agree(tau[expert][start : start + count], weights[expert], sign, total, counted)
        if rule == AGREED_MEAN:
            for i in range(count):
                total[i] /= ONE if abs(counted[i]) <= divisor else counted[i]
        for i in range(count):
            total[i] = base[i] + scaling * total[i]
        top = max(top, lower(total, out[start : start + count]))
    return top < INFINITE
