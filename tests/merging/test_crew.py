"""Workers who share the pieces of a job: everything is done once, the first error ends it, and so does a stop."""

import threading
import time

import pytest
import torch

from merging.crew import crew, one_thread
from merging.errors import MergeError, MergeStopped

WORKERS = pytest.mark.parametrize("workers", [1, 3])


@WORKERS
def test_every_piece_is_done_once(workers: int) -> None:
    done: list[int] = []

    with crew(workers, None) as team:
        team.run(done.append, range(1000))

    assert sorted(done) == list(range(1000))


@WORKERS
def test_a_crew_can_be_used_again(workers: int) -> None:
    with crew(workers, None) as team:
        for _ in range(3):
            done: list[int] = []
            team.run(done.append, iter(range(10)))
            assert sorted(done) == list(range(10))


@WORKERS
def test_no_pieces_are_no_work(workers: int) -> None:
    with crew(workers, None) as team:
        team.run(lambda _: pytest.fail("there is nothing to do"), [])


@WORKERS
def test_the_first_error_is_raised_and_ends_the_work(workers: int) -> None:
    done: list[int] = []

    def work(piece: int) -> None:
        done.append(piece)
        if piece == 5:
            raise MergeError("five")
        time.sleep(0.001)

    with crew(workers, None) as team, pytest.raises(MergeError, match="five"):
        team.run(work, range(10_000))

    assert len(done) < 200


@WORKERS
def test_an_error_in_the_list_of_pieces_is_raised(workers: int) -> None:
    def pieces():
        yield 1
        raise ValueError("no more")

    with crew(workers, None) as team, pytest.raises(ValueError, match="no more"):
        team.run(lambda _: None, pieces())


@WORKERS
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_any_error_reaches_who_asked_for_the_work(workers: int, error: type[BaseException]) -> None:
    def work(_: int) -> None:
        raise error

    with crew(workers, None) as team, pytest.raises(error):
        team.run(work, range(10))


@WORKERS
def test_a_crew_works_after_an_error(workers: int) -> None:
    done: list[int] = []
    with crew(workers, None) as team:
        with pytest.raises(ZeroDivisionError):
            team.run(lambda piece: 1 / piece, [0])
        team.run(done.append, range(5))

    assert sorted(done) == list(range(5))


@WORKERS
def test_a_stop_ends_the_work_between_two_pieces(workers: int) -> None:
    stop, done = threading.Event(), []

    def work(piece: int) -> None:
        done.append(piece)
        if len(done) == 20:
            stop.set()

    with crew(workers, stop) as team, pytest.raises(MergeStopped):
        team.run(work, range(10_000))

    assert 20 <= len(done) < 20 + workers


def test_a_piece_is_done_where_it_was_asked_for_by_a_crew_of_one() -> None:
    threads: set[str] = set()

    with crew(1, None) as team:
        team.run(lambda _: threads.add(threading.current_thread().name), range(5))

    assert threads == {threading.current_thread().name}


def test_several_workers_work_at_the_same_time() -> None:
    meet = threading.Barrier(3, timeout=10)

    with crew(3, None) as team:
        team.run(lambda _: meet.wait() and None, range(3))


def test_work_within_work_is_done_alone() -> None:
    done: list[tuple[int, int]] = []

    with crew(2, None) as team:
        team.run(lambda outer: team.alone.run(lambda inner: done.append((outer, inner)), range(3)), range(4))

    assert sorted(done) == [(outer, inner) for outer in range(4) for inner in range(3)]


def test_no_thread_stays_and_torch_keeps_its_own() -> None:
    threads, own = threading.active_count(), torch.get_num_threads()

    with pytest.raises(ZeroDivisionError), crew(4, None) as team:
        team.run(lambda piece: 1 / piece, [0])

    assert threading.active_count() == threads
    assert torch.get_num_threads() == own


def test_of_two_crews_at_once_the_last_gives_torch_its_threads_back() -> None:
    own = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        first, second = crew(2, None), crew(2, None)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_num_threads() == 1
        second.__exit__(None, None, None)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(own)


def test_torch_works_alone_for_a_moment_and_crews_that_begin_then_wait() -> None:
    own, begun = torch.get_num_threads(), threading.Event()

    def merge() -> None:
        with crew(2, None):
            begun.set()

    torch.set_num_threads(3)
    try:
        with one_thread():
            other = threading.Thread(target=merge)
            other.start()
            assert torch.get_num_threads() == 1
            assert not begun.wait(0.1)
        assert torch.get_num_threads() == 3
        other.join()
        assert begun.is_set()
    finally:
        torch.set_num_threads(own)
