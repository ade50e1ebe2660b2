"""What every kernel begins and ends with: stored bits to float32 and back.

Rows hold the bits of bfloat16 numbers (uint16) or of float32 numbers (uint32). Kernels go over them in tiles that stay
in the nearest cache, in loops over plain one-dimensional arrays: only those become vector instructions.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic

TILE = 2048
INFINITE = np.uint32(0x7F800000)  # a magnitude from here on up is infinite or not a number
I32, F32 = ir.IntType(32), ir.FloatType()


def _cache() -> str:
    """Where compiled kernels are kept: apart for each state of the sources, of which numba watches one file only."""
    here = Path(__file__).parent
    state = sha256(b"".join(file.read_bytes() for file in sorted(here.glob("*.py")))).hexdigest()[:16]
    home = here / "__pycache__" if os.access(here, os.W_OK) else Path.home() / ".cache" / "mergescope"
    return config.CACHE_DIR or str(home / f"kernels-{state}")


CACHE = _cache()


def kernel(function: Any) -> Any:
    """Compile for the types it is called with, once on a machine; other threads run while it does."""
    before, config.CACHE_DIR = config.CACHE_DIR, CACHE
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = before


@intrinsic
def as_float(context: Any, stored: Any) -> Any:
    """The float32 whose bits, or whose bfloat16 bits, these are."""

    def lifted(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = args[0]
        if stored.bitwidth == 16:
            bits = builder.shl(builder.zext(bits, I32), I32(16))
        return builder.bitcast(bits, F32)

    return types.float32(stored), lifted


@intrinsic
def as_stored(context: Any, value: Any, out: Any) -> Any:
    """A float32 as the bits that the array `out` holds: rounded to the nearest bfloat16, ties to even, or as it is."""

    def lowered(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], I32)
        if out.dtype.bitwidth == 32:
            return bits
        odd = builder.and_(builder.lshr(bits, I32(16)), I32(1))
        bits = builder.add(builder.add(bits, I32(0x7FFF)), odd)
        return builder.trunc(builder.lshr(bits, I32(16)), ir.IntType(16))

    return out.dtype(types.float32, out), lowered


@intrinsic
def magnitude(context: Any, value: Any) -> Any:
    """The bits of a float32 without its sign, whose order is that of the magnitudes."""

    def masked(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.and_(builder.bitcast(args[0], I32), I32(0x7FFFFFFF))

    return types.uint32(types.float32), masked


@intrinsic
def code(context: Any, value: Any) -> Any:
    """An unsigned integer in the order of the float32 values, negative ones first."""

    def ordered(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], I32)
        flip = builder.or_(builder.ashr(bits, I32(31)), I32(0x80000000))
        return builder.xor(bits, flip)

    return types.uint32(types.float32), ordered


def _of_two(compute: Any, result: Any) -> Any:
    """An operation on two uint32 that stays with them: numba widens them to 64 bits, in which half as many fit."""

    @intrinsic
    def operation(context: Any, a: Any, b: Any) -> Any:
        def built(_: Any, builder: Any, signature: Any, args: Any) -> Any:
            return compute(builder, *args)

        return result(types.uint32, types.uint32), built

    return operation


def _chosen(order: str) -> Any:
    return lambda builder, a, b: builder.select(builder.icmp_unsigned(order, a, b), a, b)


def _compared(order: str) -> Any:
    return lambda builder, a, b: builder.zext(builder.icmp_unsigned(order, a, b), I32)


smaller, larger = _of_two(_chosen("<"), types.uint32), _of_two(_chosen(">"), types.uint32)
less, same = _of_two(_compared("<"), types.int32), _of_two(_compared("=="), types.int32)  # 1 where it holds, else 0


@intrinsic
def bin_between(context: Any, code: Any, first: Any, last: Any, start: Any, shift: Any) -> Any:
    """The number of the bin of 2^shift codes, counted from `start`, for codes between two; else a large number."""

    def counted(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        code, first, last, start, shift = args
        inside = builder.icmp_unsigned("<", builder.sub(builder.sub(code, first), I32(1)), _apart(builder, first, last))
        return builder.select(inside, builder.lshr(builder.sub(code, start), shift), I32(0xFFFFFFFF))

    return types.uint32(*[types.uint32] * 5), counted


def _apart(builder: Any, first: Any, last: Any) -> Any:
    """How many codes there are between two."""
    return builder.sub(builder.sub(last, first), I32(1))


@intrinsic
def rest_of(context: Any, code: Any, shift: Any, place: Any, bins: Any) -> Any:
    """What a code is more than the first of its bin of 2^shift codes; 0 for one that lies beyond the bins."""

    def masked(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = builder.sub(builder.shl(I32(1), args[1]), I32(1))
        return builder.select(builder.icmp_unsigned("<", args[2], args[3]), builder.and_(args[0], mask), I32(0))

    return types.uint32(*[types.uint32] * 4), masked


@intrinsic
def power_of_two(context: Any, shifted: Any) -> Any:
    """2 to the whole number k, given as the float32 1.5 * 2^23 + k, whose lowest bits are those of k."""

    def raised(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        exponent = builder.shl(builder.bitcast(args[0], I32), I32(23))
        return builder.bitcast(builder.add(exponent, I32(0x3F800000)), F32)

    return types.float32(types.float32), raised


@kernel
def lift(row: Any, tile: Any) -> None:
    """A run of stored numbers as float32."""
    for i in range(len(row)):
        tile[i] = as_float(row[i])


@kernel
def lower(tile: Any, out: Any) -> Any:
    """Store a run of float32; and the largest magnitude among what is stored, as bits."""
    for i in range(len(out)):
        out[i] = as_stored(tile[i], out)
    largest = np.uint32(0)
    for i in range(len(out)):
        size = max(magnitude(tile[i]), magnitude(as_float(out[i])))
        largest = max(largest, size)
    return largest
