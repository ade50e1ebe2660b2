"""One thread per core, each taking the next piece of work from a shared list: reading, computing and writing it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from merging import kernels, space
from merging.errors import MergeStopped
from merging.lazy import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

Item = TypeVar("Item")
_at_work = threading.local()  # the stop event of the job that a thread is doing
_counting = threading.Lock()
_threads: list[int] = []  # that torch had when each of the crews at work began; the first found what others left


def breathe() -> None:
    """Between the steps of long work: MergeStopped when the job that it belongs to is to stop."""
    stop = getattr(_at_work, "stop", None)
    if stop and stop.is_set():
        raise MergeStopped("Stopped. Nothing was written.")


@contextmanager
def listening(stop: threading.Event | None) -> Iterator[None]:
    """Within, `breathe` raises MergeStopped once `stop` is set, for long work that one thread does alone."""
    before, _at_work.stop = getattr(_at_work, "stop", None), stop
    try:
        yield
    finally:
        _at_work.stop = before


class Crew:
    """Workers who share the pieces of one job at a time. With one worker, the work is done where it is asked for."""

    def __init__(self, workers: int = 1, stop: threading.Event | None = None) -> None:
        self.workers, self.stop = workers, stop
        self.pool = ThreadPoolExecutor(workers, "merge", _one_thread_each) if workers > 1 else None

    @property
    def alone(self) -> Crew:
        """The same for work that is itself a piece of this crew's work."""
        return Crew(1, self.stop)

    def run(self, work: Callable[[Item], None], pieces: Iterable[Item]) -> None:
        """Do the work on every piece, in any order; the first error ends it and is raised here."""
        shared = _Shared(pieces, self.stop)
        if self.pool is None:
            shared.drain(work)
        else:
            tasks = [self.pool.submit(shared.drain, work) for _ in range(self.workers)]
            try:
                for task in tasks:
                    task.exception()  # waits; an interrupt from the keyboard arrives here
            finally:
                shared.end()
                for task in tasks:
                    task.exception()
        if shared.error:
            raise shared.error
        self.listen()

    def listen(self) -> None:
        """Raise MergeStopped where the work is to stop."""
        if self.stop and self.stop.is_set():
            raise MergeStopped("Stopped. Nothing was written.")

    def close(self) -> None:
        if self.pool:
            self.pool.shutdown()


class _Shared:
    """Pieces of work that several threads take from."""

    def __init__(self, pieces: Iterable[Item], stop: threading.Event | None) -> None:
        self.pieces, self.stop = iter(pieces), stop
        self.lock = threading.Lock()
        self.over = False
        self.error: BaseException | None = None

    def end(self) -> None:
        self.over = True

    def drain(self, work: Callable[[Item], None]) -> None:
        with listening(self.stop):
            self._drain(work)

    def _drain(self, work: Callable[[Item], None]) -> None:
        nothing = object()
        while not self.over and not (self.stop and self.stop.is_set()):
            try:
                with self.lock:
                    piece = next(self.pieces, nothing)
                if piece is nothing:
                    return
                work(piece)  # type: ignore[arg-type]
            except BaseException as error:  # raised again where the work was asked for
                self.error = self.error or error
                self.end()


def _one_thread_each() -> None:
    torch.set_num_threads(1)  # the crew is as large as the machine: more threads would only wait for each other


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch does this thread's work in it: waking others takes longer than work on small tensors.

    For milliseconds, since no crew begins or ends meanwhile: it would take the one thread for what torch had.
    """
    with _counting:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def crew(workers: int, stop: threading.Event | None) -> Iterator[Crew]:
    """A crew that goes home at the end; the last of those at work leaves torch its threads."""
    with _counting:
        _threads.append(torch.get_num_threads())
        _one_thread_each()
    members = Crew(space.hands(workers), stop)
    try:
        yield members
    finally:
        members.close()
        kernels.forget()
        with _counting:
            before = _threads[0]
            _threads.pop()
            if not _threads:
                torch.set_num_threads(before)
