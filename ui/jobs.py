"""Long work in a thread of its own: what it reports, as a stream; and a way to stop it that the work agrees to."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from merging.errors import MergeStopped

STOPS: dict[tuple[str, str], threading.Event] = {}  # by visitor and kind of work
WORKING: list[tuple[str, str]] = []  # visitors and kinds of the works that run


def announce(visitor: str, kind: str) -> None:
    """Say that the visitor's work of this kind is about to begin, so that it can be stopped while it still waits."""
    stop(visitor, kind)  # what the visitor began before and left
    STOPS[visitor, kind] = threading.Event()


def dismiss(visitor: str, kind: str) -> None:
    """Stop the visitor's work of this kind, or say that none is to begin."""
    if event := STOPS.pop((visitor, kind), None):
        event.set()


def at_work() -> list[tuple[str, str]]:
    """The visitors whose work runs, and its kinds."""
    return list(WORKING)


def running(visitor: str, kind: str) -> bool:
    """Whether the visitor's work of this kind has begun and not ended."""
    return (visitor, kind) in STOPS


@contextmanager
def stoppable(visitor: str, kind: str) -> Iterator[threading.Event]:
    """An event that is set when this visitor asks this kind of work to stop, or when the work is abandoned."""
    event = STOPS.setdefault((visitor, kind), threading.Event())
    WORKING.append((visitor, kind))
    try:
        yield event
    finally:
        event.set()
        WORKING.remove((visitor, kind))
        if STOPS.get((visitor, kind)) is event:
            del STOPS[visitor, kind]


def stop(visitor: str, kind: str) -> None:
    """Ask the visitor's work of this kind to stop."""
    if event := STOPS.get((visitor, kind)):
        event.set()


def leave(visitor: str) -> None:
    """The visitor is gone: all of his work is to stop, also what has not begun."""
    for key in [key for key in list(STOPS) if key[0] == visitor]:
        if event := STOPS.pop(key, None):
            event.set()


class AllOf(threading.Event):
    """Is set when every one of some events is."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[threading.Event] = []

    def is_set(self) -> bool:
        return bool(self.events) and all(event.is_set() for event in self.events)


class Job:
    """A function running in a thread. Going over the job gives what it reports, the newest only when it hurries."""

    def __init__(self, work: Callable[[Callable[[Any], None]], Any], every: float = 0.1) -> None:
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.every = every
        self.value: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def _run(self, work: Callable[[Callable[[Any], None]], Any]) -> None:
        try:
            self.value = work(self.inbox.put)
        except BaseException as error:  # raised again in the thread that waits for the result
            self.error = error
        finally:
            self.inbox.put(self)

    def __iter__(self) -> Iterator[Any]:
        latest = self.inbox.get()
        while latest is not self:
            yield latest
            self.thread.join(self.every)
            latest = self.inbox.get()
            while latest is not self and not self.inbox.empty():
                latest = self.inbox.get()

    def result(self) -> Any:
        """What the function returned, or its error; waits for it."""
        self.thread.join()
        if self.error:
            raise self.error
        return self.value


class Joint:
    """A job that several wait for: it is to stop when all of them are, and each goes over what it reports."""

    def __init__(self, work: Callable[[Callable[[Any], None], AllOf], Any]) -> None:
        self.stop = AllOf()
        self.news = threading.Condition()
        self.told: Any = None
        self.count, self.over = 0, False
        self.job = Job(lambda _: self._run(work))

    def _run(self, work: Callable[[Callable[[Any], None], AllOf], Any]) -> Any:
        try:
            return work(self._tell, self.stop)
        finally:
            with self.news:
                self.over = True
                self.news.notify_all()

    def _tell(self, told: Any) -> None:
        with self.news:
            self.told, self.count = told, self.count + 1
            self.news.notify_all()

    def steps(self, stop: threading.Event) -> Iterator[Any]:
        """What the job reports from now on, for one of those whose `stop` it heeds; MergeStopped when that is set."""
        seen = 0
        while True:
            with self.news:
                if self.count == seen and not self.over:
                    self.news.wait(self.job.every)
                told, fresh, seen = self.told, self.count > seen, self.count
                ended = self.over and not fresh
            if stop.is_set():
                raise MergeStopped("Stopped.")
            if ended:
                return
            if fresh:
                yield told
                self.job.thread.join(self.job.every)
