"""Where a result goes, checked before the work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from merging import space
from merging.errors import MergeError
from merging.sizes import in_words


def beside(out: Path) -> Path:
    """The folder in which a result is made before it is at `out`."""
    name = out.name.encode()[:200].decode(errors="ignore")  # a name has 255 bytes at most
    return out.parent / f".{name}.part"


def target(out: str | Path, size: int) -> Path:
    """The folder a result of that many bytes will have; MergeError unless it can be written there.

    The folder must not hold anything.
    """
    if words := space.writes(out):
        raise MergeError(words)
    try:
        place = Path(out).expanduser().resolve()
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise MergeError(f"{out} is there already, and nothing is ever overwritten. Choose another output folder.")
        if place.is_mount():
            raise MergeError(f"{out} is a disk of its own. Choose a folder on it.")
        parent = next(folder for folder in place.parents if folder.exists())
        if not parent.is_dir():
            raise MergeError(f"{parent} is a file. Choose another output folder.")
        if not os.access(parent, os.W_OK):
            raise MergeError(f"{parent} cannot be written to. Choose another output folder.")
        free = shutil.disk_usage(parent).free + _reserved(beside(place))
    except (OSError, RuntimeError, ValueError) as error:  # too long, `~name` of nobody, a NUL, no right to look
        raise MergeError(f"{out} cannot be an output folder ({error}). Choose another one.") from error
    if free < size * 1.01:
        words = f"{parent} has {in_words(free)} free and the merge needs {in_words(size)}."
        raise MergeError(f"{words} Make room or choose another folder.")
    return place


def _reserved(folder: Path) -> int:
    """The room that an earlier run has taken already, for this one to go on in or to give back."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
