"""The merges of a visit: listed, compared, repeated, reported on, and removed."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from merging import merge
from merging.apart import weights_apart
from merging.errors import MergeStopped
from merging.history import Change, Past
from merging.progress import Step
from merging.recipe import Recipe
from merging.report import Report
from merging.sizes import in_words
from tests.adapters import random_adapter
from tests.conftest import Family, random_tensors, write_model
from tests.ui.screens import Screen
from ui.errors import notice
from ui.history_panel import EMPTY, apart_figure, apart_in_words, changed, choices, chosen, listed
from ui.models_panel import Selection
from ui.report_pictures import pictures_of
from ui.visit import Visit
from ui.wires import history

REPORT = Report(Path("/nowhere/out"), 1234, 0.5, {})


@pytest.fixture
def visit(family: Family, tmp_path: Path) -> Visit:
    """A visit with two merges by TIES, of density 0.2 and of 0.5."""
    base, experts = family()
    now = Visit()
    for number, density in enumerate((0.2, 0.5), 1):
        recipe = Recipe("ties", base, tuple(experts), values={"density": density})
        now = now.merged(recipe, merge(recipe, tmp_path / f"out-{number}"))
    return now


def test_a_visit_grows_and_is_never_changed(visit: Visit) -> None:
    first = Visit()

    second = first.merged(visit.history.merges[0].recipe, REPORT)

    assert (first.history.merges, len(second.history.merges)) == ((), 1)
    assert first is not second


def test_the_last_merge_is_the_one_into_this_base_that_is_there(visit: Visit) -> None:
    base = str(visit.history.merges[0].recipe.base)
    gone = visit.merged(visit.history.merges[0].recipe, REPORT)

    last = gone.last(base)

    assert last
    assert last.number == 2
    assert gone.last("another base") is None


def test_merges_are_listed_the_last_first_with_names_escaped(visit: Visit) -> None:
    odd = Recipe("from", Path("base"), (Path("<img src=x>"),))

    shown = listed(visit.merged(odd, replace(REPORT, out=Path("/nowhere/<b>"))).history)

    assert listed(Visit().history) == EMPTY
    assert shown.index("<td>3</td>") < shown.index("<td>2</td>") < shown.index("<td>1</td>")
    assert shown.count("TIES-Merging") == 2
    assert "expert-1, expert-2" in shown
    assert f"<td>{in_words(1234)}</td>" in shown
    assert "/nowhere/&lt;b&gt; (not there any more)" in shown
    assert "<img" not in shown
    assert "<b>" not in shown


def test_merges_by_one_method_are_told_apart_by_their_values(visit: Visit) -> None:
    first = visit.history.merges[0].recipe
    weighted = replace(first, weights=(1, 0.5))
    history = visit.merged(replace(first, method="linear", values={}), REPORT).merged(weighted, REPORT).history

    shown = listed(history)
    _, one, _ = choices(history, 1, 2)

    for values in (
        "density 0.2, λ 1, weights 1 · 1",
        "density 0.5, λ 1, weights 1 · 1",
        "density 0.2, λ 1, weights 1 · 0.5",
    ):
        assert shown.count(f'<td class="set">TIES-Merging<span>{values}</span></td>') == 1
    assert [title.rpartition(" at ")[0] for title, _ in one.choices] == [
        "4. TIES-Merging, density 0.2, weights 1 · 0.5",
        "3. Linear",  # the only one
        "2. TIES-Merging, density 0.5, weights 1 · 1",
        "1. TIES-Merging, density 0.2, weights 1 · 1",
    ]


def test_notes_stand_in_the_list_and_escaped(visit: Visit) -> None:
    shown = listed(visit.history.noted(1, "<b>best</b> so far"))

    assert '<th scope="col">Notes</th>' in shown
    assert '<td class="note">&lt;b&gt;best&lt;/b&gt; so far</td>' in shown
    assert shown.count('<td class="note"></td>') == 1


def test_the_last_two_are_chosen_to_be_compared(visit: Visit) -> None:
    row, one, other = choices(visit.history, *chosen(visit.history, None, None))
    hidden, none, nobody = choices(Visit().history, *chosen(Visit().history, None, None))

    assert (row.visible, one.value, other.value) == (True, 2, 1)
    assert [value for _, value in one.choices] == [2, 1]
    assert (hidden.visible, none.value, nobody.value) == (False, None, None)


def test_what_is_chosen_stays_chosen_while_it_is_listed(visit: Visit) -> None:
    assert chosen(visit.history, 1, 2) == (1, 2)
    assert chosen(visit.history.without(2), 2, 1) == (1, 1)


def test_changes_stand_side_by_side_and_escaped() -> None:
    shown = changed([Change("parameters.density", "0.2", ""), Change("models", "<b>", "<i>")], 1, 2)

    assert "<td>parameters.density</td><td>0.2</td><td>–</td>" in shown
    assert "<td>&lt;b&gt;</td><td>&lt;i&gt;</td>" in shown
    assert "say the same" in changed([], 1, 2)


def test_how_far_two_merges_are_apart_is_drawn_and_told(visit: Visit) -> None:
    found = weights_apart(*visit.history.merges)

    figure = apart_figure(found, 1, 2)

    assert figure is not None
    assert "‖merge 1 − merge 2‖ / ‖merge 1‖" in str(figure.layout)
    assert figure.data[0].name == "Merge 1 − merge 2"
    numbers = [value for trace in figure.data for row in trace.z for value in row if value is not None]
    assert sorted(numbers) == pytest.approx(sorted(told.relative for told in found.tensors), rel=1e-4)
    words = f"‖merge 1 − merge 2‖ is {found.whole.relative:.3%} of ‖merge 1‖"
    assert words in apart_in_words(found, 1, 2)
    assert apart_figure(replace(found, tensors=()), 1, 2) is None


# On the page.


@pytest.fixture
def there(screen: Screen, visit: Visit) -> Screen:
    """The page after the two merges, with both chosen."""
    first = visit.history.merges[0].recipe
    screen.choose(str(first.base), first.experts)
    screen.put(visit)
    screen["history-one"], screen["history-other"] = 2, 1
    return screen


def test_two_merges_are_compared(there: Screen) -> None:
    there.fire("history-compare")

    assert "<td>parameters.density</td><td>0.5</td><td>0.2</td>" in there["history-said"]
    assert "‖merge 2 − merge 1‖ is" in there["history-said"]
    assert there["history-apart"] is not None


def test_a_comparison_tells_how_far_it_is_and_can_be_stopped(
    there: Screen, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    told = []
    for shown, _ in history._compared(visit, 2, 1, stop):
        told.append(shown)
        stop.set()

    assert "<td>parameters.density</td>" in told[-1]
    assert "<progress" in told[0]
    assert told[-1].endswith(notice("Stopped.", "info"))

    whole = [shown for shown, _ in history._compared(visit, 2, 1, threading.Event())]
    assert re.search(r"<b>\d+%</b> <span>Comparing model\.", whole[1])

    def endless(first: Past, second: Past, tell: Any, stopping: threading.Event) -> None:
        tell(Step(1, 4, "w", 1, 4, "Comparing"))
        there.fire("history-stop")
        assert stopping.is_set()
        raise MergeStopped("Stopped.")

    monkeypatch.setattr(history, "weights_apart", endless)
    there.fire("history-compare")
    assert there["history-said"].endswith(notice("Stopped.", "info"))


def test_a_folder_that_is_deleted_while_it_is_compared_is_named(there: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/out/model.safetensors")

    monkeypatch.setattr(history, "weights_apart", gone)

    there.fire("history-compare")

    words = "<code>/out/model.safetensors</code> could not be read or written (No such file or directory)."
    assert words in there["history-said"]
    assert "<table" in there["history-said"]  # how the recipes differ
    assert there["history-apart"] is None


def test_a_merge_is_not_compared_with_itself(there: Screen) -> None:
    there["history-other"] = 2

    there.fire("history-compare")

    assert "Both are merge 2. Choose another one" in there["history-said"]
    assert there["history-apart"] is None


def test_a_comparison_says_which_merge_is_gone(there: Screen, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "out-1")

    there.fire("history-compare")

    assert "<td>parameters.density</td>" in there["history-said"]
    assert "The result of merge 1 is not at" in there["history-said"]


def test_a_note_is_kept_with_its_merge_and_goes_into_its_report(there: Screen) -> None:
    there.fire("history-one", "input")
    assert there["history-note"] == ""

    there["history-note"] = "Too <short>."
    there.fire("history-note", "blur")

    assert '<td class="note">Too &lt;short&gt;.</td>' in there["history"]
    assert (there["history-one"], there["history-other"]) == (2, 1)
    told, _ = there.fire("history-report")
    assert "<h2>Note</h2>" in told["text"]
    assert "Too &lt;short&gt;." in told["text"]
    there["history-one"] = 1
    there.fire("history-one", "input")
    assert there["history-note"] == ""
    told, _ = there.fire("history-report")
    assert "<h2>Note</h2>" not in told["text"]


def test_a_note_that_says_the_same_or_is_on_no_merge_changes_nothing(there: Screen) -> None:
    before = there.state(Visit)

    there.fire("history-note", "blur")
    there["history-note"], there["history-one"] = "x", 9
    there.fire("history-note", "blur")

    assert there.state(Visit) is before


def test_a_new_merge_is_chosen_unless_a_note_is_being_written(there: Screen, visit: Visit) -> None:
    recipe = visit.history.merges[0].recipe

    def merged() -> tuple[int, int]:
        there.put(there.state(Visit).merged(recipe, REPORT))
        there._changed(there._state(Visit))
        return there["history-one"], there["history-other"]

    there["history-note"] = "kept"
    there.fire("history-note", "blur")
    assert merged() == (3, 2)
    assert there["history-note"] == ""
    there["history-note"] = "half a sen"
    assert merged() == (3, 2)
    assert there["history-note"] == "half a sen"
    there.fire("history-note", "blur")
    assert merged() == (5, 4)
    there["history-folder"] = False
    for number in (5, 4):
        assert there["history-one"] == number
        there.fire("history-delete")
    assert (there["history-one"], there["history-note"]) == (3, "half a sen")


def test_what_is_noted_while_a_merge_runs_is_kept(there: Screen, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = visit.history.merges[0].recipe

    def run_merge(*_: Any) -> Iterator[tuple[str, Report | None]]:
        there["history-note"] = "meanwhile"
        there.fire("history-note", "blur")
        yield "done", REPORT

    monkeypatch.setattr("ui.wires.merge.run_merge", run_merge)
    there["output"] = "somewhere"
    there.fire("run")

    merges = there.state(Visit).history.merges
    assert [(past.number, past.note) for past in merges] == [(1, ""), (2, "meanwhile"), (3, "")]
    assert merges[2].recipe.base == recipe.base
    monkeypatch.setattr("ui.wires.merge.run_merge", lambda *_: iter([("it failed", None)]))
    there.fire("run")
    assert len(there.state(Visit).history.merges) == 3


def test_a_merge_is_repeated_by_its_recipe(there: Screen) -> None:
    there.fire("history-repeat")

    assert (there["method"], there["ties-density"]) == ("ties", 0.5)
    assert "Merge 2 is open" in there["recipe-opened"]


def test_a_merge_is_removed_from_the_list_and_its_folder_where_asked(there: Screen, tmp_path: Path) -> None:
    there.fire("history-delete")
    there["history-one"], there["history-folder"] = 1, True
    assert (tmp_path / "out-2").is_dir()

    there.fire("history-delete")

    assert there.state(Visit).history.merges == ()
    assert not (tmp_path / "out-1").exists()
    assert there["history-said"] == ""
    assert there["history-folder"] is False  # or the next one's folder would go unasked
    assert there["history-apart"] is None


def test_a_folder_that_holds_something_else_stays(there: Screen, tmp_path: Path) -> None:
    (tmp_path / "out-2" / "mine.txt").write_text("mine")
    there["history-folder"] = True

    there.fire("history-delete")

    assert [past.number for past in there.state(Visit).history.merges] == [1, 2]
    assert (tmp_path / "out-2" / "mine.txt").is_file()
    assert "mine.txt" in there["history-said"]


def test_a_report_is_one_file_with_the_pictures_of_the_page(there: Screen) -> None:
    told, _ = there.fire("history-report")

    assert (told["name"], told["type"]) == ("out-2.html", "text/html")
    for words in ("How far each expert is from the base", "Merge coefficients", "Distance of the merge from the base"):
        assert words in told["text"]


def test_a_report_of_other_models_has_no_pictures_of_these(there: Screen, tmp_path: Path) -> None:
    there.choose(there["base"], [tmp_path / "expert-1"])

    told, _ = there.fire("history-report")

    assert "Merge coefficients" not in told["text"]
    assert "This report has no pictures: when it was made, the page showed other models than those" in told["text"]
    assert "<script" not in told["text"]


def test_a_report_of_models_that_changed_since_has_no_pictures_of_them(
    there: Screen, visit: Visit, tmp_path: Path
) -> None:
    base, experts = there["base"], there["experts"]
    write_model(Path(experts[1]), {name: tensor + 1 for name, tensor in random_tensors(2).items()})

    before, _ = there.fire("history-report")  # the page still knows what was merged
    there.choose(base, experts)
    told, _ = there.fire("history-report")

    assert "Merge coefficients" in before["text"]
    assert "Merge coefficients" not in told["text"]
    assert "the files of expert-2 are not those that were merged, since they changed on disk" in told["text"]


def test_a_report_of_models_that_are_not_read_yet_says_so(there: Screen) -> None:
    chosen = there.state(Selection)
    there.put(replace(chosen, key=(*chosen.key[:-1], (*chosen.key[-1], "another tokenizer"))))

    told, _ = there.fire("history-report")

    assert "the weights of these models had not been read" in told["text"]


def test_what_of_a_merge_cannot_be_drawn_is_told(there: Screen, visit: Visit) -> None:
    first = visit.history.merges[0]
    wrong = replace(first, recipe=replace(first.recipe, values={"density": 7}))
    flat = replace(first, recipe=replace(first.recipe, result="adapter"))

    pictures, missing = pictures_of(there.state(Selection), wrong)
    _, none = pictures_of(there.state(Selection), flat)
    all_of_them, nothing = pictures_of(there.state(Selection), first)

    assert [picture.title for picture in pictures] == ["How far each expert is from the base"]
    assert missing.startswith("What the merge did is not drawn: `density` must be between")
    assert "knows of no merge of these models into an adapter" in none
    assert (len(all_of_them), nothing) == (4, "")


def test_why_a_merge_without_a_base_has_no_pictures_is_told(there: Screen, visit: Visit) -> None:
    first = visit.history.merges[0]

    bare = pictures_of(there.state(Selection), replace(first, recipe=replace(first.recipe, base=None), models=()))
    gone = pictures_of(there.state(Selection), replace(first, models=()))

    assert bare[0] == gone[0] == []
    assert "this merge was made without a base model" in bare[1]
    assert "could not be looked at when it was done" in gone[1]


def test_a_report_of_a_merge_that_is_not_listed_any_more_is_an_error(there: Screen) -> None:
    there["history-one"] = 9

    file, _ = there.fire("history-report")

    assert file == {}
    assert "Merge 9 is not in the history" in there["history-unsaved"]


@pytest.mark.parametrize(("method", "drawn"), [("task_arithmetic", True), ("knots", False)])
def test_a_report_of_an_adapter_has_its_coefficients_where_there_are_some(
    screen: Screen, tmp_path: Path, method: str, drawn: bool
) -> None:
    base = write_model(tmp_path / "base", random_tensors(0))
    shapes = {"model.layers.0.mlp.up_proj": (6, 4)}
    some = [random_adapter(tmp_path / f"adapter-{seed}", seed, shapes, rank=2) for seed in range(2)]
    recipe = Recipe(method, base, tuple(some), result="adapter")
    screen.choose(base, some)
    screen.put(Visit().merged(recipe, merge(recipe, tmp_path / "out")))
    screen["history-one"] = 1

    told, _ = screen.fire("history-report")

    assert ("Merge coefficients" in told["text"]) == drawn
    assert "How far each expert is from the base" in told["text"]
    assert ("Coefficients are not drawn: this method mixes the experts" in told["text"]) != drawn
