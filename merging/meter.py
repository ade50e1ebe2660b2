"""What work takes of the machine, as the system counts it for the whole program: memory, and bytes of files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/proc/self")
EVERY = 0.02  # seconds between two looks at the memory


@dataclass
class Taken:
    """Bytes of memory before the work and at most while it ran, and bytes read and written; 0 where nobody counts."""

    before: int = 0
    peak: int = 0
    read: int = 0
    written: int = 0


@contextmanager
def metered() -> Iterator[Taken]:
    """What the work inside takes; it is there, and complete, after the end of it."""
    taken, over = Taken(_resident(), _resident()), threading.Event()

    def look() -> None:
        while not over.wait(EVERY):
            taken.peak = max(taken.peak, _resident())

    watching = threading.Thread(target=look, name="meter", daemon=True)
    start = _moved()
    if taken.before:
        watching.start()
    try:
        yield taken
    finally:
        over.set()
        taken.peak = max(taken.peak, _resident())
        taken.read, taken.written = (now - then for now, then in zip(_moved(), start, strict=True))


def _resident() -> int:
    """Bytes of memory that the program has now."""
    return 1024 * _told("status").get("VmRSS", 0)


def _moved() -> tuple[int, int]:
    """Bytes that the program has read and written so far, whether or not they were in memory already."""
    told = _told("io")
    return told.get("rchar", 0), told.get("wchar", 0)


def _told(file: str) -> dict[str, int]:
    """The numbers that the system tells of the program; none where it does not."""
    try:
        lines = (SYSTEM / file).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    found = (line.split() for line in lines)
    return {words[0].rstrip(":"): int(words[1]) for words in found if len(words) > 1 and words[1].isdecimal()}
