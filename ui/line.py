"""The line of those who want to merge: one merge runs at a time, and whoever waits sees how many are before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from merging import space
from merging.errors import MergeError, MergeStopped

OFTEN = 0.2  # seconds between two looks at whether somebody has left


class Line:
    """Who waits, in the order in which they came; the first is the one whose merge runs."""

    def __init__(self) -> None:
        self.visits: list[object] = []
        self.share = 0.0  # of the merge that runs, which is done
        self.news = threading.Condition()

    def join(self) -> object:
        """A place at the end; MergeError where too many wait."""
        with self.news:
            if len(self.visits) > space.LINE:
                words = f"{space.LINE} merges are waiting already"
                raise MergeError(f"{words}. Nothing that you have set is lost: try again in a few minutes.")
            mine = object()
            self.visits.append(mine)
            return mine

    def leave(self, mine: object) -> None:
        """Give the place to the next."""
        with self.news:
            if mine in self.visits:
                if self.visits[0] is mine:
                    self.share = 0.0
                self.visits.remove(mine)
            self.news.notify_all()

    def tell(self, share: float) -> None:
        """How far the merge is that runs, for those who wait."""
        with self.news:
            self.share = share
            self.news.notify_all()

    def wait(self, mine: object, stop: threading.Event) -> Iterator[str]:
        """Who is before, in words, each time that it changes, until it is this one's turn; MergeStopped when asked."""
        said = ""
        while True:
            with self.news:
                words = self._in_words(self.visits.index(mine))
                if words == said:
                    self.news.wait(OFTEN)
                    words = self._in_words(self.visits.index(mine))
            if stop.is_set():
                raise MergeStopped("Stopped.")
            if not words:
                return
            if words != said:
                said = words
                yield words

    def _in_words(self, before: int) -> str:
        if not before:
            return ""
        who = "One merge is before yours" if before == 1 else f"{before} merges are before yours"
        return f"{who}: one runs at a time, and the first is at {self.share:.0%}. Stop gives your place up."


MERGING = Line()


@contextmanager
def its_turn(stop: threading.Event) -> Iterator[Iterator[str]]:
    """A place in the line of merges: whoever has gone over the words for those who wait, has the turn until the end."""
    mine = MERGING.join()
    try:
        yield MERGING.wait(mine, stop)
    finally:
        MERGING.leave(mine)
