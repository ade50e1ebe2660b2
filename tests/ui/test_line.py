"""One merge runs at a time: who waits sees how many are before, and may give the place up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from merging import space
from merging.errors import MergeError, MergeStopped
from merging.recipe import Recipe
from tests.conftest import Family
from ui import line
from ui.jobs import announce, stop
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


def ended(shown: Iterator[tuple[str, object]]) -> str:
    return list(shown)[-1][0]


def test_a_merge_waits_for_the_one_that_runs_and_stop_gives_its_place_up(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    recipe = Recipe("linear", base, tuple(experts))
    announce("you", "merge")
    waiting = run_merge(recipe, str(tmp_path / "yours"), "you")
    with its_turn(threading.Event()):
        assert "One merge is before yours" in next(waiting)[0]
        stop("you", "merge")
        assert "Stopped. Nothing was written." in ended(waiting)

        again = run_merge(recipe, str(tmp_path / "yours"), "you")
        assert "One merge is before yours" in next(again)[0]
    assert not (tmp_path / "yours").exists()
    assert "Merged." in ended(again)


def test_a_merge_that_is_left_ends_before_the_next_begins(family: Family, tmp_path: Path, merging: Line) -> None:
    base, experts = family()
    recipe = Recipe("linear", base, tuple(experts))
    running = run_merge(recipe, str(tmp_path / "one"), "you")
    assert "Reading headers" in next(running)[0]
    next(running)
    running.close()  # type: ignore[attr-defined]

    assert merging.visits == []
    assert not any(thread.name.startswith("merge") for thread in threading.enumerate())
