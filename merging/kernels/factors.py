"""The product of an adapter's two factors, a run of it at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import kernel


@kernel
def product(left: Any, right: Any, out: Any) -> None:
    """Write left times right: (rows, rank) times (rank, columns), float32, each sum from the first to the last.

    One after the other, so that an entry never depends on which others are computed with it; four at a time.
    """
    rank = left.shape[1]
    for row in range(left.shape[0]):
        weights, line = left[row], out[row]
        for i in range(len(line)):
            line[i] = np.float32(0)
        for k in range(0, rank - rank % 4, 4):
            _add_four(weights[k : k + 4], right[k], right[k + 1], right[k + 2], right[k + 3], line)
        for k in range(rank - rank % 4, rank):
            _add(weights[k], right[k], line)


@kernel
def _add_four(weights: Any, first: Any, second: Any, third: Any, fourth: Any, line: Any) -> None:
    a, b, c, d = weights[0], weights[1], weights[2], weights[3]
    for i in range(len(line)):
        line[i] = (((line[i] + a * first[i]) + b * second[i]) + c * third[i]) + d * fourth[i]


@kernel
def _add(weight: Any, factor: Any, line: Any) -> None:
    for i in range(len(line)):
        line[i] += weight * factor[i]
