"""One merge runs at a time: who waits sees how many are before, and may give the place up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from merging import space
from merging.engine import Step, merge
from merging.errors import MergeError, MergeStopped
from merging.recipe import Recipe
from merging.report import Report
from tests.conftest import Family
from ui import line
from ui.jobs import announce, at_work, running, stop
from ui.line import Line, its_turn
from ui.merge_panel import run_merge


@pytest.fixture(autouse=True)
def merging(monkeypatch: pytest.MonkeyPatch) -> Line:
    """A line of this test's own."""
    monkeypatch.setattr("ui.merge_panel.MERGING", own := Line())
    monkeypatch.setattr(line, "MERGING", own)
    return own


def test_whoever_waits_is_told_how_many_are_before_and_how_far_the_first_is(merging: Line) -> None:
    stop = threading.Event()
    with its_turn(stop) as first, its_turn(stop) as second, its_turn(stop) as third:
        assert list(first) == []
        assert next(third).startswith("2 merges are before yours: one runs at a time, and the first is at 0%.")
        merging.tell(0.4)
        assert next(third).startswith("2 merges are before yours: one runs at a time, and the first is at 40%.")
        merging.leave(merging.visits[0])
        assert list(second) == []
        assert next(third).startswith("One merge is before yours: one runs at a time, and the first is at 0%.")


def test_who_is_told_to_stop_leaves_the_line(merging: Line) -> None:
    mine, theirs = threading.Event(), threading.Event()
    with its_turn(theirs):
        with its_turn(mine) as before:
            next(before)
            mine.set()
            with pytest.raises(MergeStopped):
                next(before)

        assert len(merging.visits) == 1


def test_a_line_has_an_end(merging: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "LINE", 1)
    stop = threading.Event()
    with (
        its_turn(stop),
        its_turn(stop),
        pytest.raises(MergeError, match="1 merges are waiting already"),
        its_turn(stop),
    ):
        raise AssertionError


def ended_with(shown: Iterator[tuple[str, object]]) -> str:
    return list(shown)[-1][0]


def test_a_merge_waits_for_the_one_that_runs_and_stop_gives_its_place_up(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    recipe = Recipe("linear", base, tuple(experts))
    announce("you", "merge")
    waiting = run_merge(recipe, str(tmp_path / "yours"), "you")
    with its_turn(threading.Event()):
        assert "One merge is before yours" in next(waiting)[0]
        stop("you", "merge")
        assert "Stopped. Nothing was written." in ended_with(waiting)

        again = run_merge(recipe, str(tmp_path / "yours"), "you")
        assert "One merge is before yours" in next(again)[0]
    assert not (tmp_path / "yours").exists()
    assert "Merged." in ended_with(again)


def test_a_merge_that_is_left_holds_nobody_up_and_ends_before_the_next_begins(
    family: Family, tmp_path: Path, merging: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family()
    recipe = Recipe("linear", base, tuple(experts))
    go_on, ended, jobs = threading.Event(), threading.Event(), list[threading.Thread]()

    def deaf(recipe: Recipe, output: str, tell: Callable[[Step], None], stop: threading.Event, **how: Any) -> Report:
        jobs.append(threading.current_thread())
        tell(Step(1, 4, "", 1, 4, "Merging"))
        go_on.wait(30)  # whoever waited for it to hear Stop would do so as long
        ended.set()
        return merge(recipe, output, tell, stop, **how)

    monkeypatch.setattr("ui.merge_panel.merge", deaf)
    running = run_merge(recipe, str(tmp_path / "one"), "me")
    assert "Reading headers" in next(running)[0]
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert not ended.is_set()
    assert ("me", "merge") in at_work()

    waiting = run_merge(recipe, str(tmp_path / "two"), "you")
    assert "One merge is before yours: one runs at a time, and the first is at 25%." in next(waiting)[0]
    go_on.set()
    assert "Merged." in ended_with(waiting)
    assert ended.is_set()
    assert not (tmp_path / "one").exists()
    for job in jobs:
        job.join()
    assert merging.visits == []
    assert ("me", "merge") not in at_work()


def test_a_merge_that_cannot_begin_is_not_taken_for_one_that_runs() -> None:
    for recipe, output in ((None, "out"), (Recipe("linear", None, ()), " "), (None, "a/\0b")):
        announce("you", "merge")

        [(told, report)] = run_merge(recipe, output, "you")

        assert "notice error" in told
        assert report is None
        assert not running("you", "merge")
