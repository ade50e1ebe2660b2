"""How many entries a setting can be tried on while a slider moves, found out by trying."""

from __future__ import annotations

from collections.abc import Hashable

SOON = 0.04  # seconds that trying a setting may take


class Pace:
    """For each kind of setting the number of entries that can be tried in time: more as long as that is soon done."""

    def __init__(self, first: int, most: int) -> None:
        self.first, self.most = first, max(first, most)
        self.rooms: dict[Hashable, int] = {}
        self.settled: set[Hashable] = set()  # those for which more would take too long

    def room(self, kind: Hashable) -> int:
        """The entries to look at."""
        return self.rooms.get(kind, self.first)

    def took(self, kind: Hashable, seconds: float) -> None:
        """What looking at these entries took: the next time there may be twice as many, or half."""
        room = self.room(kind)
        if seconds > SOON:
            self.settled.add(kind)
            self.rooms[kind] = max(room // 2, self.first // 4)
        elif seconds < SOON / 3 and kind not in self.settled:
            self.rooms[kind] = min(2 * room, self.most)
