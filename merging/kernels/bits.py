"""What every kernel begins and ends with: stored bits to float32 and back.

Rows hold the bits of bfloat16 numbers (uint16) or of float32 numbers (uint32). Kernels go over a tile in blocks that
stay in the nearest cache, in loops over plain one-dimensional arrays: only those become vector instructions.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from merging.kernels import BLOCK as BLOCK

LANES = 16  # numbers that are looked at together where no loop says it
INFINITE = np.uint32(0x7F800000)  # a magnitude from here on up is infinite or not a number
ROUNDED_UP = np.uint32(0x7F7F8000)  # a magnitude from here on up is infinite as a bfloat16
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
def gather(context: Any, codes: Any, at: Any, first: Any, last: Any, out: Any, number: Any) -> Any:
    """Write those of the LANES codes from `at` on that lie between two to `out[number:]`; how many there are.

    The first of the two must be less than the last.
    """

    def gathered(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (codes, at, first, last, out, number), (from_type, _, _, _, to_type, _) = args, signature.args
        lanes, mask = ir.VectorType(I32, LANES), ir.VectorType(ir.IntType(1), LANES)
        place = builder.gep(context.make_array(from_type)(context, builder, codes).data, [at])
        row = builder.load(builder.bitcast(place, lanes.as_pointer()), align=4)
        above = builder.sub(row, _all(builder, builder.add(first, I32(1))))
        inside = builder.icmp_unsigned("<", above, _all(builder, builder.sub(builder.sub(last, first), I32(1))))
        target = builder.gep(context.make_array(to_type)(context, builder, out).data, [number])
        kind = ir.FunctionType(ir.VoidType(), [lanes, I32.as_pointer(), mask])
        store = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.compressstore.v{LANES}i32")
        builder.call(store, [row, target, inside])
        return builder.zext(builder.ctpop(builder.bitcast(inside, ir.IntType(LANES))), ir.IntType(64))

    return types.int64(codes, types.intp, types.uint32, types.uint32, out, types.intp), gathered


def _all(builder: Any, value: Any) -> Any:
    """The same number in all lanes."""
    lanes = ir.VectorType(I32, LANES)
    one = builder.insert_element(ir.Constant(lanes, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), ir.Constant(lanes, None))


@intrinsic
def power_of_two(context: Any, shifted: Any) -> Any:
    """2 to the whole number k, given as the float32 1.5 * 2^23 + k, whose lowest bits are those of k."""

    def raised(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        exponent = builder.shl(builder.bitcast(args[0], I32), I32(23))
        return builder.bitcast(builder.add(exponent, I32(0x3F800000)), F32)

    return types.float32(types.float32), raised


@kernel
def lift(row: Any, block: Any) -> None:
    """A run of stored numbers as float32."""
    for i in range(len(row)):
        block[i] = as_float(row[i])


@kernel
def lower(block: Any, out: Any) -> Any:
    """Store a run of float32; and the bits of the largest magnitude, or INFINITE where one is stored as that."""
    largest = np.uint32(0)
    for i in range(len(out)):
        out[i] = as_stored(block[i], out)
        largest = larger(largest, magnitude(block[i]))
    return largest if out.itemsize == 4 or largest < ROUNDED_UP else INFINITE
