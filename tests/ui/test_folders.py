"""The folder that a merge is written to: names that are nobody else's, that stay as typed, and that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from merging.recipe import Recipe
from merging.report import Report
from tests.conftest import Family
from tests.ui.screens import Screen
from ui.folders import fresh_folder, unplaceable
from ui.jobs import stoppable
from ui.merge_panel import estimate, run_merge
from ui.visit import Visit


def test_visitors_of_one_second_get_folders_of_their_own() -> None:
    assert len({fresh_folder() for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("output", "words"),
    [("~nobody-of-that-name/x", "~nobody-of-that-name/x cannot be an output folder ("), ("a\0b", "ab cannot be")],
)
def test_what_cannot_be_a_folder_is_said_in_a_sentence(family: Family, output: str, words: str) -> None:
    base, experts = family()
    recipe = Recipe("from", base, tuple(experts))

    assert words in estimate(recipe, output)
    assert words in list(run_merge(recipe, output, "someone"))[-1][0]
    assert unplaceable("merges/one") == ""


def after_a_merge(screen: Screen, out: Path, named: Path | str) -> str:
    """What the page names for the next merge when one has been written to `out`."""
    screen["output"] = str(named)
    (state,) = (number for number, value in screen.held.items() if isinstance(value, Visit))
    screen.held[state] = screen.state(Visit).merged(
        Recipe("from", Path("base"), (Path("expert"),)), Report(out, 0, 0.0, {})
    )
    screen._changed(state)
    return str(screen["output"])


def test_a_folder_that_was_typed_is_kept_until_it_is_written(screen: Screen, tmp_path: Path) -> None:
    assert after_a_merge(screen, tmp_path / "one", tmp_path / "mine") == str(tmp_path / "mine")
    assert after_a_merge(screen, tmp_path / "one", "~nobody-of-that-name/x") == "~nobody-of-that-name/x"
    assert after_a_merge(screen, tmp_path / "mine", f" {tmp_path / 'mine'}") != str(tmp_path / "mine")


def test_nobody_merges_into_a_folder_that_is_refused(family: Family, screen: Screen, tmp_path: Path) -> None:
    screen.choose(*family())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "file").touch()
    pressable = []

    for output in (tmp_path / "full", tmp_path / "file" / "in", " ", "~nobody-of-that-name/x", tmp_path / "new"):
        screen["output"] = str(output)
        screen.fire("output", "change")
        pressable.append(screen.can("run"))

    assert pressable == [False] * 4 + [True]


def test_a_folder_inside_of_a_model_is_refused_and_the_page_says_why(family: Family, screen: Screen) -> None:
    base, experts = family()
    screen.choose(base, experts)
    screen["output"] = str(experts[0] / "merged")

    screen.fire("output", "change")

    assert not screen.can("run")
    assert "which is one of the models" in screen["merge-estimate"]


def test_a_folder_of_another_name_does_not_start_a_second_merge(family: Family, screen: Screen, tmp_path: Path) -> None:
    screen.choose(*family())
    screen.able[screen.named["run"]._id] = False  # as while a merge runs

    with stoppable("someone", "merge"):
        screen["output"] = str(tmp_path / "new")
        screen.fire("output", "change")
        screen.fire("output", "change")

    assert not screen.can("run")
