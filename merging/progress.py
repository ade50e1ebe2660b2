"""How far a merge is, counted while its pieces go by."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from merging.plan import Plan
from merging.stream import Span


@dataclass(frozen=True)
class Step:
    """How far a merge is, in visits to a tensor: a survey visits every tensor once in each of its passes."""

    done: int
    total: int
    name: str
    bytes_done: int
    bytes_total: int
    stage: str


class Progress:
    """Counts the pieces that are read, by any thread, and tells of each before it is."""

    def __init__(self, work: Plan, passes: dict[str, int], on_step: Callable[[Step], None] | None) -> None:
        self.passes, self.on_step = dict(passes), on_step  # of the survey over each tensor, as far as is known
        self.merging: set[str] = set()  # the tensors that are surveyed
        self.entries = {name: work.base.entries[name].size for name in passes}
        self.bytes = {name: work.base.entries[name].bytes * (1 + len(work.merged[name])) for name in passes}
        self.total = sum(count + 1 for count in passes.values())
        self.bytes_total = sum((count + 1) * self.bytes[name] for name, count in passes.items())
        self.read = dict.fromkeys(passes, 0)
        self.done = self.bytes_done = 0
        self.there: dict[str, int] = {}  # bytes on the Hub that one reading of each tensor takes
        self.fetched = self.to_fetch = 0  # of all readings
        self.name, self.stage = "", "Surveying"  # that was told last
        self.lock = threading.Lock()

    def watch(self, span: Span) -> None:
        """A piece is about to be read."""
        with self.lock:
            size, before = self.entries[span.name], self.read[span.name]
            if span.name not in self.merging and before // size == self.passes[span.name]:
                self._expect(span.name, self.passes[span.name] + 1)  # what a sample suggested was wrong
            self._tell(span.name, "Merging" if span.name in self.merging else "Surveying")
            self.read[span.name] = now = before + span.stop - span.start
            self.done += now // size - before // size
            self.bytes_done += (span.stop - span.start) * self.bytes[span.name] // size

    def surveyed(self, name: str) -> None:
        """The survey of a tensor is over: what is read of it now is merged."""
        with self.lock:
            self.merging.add(name)
            self._expect(name, self.read[name] // self.entries[name])

    def _expect(self, name: str, passes: int) -> None:
        """Take so many passes of the survey over a tensor for granted."""
        more = passes - self.passes[name]
        self.passes[name] = passes
        self.total += more
        self.bytes_total += more * self.bytes[name]

    def skip(self, name: str, visits: int = 1) -> None:
        """A tensor is left out, since an earlier run has finished it."""
        with self.lock:
            self.to_fetch -= visits * self.there.get(name, 0)
            if name in self.bytes:
                self.done += visits
                self.bytes_done += visits * self.bytes[name]

    def fetch(self, there: dict[str, int]) -> None:
        """These bytes of each tensor come from the Hub in each visit: how far that is tells how far the merge is."""
        self.there = there
        self.to_fetch = sum(size * (1 + self.passes.get(name, 0)) for name, size in there.items())

    def came(self, fetched: int) -> None:
        """So many bytes have come from the Hub in all."""
        with self.lock:
            self.fetched = fetched
            self._tell(self.name, self.stage)

    def finish(self) -> None:
        """All is done."""
        self.done, self.bytes_done, self.fetched = self.total, self.bytes_total, self.to_fetch
        self._tell("", "Done")

    def _tell(self, name: str, stage: str) -> None:
        self.name, self.stage = name, stage
        if self.on_step:
            done, total = (self.fetched, self.to_fetch) if self.there else (self.bytes_done, self.bytes_total)
            self.on_step(Step(min(self.done, self.total), self.total, name, min(done, total), total, stage))


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.started = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = self.laps.get(stage, 0.0) + now - self.last
        self.last = now

    @property
    def total(self) -> float:
        return time.perf_counter() - self.started
