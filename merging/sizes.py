"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re

from merging.errors import MergeError

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def in_bytes(size: int | str) -> int:
    """The number of bytes that 500000, "1GB" or "512 MiB" is; MergeError when it is none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(size).lower())
    if not found or found[2] not in UNITS or not (number := int(float(found[1]) * UNITS[found[2]])):
        raise MergeError(f"{size!r} is no size. Write a number of bytes, or one with a unit, such as 500MB or 1GB.")
    return number
