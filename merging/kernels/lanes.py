"""Sums over blocks of numbers in vectors of their own, where a loop would not become one: products, and powers.

Eight blocks' parts lie an eighth of a block apart. What is at the same place of each is added first, by halves, and
then to a sum in float64 for that place.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from merging.kernels.bits import BLOCK, F32, LANES

PART = BLOCK // 8
NEAR = 8  # numbers in float64 that a vector holds
F64 = ir.DoubleType()
SINGLES, DOUBLES = ir.VectorType(F32, LANES), ir.VectorType(F64, LANES)


def _array(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Where an array's numbers are."""
    return context.make_array(kind)(context, builder, value).data


def _load(builder: Any, data: Any, place: Any, vector: Any) -> Any:
    return builder.load(builder.bitcast(builder.gep(data, [place]), vector.as_pointer()), align=4)


def _wide(builder: Any, kind: Any, data: Any, place: Any, count: int) -> Any:
    """So many numbers of an array of float32 or float64 from a place on, in float64."""
    doubles = ir.VectorType(F64, count)
    if kind.dtype.bitwidth == 64:
        return _load(builder, data, place, doubles)
    return builder.fpext(_load(builder, data, place, ir.VectorType(F32, count)), doubles)


def _added(builder: Any, parts: list[Any]) -> Any:
    while len(parts) > 1:
        parts = [builder.fadd(one, other) for one, other in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _put(builder: Any, data: Any, place: Any, found: Any) -> None:
    """Add LANES numbers to sums in float64."""
    if found.type != DOUBLES:
        found = builder.fpext(found, DOUBLES)
    total = builder.fadd(_load(builder, data, place, DOUBLES), found)
    builder.store(total, builder.bitcast(builder.gep(data, [place]), DOUBLES.as_pointer()), align=4)


def _eighths(builder: Any, place: Any) -> list[Any]:
    return [builder.add(place, ir.Constant(place.type, eighth * PART)) for eighth in range(8)]


def _products(vector: Any) -> Any:
    """An operation that adds the products of two blocks, (BLOCK), at LANES places, in that precision."""

    @intrinsic
    def summed(context: Any, one: Any, other: Any, at: Any, sums: Any) -> Any:
        def built(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rows = [_array(context, builder, signature.args[i], args[i]) for i in range(2)]
            parts = []
            for place in _eighths(builder, args[2]):
                pair = [_load(builder, row, place, SINGLES) for row in rows]
                if vector is DOUBLES:
                    pair = [builder.fpext(part, DOUBLES) for part in pair]
                parts.append(builder.fmul(*pair))
            _put(builder, _array(context, builder, signature.args[3], args[3]), args[2], _added(builder, parts))
            return context.get_dummy_value()

        return types.void(one, other, types.intp, sums), built

    return summed


products, exact_products = _products(SINGLES), _products(DOUBLES)


@intrinsic
def powers(context: Any, row: Any, at: Any, sums: Any) -> Any:
    """Add first, third and fourth powers of a block's numbers, at LANES places, to sums, (3, PART) laid flat."""

    def built(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data, place = _array(context, builder, signature.args[0], args[0]), args[1]
        first, third, fourth = list[Any](), list[Any](), list[Any]()
        for each in _eighths(builder, place):
            value = _wide(builder, signature.args[0], data, each, LANES)
            square = builder.fmul(value, value)
            first.append(value)
            third.append(builder.fmul(value, square))
            fourth.append(builder.fmul(square, square))
        out = _array(context, builder, signature.args[2], args[2])
        for number, parts in enumerate((first, third, fourth)):
            _put(builder, out, builder.add(place, ir.Constant(place.type, number * PART)), _added(builder, parts))
        return context.get_dummy_value()

    return types.void(row, types.intp, sums), built


@intrinsic
def inner(context: Any, one: Any, other: Any) -> Any:
    """The inner product of two blocks, (BLOCK), in float64, added in an order that is always the same.

    Quarters of the blocks are added first, and what comes out by halves.
    """
    quarter = BLOCK // 4

    def built(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows = [_array(context, builder, signature.args[i], args[i]) for i in range(2)]

        def product(place: int) -> Any:
            at = ir.Constant(ir.IntType(64), place)
            pair = (_wide(builder, signature.args[i], rows[i], at, NEAR) for i in range(2))
            return builder.fmul(*pair)

        def halves(count: int, number: int) -> Any:
            if count * NEAR == quarter:
                return _added(builder, [product(number * NEAR + part * quarter) for part in range(4)])
            return builder.fadd(halves(2 * count, number), halves(2 * count, number + count))

        total = halves(1, 0)
        for half in (NEAR >> step for step in range(1, NEAR.bit_length())):
            total = builder.fadd(*(_part(builder, total, range(first, first + half)) for first in (0, half)))
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return types.float64(one, other), built


def _part(builder: Any, vector: Any, lanes: range) -> Any:
    places = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), places)
