"""Philox-4x32-10 as merging/draws.py defines it."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import BLOCK, kernel

U32, U64 = np.uint32, np.uint64
M0, M1 = U64(0xD2511F53), U64(0xCD9E8D57)
B0, B1 = U32(0x9E3779B9), U32(0xBB67AE85)
STEP = np.float32(2.0**-24)
SPARE = 8  # more than the entries of a count on both sides of a run, which may begin and end within one


@kernel
def _blocks(key: Any, first: int, out: Any) -> None:
    """The words of counts from `first` on as numbers from 0 to below 1, four to a count."""
    for i in range(len(out) // 4):
        count = U64(first + i)
        a, b, c, d = U32(count), U32(count >> U64(32)), key[2], key[3]
        j, k = key[0], key[1]
        for _ in range(10):
            left, right = U64(a) * M0, U64(c) * M1
            a, b, c, d = U32(right >> U64(32)) ^ b ^ j, U32(right), U32(left >> U64(32)) ^ d ^ k, U32(left)
            j, k = U32(j + B0), U32(k + B1)
        out[4 * i] = np.float32(np.int32(a >> U32(8))) * STEP
        out[4 * i + 1] = np.float32(np.int32(b >> U32(8))) * STEP
        out[4 * i + 2] = np.float32(np.int32(c >> U32(8))) * STEP
        out[4 * i + 3] = np.float32(np.int32(d >> U32(8))) * STEP


@kernel
def draw(key: Any, start: int, count: int, block: Any) -> Any:
    """The numbers of so many entries from number `start` on: a part of `block`, which has SPARE more than these."""
    before = start % 4
    _blocks(key, start // 4, block[: (before + count + 3) // 4 * 4])
    return block[before : before + count]


@kernel
def uniforms(keys: Any, start: int, out: Any) -> None:
    """Numbers from 0 to below 1 for entries from number `start` on, (experts, entries) of float32."""
    size = out.shape[1]
    block = np.empty(BLOCK + SPARE, np.float32)
    for expert in range(out.shape[0]):
        for at in range(0, size, BLOCK):
            count = min(BLOCK, size - at)
            out[expert, at : at + count] = draw(keys[expert], start + at, count, block)
