"""Magnitudes, and histograms of the bits of float32 numbers, from which exact order statistics follow."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import TILE, as_float, code, kernel, lift


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
def count_upper(values: Any, counts: Any) -> None:
    """Count each row of values by the upper 16 bits of their codes; adds to `counts`, (rows, 65536)."""
    bins = np.empty(TILE, np.uint16)
    for row in range(values.shape[0]):
        counted = counts[row]
        for start in range(0, values.shape[1], TILE):
            part = values[row][start : start + TILE]
            for i in range(len(part)):
                bins[i] = np.uint16(code(part[i]) >> np.uint32(16))
            for i in range(len(part)):
                counted[bins[i]] += 1


@kernel
def count_lower(values: Any, chosen: Any, counts: Any) -> None:
    """Count the values of chosen bins, (rows, bins), by the lower 16 bits of their codes.

    Adds to `counts`, (rows, bins, 65536).
    """
    inside = np.empty(TILE, np.uint32)
    for row in range(values.shape[0]):
        for place in range(chosen.shape[1]):
            first = np.uint32(chosen[row, place]) << np.uint32(16)
            counted = counts[row, place]
            for start in range(0, values.shape[1], TILE):
                part = values[row][start : start + TILE]
                for i in range(len(part)):
                    inside[i] = code(part[i]) - first
                for i in range(len(part)):
                    if inside[i] < np.uint32(65536):
                        counted[inside[i]] += 1
