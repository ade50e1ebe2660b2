"""Where a result goes: checked before the work, filled beside its place, and put there by one rename."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from merging.errors import MergeError


def target(out: str | Path, size: int) -> Path:
    """The folder a result of that many bytes will have; MergeError unless it can be written there.

    The folder must not hold anything.
    """
    try:
        place = Path(out).expanduser().resolve()
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise MergeError(f"{out} is there already, and nothing is ever overwritten. Choose another output folder.")
        if place.is_mount():
            raise MergeError(f"{out} is a disk of its own. Choose a folder on it.")
        parent = next(folder for folder in place.parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise MergeError(f"{parent} cannot be written to. Choose another output folder.")
        free = shutil.disk_usage(parent).free
    except (OSError, RuntimeError, ValueError) as error:  # too long, `~name` of nobody, a NUL, no right to look
        raise MergeError(f"{out} cannot be an output folder ({error}). Choose another one.") from error
    if free < size * 1.01:
        words = f"{parent} has {_in_words(free)} free and the merge needs {_in_words(size)}."
        raise MergeError(f"{words} Make room or choose another folder.")
    return place


def _in_words(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """A folder beside the target that takes its name at the end, and vanishes when anything goes wrong."""
    folder = out.parent / f".{out.name[:200]}.part-{os.getpid()}-{threading.get_ident()}"
    created = [parent for parent in out.parents if not parent.exists()]
    try:
        folder.mkdir(parents=True)
        yield folder
        if out.is_dir():
            out.rmdir()  # it is empty, or this fails and the merge is not published
        folder.rename(out)
    except OSError as error:
        raise MergeError(f"{out} could not be written ({error}). Choose another output folder.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in created:
            with suppress(OSError):  # it holds the result, or another's work by now
                parent.rmdir()
