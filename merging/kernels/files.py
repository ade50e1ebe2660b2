"""Reading a tensor of several files in one call: threads wait for each other once, where they would for every file."""

from __future__ import annotations

from typing import Any

from numba import types

from merging.kernels.bits import kernel

# POSIX: file, buffer, bytes, offset; returns the bytes read, or -1.
pread = types.ExternalFunction("pread", types.intp(types.intc, types.voidptr, types.uintp, types.int64))


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
