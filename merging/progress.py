"""How far a merge is, counted while its chunks go by."""

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
    """Counts the chunks that are read, by any thread, and tells of each."""

    def __init__(self, work: Plan, names: list[str], passes: int, on_step: Callable[[Step], None] | None) -> None:
        self.passes, self.on_step = passes, on_step
        self.entries = {name: work.base.entries[name].size for name in names}
        self.bytes = {name: work.base.entries[name].bytes * (1 + len(work.merged[name])) for name in names}
        self.read = dict.fromkeys(names, 0)
        self.done = self.bytes_done = 0
        self.lock = threading.Lock()

    def watch(self, span: Span) -> None:
        """A chunk was read."""
        with self.lock:
            before, size = self.read[span.name], self.entries[span.name]
            self.read[span.name] = now = before + span.stop - span.start
            self.done += now // size - before // size
            self.bytes_done += (span.stop - span.start) * self.bytes[span.name] // size
            self._tell(span.name, "Surveying" if before // size < self.passes else "Merging")

    def finish(self) -> None:
        self.done = (self.passes + 1) * len(self.entries)
        self.bytes_done = (self.passes + 1) * sum(self.bytes.values())
        self._tell("", "Done")

    def _tell(self, name: str, stage: str) -> None:
        if self.on_step:
            total, size = (self.passes + 1) * len(self.entries), (self.passes + 1) * sum(self.bytes.values())
            self.on_step(Step(self.done, total, name, min(self.bytes_done, size), size, stage))


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
