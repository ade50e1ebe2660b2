"""Sizes as people write them: `1GB` into bytes, and bytes into words."""

from __future__ import annotations

import math
import re

from merging.errors import MergeError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def in_bytes(size: int | str) -> int:
    """The number of bytes that `500MB`, `1.5 GiB` or a plain number says."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([kmgt]?i?)b?", str(size).strip().lower())
    number = float(found[1]) * UNITS.get(found[2], 0) if found else 0
    if not 1 <= number < math.inf:
        raise MergeError(f"`{size}` is not a size. Write it as 1GB, 500MB or a number of bytes.")
    return int(number)


def in_words(size: float) -> str:
    """Bytes with a unit that suits them: `37.8 MB`."""
    for unit in ("bytes", "kB", "MB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.2f} GB" if size < 10 else f"{size:.1f} GB"
