"""Reading and writing files in the same call as computing: threads wait for each other once, and not for every file."""

from __future__ import annotations

from typing import Any

from numba import types

from merging.kernels import sums
from merging.kernels.bits import kernel

# POSIX: file, buffer, bytes, offset; returns the bytes that were read or written, or -1.
_SIGNATURE = types.intp(types.intc, types.voidptr, types.uintp, types.int64)
pread, pwrite = types.ExternalFunction("pread", _SIGNATURE), types.ExternalFunction("pwrite", _SIGNATURE)


@kernel
def read(numbers: Any, offsets: Any, starts: Any, length: int, rows: Any) -> bool:
    """Fill each row from an open file, whose tensor begins at an offset; whether all of it came.

    A row is runs of that length, one after the other, of the entries from each of `starts` on.
    """
    for row in range(len(numbers)):
        for number in range(len(starts)):
            part = rows[row][number * length : (number + 1) * length]
            place = offsets[row] + starts[number] * rows.itemsize
            if pread(numbers[row], part.ctypes, part.nbytes, place) != part.nbytes:
                return False
    return True


@kernel
def _tile(numbers: Any, offsets: Any, start: int, rows: Any) -> bool:
    """Fill the last of the rows, one for each file, with the entries from `start` on; whether all of them came."""
    first = len(rows) - len(numbers)
    for row in range(len(numbers)):
        mine = rows[first + row]
        if pread(numbers[row], mine.ctypes, mine.nbytes, offsets[row] + start * rows.itemsize) != mine.nbytes:
            return False
    return True


@kernel
def squares(numbers: Any, offsets: Any, start: int, bits: Any, tile: int, size: int, out: Any) -> bool:
    """The sums of squares of the task vectors in each tile of a piece of that size, (tiles, experts); whether it came.

    The files and offsets are those of `read`, the base's first; `bits` is scratch for `tile` entries of all models.
    """
    for number in range(len(out)):
        at = number * tile
        count = min(tile, size - at)
        rows = bits[: len(numbers) * count].reshape(len(numbers), count)
        if not _tile(numbers, offsets, start + at, rows):
            return False
        out[number] = sums.squares(rows)
    return True


@kernel
def sum_up(
    numbers: Any,
    offsets: Any,
    start: int,
    bits: Any,
    tile: int,
    weights: Any,
    from_base: bool,
    out: Any,
    number: int,
    place: int,
) -> bool:
    """Write a piece of a weighted sum to an open file, tile by tile, and leave it in `out`; whether all went well.

    What is read is said as for `squares`, and the rest as for `weighted_sum`; `place` is where the piece goes.
    """
    models = len(weights) + 1
    for at in range(0, len(out), tile):
        part = out[at : at + tile]
        rows = bits[: models * len(part)].reshape(models, len(part))
        if not _tile(numbers, offsets, start + at, rows):
            return False
        if not sums.weighted_sum(rows, weights, from_base, part):
            return False
        if pwrite(number, part.ctypes, part.nbytes, place + at * out.itemsize) != part.nbytes:
            return False
    return True
