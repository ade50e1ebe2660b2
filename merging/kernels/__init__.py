"""Fused kernels behind the hot steps of a merge, in numba. What they compute is defined by the torch code beside them.

Without numba, and on other devices than the processor, that torch code runs instead: the same result, later.
"""

from __future__ import annotations

import threading
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

BLOCK = 2048  # numbers that stay in the nearest cache
SMALL = 2.0**-64  # sums of squares in float32 that are less may have lost a part that matters

_kept = threading.local()


@cache
def usable() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


def scratch(purpose: str, shape: tuple[int, int], dtype: Any) -> np.ndarray[Any, Any]:
    """Memory for one purpose, this thread's own, which the next call for the same purpose hands out again."""
    import numpy as np

    size = shape[0] * shape[1]
    memory = _kept.__dict__.get((purpose, dtype))
    if memory is None or memory.size < size:
        memory = _kept.__dict__[purpose, dtype] = np.empty(size, dtype)
    return memory[:size].reshape(shape)  # type: ignore[no-any-return]


def forget() -> None:
    """Give back this thread's memory."""
    _kept.__dict__.clear()
