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

_kept = threading.local()


@cache
def usable() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


def scratch(purpose: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Memory for one purpose, this thread's own, which the next call for the same purpose hands out again."""
    import numpy as np

    size = 1
    for length in shape:
        size *= length
    memory = _kept.__dict__.setdefault("memory", {})
    key = (purpose, np.dtype(dtype))
    if key not in memory or memory[key].size < size:
        memory[key] = np.empty(size, dtype)
    return memory[key][:size].reshape(shape)


def warm() -> None:
    """Compile what merges usually need, or read it from where it was kept; takes a while the first time."""
    from merging.warming import merge_a_little

    merge_a_little()
