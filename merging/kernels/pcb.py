"""PCB-Merging's scores and its merge of one tile.

exp and tanh are polynomials of Cephes (Moshier), good to two units in the last place of a float32. They are written out
so that an entry's score is the same wherever it stands in a tile, and on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import BLOCK, INFINITE, as_float, kernel, lift, lower, magnitude, power_of_two
from merging.kernels.ranks import codes_of, count

F = np.float32
ZERO, ONE, TWO = F(0), F(1), F(2)
LEAST = F(1e-12)  # what the sum of strengths is at least, as in the released code
RELEASE, VISION, PAIRWISE = 0, 1, 2  # `nlp` is `release` with another clamp share
LOG2E, LN2_HIGH, LN2_LOW, ROUND = F(1.44269504088896341), F(0.693359375), F(-2.12194440e-4), F(12582912)
E0, E1, E2 = F(1.9875691500e-4), F(1.3981999507e-3), F(8.3334519073e-3)
E3, E4, E5 = F(4.1665795894e-2), F(1.6666665459e-1), F(5.0000001201e-1)
T0, T1, T2 = F(-5.70498872745e-3), F(2.06390887954e-2), F(-5.37397155531e-2)
T3, T4, NEAR = F(1.33314422036e-1), F(-3.33332819422e-1), F(0.625)
LOWEST, HIGHEST = F(-87), F(44)  # exp of less is next to nothing; tanh of more is 1


@kernel
def _exp(x: Any) -> Any:
    x = min(max(x, LOWEST), F(88))
    shifted = x * LOG2E + ROUND  # what is beyond the whole number falls off
    whole = shifted - ROUND
    r = x - whole * LN2_HIGH - whole * LN2_LOW
    y = ((((E0 * r + E1) * r + E2) * r + E3) * r + E4) * r + E5
    return (y * r * r + r + ONE) * power_of_two(shifted)


@kernel
def _tanh(x: Any) -> Any:
    size = abs(x)
    z = x * x
    near = ((((T0 * z + T1) * z + T2) * z + T3) * z + T4) * z * x + x
    far = ONE - TWO / (_exp(TWO * min(size, HIGHEST)) + ONE)
    return near if size < NEAR else (far if x > ZERO else -far)


@kernel
def _near_tanh(x: Any) -> Any:
    """tanh where no entry of a block is far from 0, as in real models: the same numbers in a third of the time."""
    z = x * x
    return ((((T0 * z + T1) * z + T2) * z + T3) * z + T4) * z * x + x


@kernel
def _tanh_of(row: Any) -> None:
    largest = np.uint32(0)
    for i in range(len(row)):
        largest = max(largest, magnitude(row[i]))
    if largest < magnitude(NEAR):
        for i in range(len(row)):
            row[i] = _near_tanh(row[i])
    else:
        for i in range(len(row)):
            row[i] = _tanh(row[i])


@kernel
def _normals(tau: Any, low: Any, high: Any, normal: Any) -> None:
    """Clamped magnitudes, brought to 0 to 1."""
    spread = high - low
    for i in range(len(tau)):
        clamped = min(max(abs(tau[i]), low), high)
        normal[i] = (clamped - low) / spread if spread > ZERO else ONE


@kernel
def _signed(tau: Any, values: Any, out: Any) -> None:
    for i in range(len(tau)):
        out[i] = values[i] if tau[i] > ZERO else (-values[i] if tau[i] < ZERO else ZERO)


@kernel
def _block(bits: Any, start: int, stop: int, base: Any, tau: Any) -> None:
    """Lift a block: the base, and the task vectors, (experts, BLOCK)."""
    lift(bits[0][start:stop], base)
    for expert in range(len(tau)):
        row, moved = bits[expert + 1][start:stop], tau[expert]
        for i in range(len(row)):
            moved[i] = as_float(row[i]) - base[i]


@kernel
def _score(tau: Any, count: int, variant: int, moved: Any, low: Any, high: Any, work: Any, scores: Any) -> None:
    """The scores of a block, (experts, BLOCK); `work` is scratch of (2 + 2 * experts, BLOCK)."""
    experts = len(low)
    together, inner = work[0], work[1]
    normal, sigma = work[2 : 2 + experts], work[2 + experts :]
    number = F(moved.sum())
    together[:count] = ZERO
    for expert in range(experts):
        _normals(tau[expert][:count], low[expert], high[expert], normal[expert])
        _signed(tau[expert][:count], normal[expert], sigma[expert])
        if not moved[expert]:
            sigma[expert][:count] = ZERO
        added = tau[expert] if variant == RELEASE else sigma[expert]
        for i in range(count):
            together[i] += added[i]
    for expert in range(experts):
        one, mine, score = tau[expert], sigma[expert], scores[expert]
        if variant == PAIRWISE:
            score[:count] = ZERO
            for other in range(experts):
                theirs = sigma[other]
                for i in range(count):
                    inner[i] = mine[i] * theirs[i]
                _tanh_of(inner[:count])
                for i in range(count):
                    score[i] += inner[i]
        else:
            for i in range(count):
                score[i] = one[i] * together[i]
            _tanh_of(score[:count])
        size = normal[expert]
        for i in range(count):
            score[i] *= _exp(number * (size[i] * size[i] - ONE))


@kernel
def score(bits: Any, variant: int, moved: Any, low: Any, high: Any, out: Any) -> None:
    """The scores of a tile, (experts, entries)."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, tau = np.empty(BLOCK, np.float32), np.empty((experts, BLOCK), np.float32)
    work, scores = np.empty((2 + 2 * experts, BLOCK), np.float32), np.empty((experts, BLOCK), np.float32)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        _block(bits, start, stop, base, tau)
        _score(tau, stop - start, variant, moved, low, high, work, scores)
        for expert in range(experts):
            out[expert][start:stop] = scores[expert][: stop - start]


