"""What each visitor asked to see of what the merge will do, and sees."""

from __future__ import annotations

from collections import Counter
from threading import Event
from typing import Any


class Sight:
    """What each visitor asked to see, and sees: drawings end in another order than they were begun in."""

    def __init__(self) -> None:
        self.moves, self._asked = Counter[str](), Counter[str]()
        self._seen = dict[str, tuple[int, Any, bool]]()  # of which move, in which view, and whether exactly
        self._exact = dict[str, Event]()  # stops what draws exactly

    def ask(self, visitor: str) -> int:
        """A drawing that is begun, by number; the one begun last is the one that counts, and exact ones stop for it."""
        self.stopper(visitor).set()
        self._asked[visitor] += 1
        return self._asked[visitor]

    def stopper(self, visitor: str) -> Event:
        """What stops the exact drawing that is begun now, and has stopped the ones before."""
        before, now = self._exact.get(visitor), Event()
        self._exact[visitor] = now
        if before:
            before.set()
        return now

    def asked(self, visitor: str) -> int:
        return self._asked[visitor]

    def show(self, visitor: str, move: int, view: tuple[Any, ...], exact: bool) -> None:
        self._seen[visitor] = move, view, exact

    def shows(self, visitor: str, move: int, view: tuple[Any, ...]) -> bool:
        """Whether that is what the visitor sees, exactly."""
        return self._seen.get(visitor) == (move, view, True)

    def leave(self, visitor: str) -> None:
        for kept in (self.moves, self._asked, self._seen, self._exact):
            kept.pop(visitor, None)
