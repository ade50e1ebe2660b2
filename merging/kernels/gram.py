"""Inner products of a base model and task vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import BLOCK, as_float, kernel, lift
from merging.kernels.lanes import inner


@kernel
def products(bits: Any, based: bool) -> Any:
    """The inner products of base and task vectors, (1 + experts, 1 + experts), in float64.

    `bits` is (1 + experts, entries), the base first; where it does not enter, it counts as zeros.
    """
    models, size = bits.shape
    rows, wide = np.zeros((models, BLOCK), np.float32), np.empty(BLOCK)
    total = np.zeros((models, models))
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        count = stop - start
        if based:
            lift(bits[0][start:stop], rows[0])
        for model in range(1, models):
            _move(bits[model][start:stop], rows[0], rows[model])
        rows[:, count:] = np.float32(0)
        for model in range(models):
            add_products(rows, model, wide, total)
    for model in range(models):
        for other in range(model):
            total[other, model] = total[model, other]
    return total


@kernel
def add_products(rows: Any, model: int, wide: Any, total: Any) -> None:
    """Add the inner products of a row of a block, (models, BLOCK), with those before it and itself.

    They go to the lower half of `total`, (models, models). `wide` is (BLOCK), and is left as the row in float64.
    """
    _widen(rows[model], wide)
    for other in range(model):
        total[model, other] += inner(wide, rows[other])
    total[model, model] += inner(wide, wide)


@kernel
def _widen(row: Any, wide: Any) -> None:
    for i in range(BLOCK):
        wide[i] = np.float64(row[i])


@kernel
def _move(stored: Any, base: Any, row: Any) -> None:
    """A run of a task vector, as float32."""
    for i in range(len(stored)):
        row[i] = as_float(stored[i]) - base[i]