@kernel
def tally(bits: Any, variant: int, moved: Any, low: Any, high: Any, which: Any, where: Any, into: Any) -> None:
    """Count the scores of a tile in the intervals of their ranks, as `ranks.tally` does."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, tau = np.empty(BLOCK, np.float32), np.empty((experts, BLOCK), np.float32)
    work, scores = np.empty((2 + 2 * experts, BLOCK), np.float32), np.empty((experts, BLOCK), np.float32)
    codes, found = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        _block(bits, start, stop, base, tau)
        _score(tau, stop - start, variant, moved, low, high, work, scores)
        for row in range(experts):
            codes_of(scores[row][: stop - start], codes)
            count(codes[: stop - start], which[row], where, into, found)


@kernel
def merge(
    bits: Any,
    variant: int,
    moved: Any,
    low: Any,
    high: Any,
    threshold: Any,
    best: Any,
    weights: Any,
    out: Any,
) -> bool:
    """Write the merge of one tile; whether all of it is finite. `weights` are the experts' scalings."""
    experts, size = bits.shape[0] - 1, bits.shape[1]
    base, tau = np.empty(BLOCK, np.float32), np.empty((experts, BLOCK), np.float32)
    work, scores = np.empty((2 + 2 * experts, BLOCK), np.float32), np.empty((experts, BLOCK), np.float32)
    total, strengths = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    largest = np.uint32(0)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        count = stop - start
        _block(bits, start, stop, base, tau)
        _score(tau, count, variant, moved, low, high, work, scores)
        total[:count] = ZERO
        strengths[:count] = ZERO
        for expert in range(experts):
            if moved[expert]:
                _clamp(tau[expert][:count], low[expert], high[expert])
                kept = scores[expert][:count]
                _strengths(kept, threshold[expert], best[expert])
                _add(kept, tau[expert], weights[expert], total, strengths)
        for i in range(count):
            total[i] = base[i] + total[i] / max(strengths[i], LEAST)
        largest = max(largest, lower(total, out[start:stop]))
    return largest < INFINITE


@kernel
def _clamp(tau: Any, low: Any, high: Any) -> None:
    """Clamp the magnitudes, and keep the signs; what is 0 stays 0."""
    for i in range(len(tau)):
        clamped = min(max(abs(tau[i]), low), high)
        tau[i] = clamped if tau[i] > ZERO else (-clamped if tau[i] < ZERO else ZERO)


@kernel
def _strengths(scores: Any, threshold: Any, best: Any) -> None:
    """How much each entry counts, in place of its score."""
    spread = best - threshold
    if spread > ZERO:
        for i in range(len(scores)):
            scores[i] = (max(scores[i], threshold) - threshold) / spread
    else:
        for i in range(len(scores)):
            scores[i] = ONE if scores[i] >= threshold else ZERO


@kernel
def _add(strength: Any, clamped: Any, weight: Any, total: Any, strengths: Any) -> None:
    for i in range(len(strength)):
        total[i] += weight * strength[i] * clamped[i]
        strengths[i] += strength[i]
