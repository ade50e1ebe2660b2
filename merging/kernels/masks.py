"""Comparisons of 64 numbers at once, as the bits of a word: what pairs of rows have in common is then a few words."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from merging.kernels.bits import BLOCK, F32, I32, kernel

WIDE = 64  # numbers to a word
WORDS = BLOCK // WIDE
NUMBERS, CODES = ir.VectorType(F32, WIDE), ir.VectorType(I32, WIDE)
I64 = ir.IntType(64)


def _against_zero(order: str) -> Any:
    """An operation on WIDE float32 of a row from a place on: a word with 1 where they compare so with 0."""

    @intrinsic
    def compared(context: Any, row: Any, at: Any) -> Any:
        def built(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])
            numbers = builder.load(builder.bitcast(place, NUMBERS.as_pointer()), align=4)
            return builder.bitcast(builder.fcmp_ordered(order, numbers, ir.Constant(NUMBERS, None)), I64)

        return types.uint64(row, types.intp), built

    return compared


above, below, at = _against_zero(">"), _against_zero("<"), _against_zero("==")


@intrinsic
def ones(context: Any, word: Any) -> Any:
    """How many bits of a word are 1."""

    def counted(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), counted


@intrinsic
def _keep(context: Any, row: Any, at: Any, threshold: Any, kept: Any) -> Any:
    """Write the WIDE numbers of a row from a place on whose magnitudes reach a threshold, and 0 for the others."""

    def built(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places = [context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3)]
        start, end = (builder.bitcast(builder.gep(place, [args[1]]), NUMBERS.as_pointer()) for place in places)
        numbers = builder.load(start, align=4)
        size = builder.and_(builder.bitcast(numbers, CODES), _all(builder, ir.Constant(I32, 0x7FFFFFFF), CODES))
        reached = builder.fcmp_ordered(">=", builder.bitcast(size, NUMBERS), _all(builder, args[2], NUMBERS))
        builder.store(builder.select(reached, numbers, ir.Constant(NUMBERS, None)), end, align=4)
        return context.get_dummy_value()

    return types.void(row, types.intp, types.float32, kept), built


def _all(builder: Any, value: Any, vector: Any) -> Any:
    """The same number at all places."""
    nothing = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(CODES, None))


@kernel
def trim(row: Any, threshold: Any, kept: Any, up: Any, down: Any) -> None:
    """A block's numbers whose magnitudes reach a threshold, 0 in place of the others; and their signs."""
    for word in range(WORDS):
        _keep(row, word * WIDE, threshold, kept)
        up[word], down[word] = above(kept, word * WIDE), below(kept, word * WIDE)


@kernel
def signs(row: Any, up: Any, down: Any) -> int:
    """Note which numbers of a block, (BLOCK), are above and which are below 0, (WORDS) each; how many are 0."""
    zeros = 0
    for word in range(WORDS):
        up[word], down[word] = above(row, word * WIDE), below(row, word * WIDE)
        zeros += ones(at(row, word * WIDE))
    return zeros


@kernel
def pairs(up: Any, down: Any, both: Any, conflicts: Any) -> None:
    """Count for each pair of rows where both are not 0, and where they are of different signs.

    `up` and `down` are (rows, WORDS), of one block; what is counted is added to `both` and `conflicts`, (rows, rows).
    """
    for one in range(len(up)):
        for other in range(one + 1):
            common, apart = _pair(up[one], down[one], up[other], down[other])
            both[one, other] += common
            conflicts[one, other] += apart


@kernel
def _pair(up: Any, down: Any, other_up: Any, other_down: Any) -> Any:
    common, apart = np.int64(0), np.int64(0)
    for word in range(WORDS):
        opposite = (up[word] & other_down[word]) | (down[word] & other_up[word])
        common += ones((up[word] & other_up[word]) | (down[word] & other_down[word]) | opposite)
        apart += ones(opposite)
    return common, apart


@kernel
def mirror(table: Any) -> None:
    """Fill the upper half of a table, (rows, rows), as its lower one."""
    for one in range(len(table)):
        for other in range(one):
            table[other, one] = table[one, other]
