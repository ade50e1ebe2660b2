"""Both passes over a piece of a tensor in files: reading it and looking at it, tile by tile, in one call."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels import statistics
from merging.kernels.bits import kernel
from merging.kernels.files import _tile


@kernel
def look(
    numbers: Any,
    offsets: Any,
    start: int,
    bits: Any,
    tile: int,
    size: int,
    samples: Any,
    counted: Any,
    squares: Any,
    products: Any,
    powers: Any,
) -> bool:
    """What the first pass measures of each tile of a piece of that size; whether all of it came.

    The files are said as in `files.squares`, and `counted` is what `statistics.look` adds to. `samples` are pairs of
    where in the tensor runs begin that are kept, how long they are, and the bits of float32 to keep them in, (models,
    runs * length). `squares` is (tiles, experts), `products` (tiles, models, models) and `powers` (tiles, 3, experts).
    """
    for number in range(len(squares)):
        at = number * tile
        count = min(tile, size - at)
        rows = bits[: len(numbers) * count].reshape(len(numbers), count)
        if not _tile(numbers, offsets, start + at, rows):
            return False
        squares[number], products[number], powers[number] = statistics.look(rows, *counted)
        for starts, length, kept in samples:
            pick(rows, start + at, starts, length, kept)
    return True


@kernel
def pick(rows: Any, first: int, starts: Any, length: int, kept: Any) -> None:
    """Keep what runs have in a tile that begins at entry `first`, in place; as `probe.Sampler.take` does."""
    last = first + rows.shape[1]
    for number in range(np.searchsorted(starts, first - length, side="right"), len(starts)):
        begin = starts[number]
        if begin >= last:
            return
        place = number * length - begin
        for entry in range(max(begin, first), min(begin + length, last)):
            for model in range(len(rows)):
                stored = np.uint32(rows[model, entry - first])
                kept[model, place + entry] = stored << np.uint32(16) if rows.itemsize == 2 else stored


@kernel
def trimmed(
    numbers: Any,
    offsets: Any,
    start: int,
    bits: Any,
    tile: int,
    size: int,
    thresholds: Any,
    both: Any,
    conflicts: Any,
    products: Any,
) -> bool:
    """What the second pass measures of each tile, (tiles, densities, experts, experts); whether all of it came.

    The rest is said as for `statistics.trimmed`.
    """
    for number in range(len(products)):
        at = number * tile
        count = min(tile, size - at)
        rows = bits[: len(numbers) * count].reshape(len(numbers), count)
        if not _tile(numbers, offsets, start + at, rows):
            return False
        products[number] = statistics.trimmed(rows, thresholds, both, conflicts)
    return True
