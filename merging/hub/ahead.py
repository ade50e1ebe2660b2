"""What a merge reads on the Hub, fetched before it is read, in memory that is set beforehand, and then forgotten."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path

from merging.crew import breathe
from merging.hub.ranges import Ranged

AT_ONCE = 8  # requests: enough to keep the connection full while each of them waits for its answer
LEAST, MOST = 64 << 10, 8 << 20  # bytes of one request, where nothing is read in smaller runs
SOME = 1 << 20  # bytes, after which is told how many came

Bytes = tuple[Path, int, int]  # the bytes of a file from one to another


@dataclass(eq=False)
class Segment:
    """Bytes that are asked for at once; they are let go when all parts of them were read."""

    file: Ranged
    start: int
    stop: int
    parts: int = 0  # which have not been read to their ends
    data: bytearray | None = None  # from when they are asked for until they are let go
    filled: int = 0
    error: BaseException | None = None

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass
class Part:
    """A run of bytes in a segment, which one reader goes through in order."""

    segment: Segment
    stop: int


@dataclass
class Ahead:
    """Reads files on the Hub for a merge that says beforehand what it will read, in which order.

    What nobody expected is fetched when it is asked for. `room` is the bytes that may be held, of which half is for
    what so many `readers` are at, and half for what comes next.
    """

    files: Mapping[Path, Ranged]
    room: int
    readers: int
    largest: int = field(default_factory=lambda: MOST)  # bytes of one request
    on_bytes: Callable[[int], None] = lambda _: None  # told now and then how many have come in all
    fetched: int = 0
    held: int = 0
    told: int = 0
    order: deque[Segment] = field(default_factory=deque)  # not asked for yet, in the order in which they will be read
    urgent: deque[Segment] = field(default_factory=deque)  # those of them that somebody waits for
    parts: dict[tuple[Path, int], deque[Part]] = field(default_factory=lambda: defaultdict(deque))  # by what is next
    over: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)
    crew: list[threading.Thread] = field(default_factory=list)

    @property
    def most(self) -> int:
        """The bytes of one segment at most."""
        return max(LEAST, min(self.largest, self.room // 2 // max(1, self.readers)))

    def expect(self, rounds: Iterable[list[Bytes]]) -> None:
        """Say what will be read from now on: runs that are read side by side, one round of them after the other."""
        with self.changed:
            self._forget()
            last: dict[Path, Segment] = {}
            for runs in rounds:
                for file, start, stop in _side_by_side(runs, self.most):
                    segment = last.get(file)
                    if not segment or segment.stop != start or stop - segment.start > self.most:
                        segment = last[file] = Segment(self.files[file], start, start)
                        self.order.append(segment)
                    segment.stop, segment.parts = stop, segment.parts + 1
                    self.parts[file, start].append(Part(segment, stop))
            self.changed.notify_all()
        self._begin()

    def read(self, file: Path, start: int, stop: int) -> bytearray:
        """These bytes of a file; MergeError where the Hub does not give them, MergeStopped when it is to stop."""
        out, at = bytearray(stop - start), start
        self._begin()
        while at < stop:
            part = self._part(file, at, stop)
            segment, end = part.segment, min(stop, part.stop)
            self._wait(segment, end - segment.start)
            assert segment.data is not None
            out[at - start : end - start] = memoryview(segment.data)[at - segment.start : end - segment.start]
            self._read(file, part, end)
            at = end
        return out

    def close(self) -> None:
        """Ask for nothing more; what is under way ends when it hears of it, and nobody waits for that."""
        self.over.set()
        with self.changed:
            self._forget()
            self.changed.notify_all()

    def _part(self, file: Path, start: int, stop: int) -> Part:
        """The part that begins there; one of its own where nothing of the kind was expected."""
        with self.changed:
            waiting = self.parts[file, start]
            part = waiting.popleft() if waiting else Part(Segment(self.files[file], start, stop, 1), stop)
            if not waiting:
                del self.parts[file, start]
            if part.segment.data is None and part.segment not in self.urgent:
                self.urgent.append(part.segment)
                self.changed.notify_all()
            return part

    def _wait(self, segment: Segment, bytes_of_it: int) -> None:
        with self.changed:
            while segment.filled < bytes_of_it:
                if segment.error:
                    raise segment.error
                self.changed.wait(0.1)
                breathe()

    def _read(self, file: Path, part: Part, end: int) -> None:
        """A part was read up to there."""
        with self.changed:
            if end < part.stop:
                self.parts[file, end].appendleft(part)
                return
            part.segment.parts -= 1
            if not part.segment.parts:
                self._let_go(part.segment)

    def _let_go(self, segment: Segment) -> None:
        if segment.data is not None:
            self.held -= segment.size
            segment.data = None
            self.changed.notify_all()

    def _forget(self) -> None:
        """Nobody will read what was expected, and was not read: a survey can need less than it might have."""
        for segment in {id(part.segment): part.segment for parts in self.parts.values() for part in parts}.values():
            self._let_go(segment)
        self.parts.clear()
        self.order.clear()

    def _begin(self) -> None:
        with self.changed:
            while len(self.crew) < AT_ONCE and not self.over.is_set():
                # Daemons, since who stops need not wait for a Hub that does not answer.
                self.crew.append(threading.Thread(target=self._work, name="fetch", daemon=True))
                self.crew[-1].start()

    def _work(self) -> None:
        while found := self._next():
            segment, out = found
            try:
                segment.file.fill(segment.start, out, partial(self._came, segment), self.over)
            except BaseException as error:  # raised again in the thread that waits for these bytes
                segment.error = error
            with self.changed:
                self.changed.notify_all()

    def _next(self) -> tuple[Segment, memoryview] | None:
        """The next segment to ask for, and where its bytes go, when there is room for it or somebody waits for it.

        None when all is over.
        """
        with self.changed:
            while not self.over.is_set():
                segment = self.urgent.popleft() if self.urgent else self._affordable()
                if segment and segment.data is None:
                    segment.data = bytearray(segment.size)
                    self.held += segment.size
                    return segment, memoryview(segment.data)
                if not segment:
                    self.changed.wait()
            return None

    def _affordable(self) -> Segment | None:
        while self.order and (self.order[0].data is not None or not self.order[0].parts):
            self.order.popleft()  # somebody waited for it, and perhaps has read it
        if self.order and self.held + self.order[0].size <= self.room // 2:
            return self.order.popleft()
        return None

    def _came(self, segment: Segment, count: int) -> None:
        with self.changed:
            segment.filled += count
            self.fetched += count
            self.changed.notify_all()
            if self.fetched - self.told < SOME:
                return
            told = self.told = self.fetched
        self.on_bytes(told)


def _side_by_side(runs: list[Bytes], most: int) -> Iterator[Bytes]:
    """The runs cut into even pieces of at most so many bytes: the first of each, then the second of each."""
    for pieces in zip_longest(*(_cut(run, most) for run in runs)):
        yield from (piece for piece in pieces if piece)


def _cut(run: Bytes, most: int) -> Iterator[Bytes]:
    file, start, stop = run
    size = max(1, -(-(stop - start) // max(1, -(-(stop - start) // most))))
    return ((file, at, min(at + size, stop)) for at in range(start, stop, size))
