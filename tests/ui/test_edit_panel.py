"""Changing weights by hand: which change the controls stand for, or why there is none, and the list of changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from merging.edits import PRESETS, Edit, Edits, weights_of
from merging.parts import THIRDS, Part
from merging.recipe import Recipe, load_recipe
from tests.conftest import Family, random_tensors
from tests.ui.screens import Screen
from ui.comparing import predicted
from ui.controls import first
from ui.draft import Draft, Opened
from ui.edit_panel import (
    ALL,
    BACK,
    GROUP,
    LAYER,
    MODEL,
    MODULE,
    NOTHING,
    ONE,
    RAMP,
    SCALE,
    SET,
    TENSOR,
    ZERO,
    Picked,
    edit_of,
    listed,
    numbers_of,
    part_of,
    told,
)  # fmt: skip
from ui.models_panel import Selection

UP = "model.layers.1.mlp.up_proj.weight"
PICKED = Picked(UP, "/models/math", "math")
HERE = ("/models/math",)


def test_a_factor_of_one_is_no_change() -> None:
    words = edit_of(PICKED, TENSOR, ONE, SCALE, 1, 0.0, experts=HERE)

    assert isinstance(words, str)
    assert "nothing would change" in words
    assert isinstance(edit_of(PICKED, TENSOR, ONE, SET, 1, 0.0, experts=HERE), Edit)


@pytest.mark.parametrize(
    ("change", "labels"), [(SET, ["to"]), (SCALE, ["by"]), (RAMP, ["from", "to"]), (ZERO, []), (BACK, [])]
)
def test_the_numbers_of_a_change_are_called_what_they_are(screen: Screen, change: str, labels: list[str]) -> None:
    boxes = numbers_of(change)
    last = screen.named["edit-last"].label

    assert [box.label or last for box in boxes if box.visible] == labels


@pytest.mark.parametrize(
    ("which", "part"),
    [
        (TENSOR, Part("tensor", UP)), (LAYER, Part("layer", "1")), (MODULE, Part("module", "up")),
        (GROUP, Part("group", "mlp")), ("first third", Part("group", "first third")),
        ("middle third", Part("group", "middle third")), ("last third", Part("group", "last third")), (MODEL, Part()),
    ],
)  # fmt: skip
def test_a_part_is_the_one_that_the_tensor_is_in(which: str, part: Part) -> None:
    found = part_of(PICKED, which)

    assert found == part
    deep = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(3)]
    assert (UP in found.of([*deep, "model.norm.weight"])) == (which not in ("first third", "last third"))
    assert (part_of(Picked(), which) is None) == (which not in (MODEL, *THIRDS))


@pytest.mark.parametrize(
    ("change", "edit"),
    [
        (SET, Edit(Part("tensor", UP), "set", 0.5, expert="/models/math")),
        (SCALE, Edit(Part("tensor", UP), "scale", 0.5, expert="/models/math")),
        (ZERO, Edit(Part("tensor", UP), "set", 0.0, expert="/models/math")),
        (RAMP, Edit(Part("tensor", UP), "set", 0.5, 2.0, expert="/models/math")),
        (BACK, Edit(Part("tensor", UP), "reset", expert="/models/math")),
    ],
)
def test_a_change_is_what_the_controls_say(change: str, edit: Edit) -> None:
    assert edit_of(PICKED, TENSOR, ONE, change, 0.5, 2, experts=HERE) == edit


def test_all_experts_can_be_changed_at_once() -> None:
    assert edit_of(PICKED, MODEL, ALL, SET, 1, 0, experts=HERE) == Edit(Part(), "set", 1.0)
    assert edit_of(Picked(), MODEL, ALL, SET, 1, 0, experts=HERE) == Edit(Part(), "set", 1.0)
    ramp = Edit(Part("group", "last third"), "set", 1.0, 0.25)
    assert edit_of(Picked(), "last third", ALL, RAMP, 1, 0.25, experts=HERE) == ramp


@pytest.mark.parametrize(
    ("picked", "which", "who", "change", "numbers", "words"),
    [
        (Picked(), TENSOR, ALL, SET, (1.0, 0.0), NOTHING),
        (Picked(), GROUP, ALL, SET, (1.0, 0.0), NOTHING),
        (Picked("odd.weight"), GROUP, ALL, SET, (1.0, 0.0), "This tensor is in no group. Choose another part."),
        (Picked(UP), TENSOR, ONE, SET, (1.0, 0.0), "No expert is chosen. Click a cell of the coefficients, or "),
        (Picked(UP, "/gone", "bible"), TENSOR, ONE, BACK, (1.0, 0.0), "bible is not among the experts any more. Click"),
        (PICKED, TENSOR, ONE, SET, (None, 0.0), "The weight is empty. Write a number."),
        (PICKED, TENSOR, ONE, RAMP, (0.0, None), "The weight is empty. Write a number."),
    ],
)
def test_where_there_is_no_change_a_sentence_says_why(
    picked: Picked, which: str, who: str, change: str, numbers: tuple[float, float], words: str
) -> None:
    found = edit_of(picked, which, who, change, *numbers, experts=HERE)

    assert isinstance(found, str)
    assert found.startswith(words)


def test_the_list_has_the_last_change_first_and_escapes_names() -> None:
    edits = Edits().and_then(Edit(Part("layer", "3"), "set", 0.5, expert="/a"), Edit(Part("tensor", "<b>"), "reset"))

    shown = listed(edits, {"/a": "<i>math"})

    assert shown.index("&lt;b&gt;: weight as before") < shown.index("layer 3: weight 0.5 of &lt;i&gt;math")
    assert listed(Edits(), {}) == ""
    assert "<script>" not in told(Picked("<script>", "", "<script>"))


def test_a_change_of_an_expert_that_is_not_merged_is_marked() -> None:
    edits = Edits().and_then(Edit(Part("layer", "3"), "set", 0.5, expert="/models/math"))

    assert "layer 3: weight 0.5 of math, which is not merged: without effect" in listed(edits, {"/other": "other"})
    assert "without effect" not in listed(edits, {"/models/math": "math"})


# On the page.


@pytest.fixture
def picked(screen: Screen, family: Family) -> Screen:
    """The page with two experts, task arithmetic, and a cell of the second one chosen."""
    base, experts = family()
    screen.choose(base, experts)
    screen["method"] = "task_arithmetic"
    screen.fire("weights", "cell_select", cell=UP, column=1, panel=None)
    return screen


def test_a_cell_that_is_clicked_is_named(picked: Screen) -> None:
    assert picked.state(Picked) == Picked(UP, picked["experts"][1], "expert-2")
    assert f"<b>{UP}</b> of expert-2" in picked["edit-picked"]


def test_changes_are_applied_undone_and_done_again(picked: Screen) -> None:
    picked["edit-first"] = 0.25

    picked.fire("edit-apply")
    assert picked.state(Draft).edits.done == (Edit(Part("tensor", UP), "set", 0.25, expert=picked["experts"][1]),)
    picked.fire("edit-undo")
    assert picked.state(Draft).edits.done == ()
    picked.fire("edit-redo")
    picked["edit-preset"] = "attention only"
    picked.fire("edit-preset", "change")

    assert picked.state(Draft).edits.done[1:] == (PRESETS["attention only"],)
    assert picked["edit-preset"] is None
    assert picked["edit-done"].count("<li>") == 2
    picked.fire("edit-reset")
    assert "weight as before" in picked["edit-done"]


def test_a_change_that_no_merge_allows_is_refused_and_not_made(picked: Screen) -> None:
    picked["edit-first"] = 1e9

    picked.fire("edit-apply")

    assert picked.state(Draft).edits.done == ()
    assert 'role="alert"' in picked["edit-done"]


def test_a_change_that_is_refused_leaves_the_list_of_those_that_were_made(picked: Screen) -> None:
    picked.fire("edit-apply")
    picked["edit-first"] = None

    picked.fire("edit-apply")

    assert "The weight is empty." in picked["edit-done"]
    assert f"{UP}: weight 1 of expert-2" in picked["edit-done"]
    assert len(picked.state(Draft).edits.done) == 1


def test_a_cell_is_chosen_no_more_when_its_models_are_not(picked: Screen) -> None:
    (state,) = (number for number, value in picked.held.items() if isinstance(value, Selection))

    picked.choose(picked["base"], picked["experts"][:1])
    picked._changed(state)

    assert picked.state(Picked) == Picked()
    assert NOTHING in picked["edit-picked"]


def test_a_method_without_weights_offers_to_become_one_that_has_them(picked: Screen) -> None:
    picked["method"] = "from"

    picked.fire("method", "change")
    assert "FroM has no weights to change." in picked["edit-picked"]
    picked.fire("weights", "cell_select", cell=UP, column=0, panel=None)
    assert "FroM has no weights to change." in picked["edit-picked"]
    assert f"<b>{UP}</b> of expert-1" in picked["edit-picked"]
    picked["method"] = "ties"
    picked.fire("method", "change")
    assert f"<b>{UP}</b>" in picked["edit-picked"]  # what was said of the other method is gone
    picked["method"] = "from"
    picked.fire("edit-convert")

    assert picked["method"] == "task_arithmetic"
    assert picked["task_arithmetic-lambda"] == 1.0
    weights = json.loads(picked["expert-weights"])
    assert set(weights) == set(picked["experts"])
    assert "the same coefficients" in picked["edit-done"]
    sliders = [picked.rendered[f"Weight of {name}"].value for name in ("expert-1", "expert-2")]
    assert sliders == [first(weights[path]) for path in picked["experts"]]


@pytest.mark.parametrize(
    ("plot", "told", "part", "who", "words", "edit"),
    [
        ("norms", {"line": "row", "panel": "expert-1"}, LAYER, ALL, "<b>layer 1</b>, all experts", Part("layer", "1")),
        ("norms", {"line": "column", "panel": "expert-1"}, MODULE, ALL, "<b>module up</b>, all", Part("module", "up")),
        ("norms", {"line": "panel", "panel": "expert-2"}, MODEL, ONE, "<b>the whole model</b> of expert-2", Part()),
        ("weights", {"line": "row"}, TENSOR, ALL, f"<b>{UP}</b>, all experts", Part("tensor", UP)),
        ("weights", {"line": "column", "column": 1}, MODEL, ONE, "<b>the whole model</b> of expert-2", Part()),
    ],
)
def test_a_label_presets_the_part_that_it_names(
    picked: Screen, plot: str, told: dict[str, Any], part: str, who: str, words: str, edit: Part
) -> None:
    picked.fire(plot, "line_select", **{"cell": UP, "column": 0, "panel": "", **told})
    picked["edit-change"] = ZERO
    picked.fire("edit-apply")

    assert (picked["edit-part"], picked["edit-who"]) == (part, who)
    assert words in picked["edit-picked"]
    expert = picked["experts"][1] if who == ONE else ""
    assert picked.state(Draft).edits.done == (Edit(edit, "set", 0.0, expert=expert),)


def test_a_tensor_outside_the_layers_has_a_column_of_its_own_and_a_row_with_its_like(picked: Screen) -> None:
    head = {"cell": "model.norm.weight", "column": 0, "panel": "expert-1"}

    picked.fire("norms", "line_select", line="column", **head)
    assert picked.state(Picked) == Picked("model.norm.weight", part=TENSOR)
    picked.fire("norms", "line_select", line="row", **head)
    assert "<b>outside the layers</b>, all experts" in picked["edit-picked"]


def test_rows_of_coefficients_are_picked_as_they_are_labelled(screen: Screen, deep: tuple[Path, list[Path]]) -> None:
    screen.choose(*deep)
    inside, outside = "model.layers.3.mlp.up_proj.weight", "model.norm.weight"

    for tensor, part in ((inside, LAYER), (outside, TENSOR)):
        screen.fire("weights", "line_select", line="row", cell=tensor, column=0, panel="")
        assert screen.state(Picked) == Picked(tensor, part=part)


@pytest.fixture
def deep(tmp_path: Path) -> tuple[Path, list[Path]]:
    """Models of so many tensors that only their layers are labelled beside the coefficients."""
    modules = [f"mlp.{module}_proj.weight" for module in ("gate", "up", "down")]
    names = [f"model.layers.{layer}.{module}" for layer in range(20) for module in modules]
    paths = [tmp_path / name / "model.safetensors" for name in ("base", "expert-1")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        save_file({name: torch.full((2, 2), float(number)) for name in [*names, "model.norm.weight"]}, path)
    return paths[0].parent, [paths[1].parent]


def test_a_cell_takes_back_what_a_label_has_set_and_leaves_what_was_chosen(picked: Screen) -> None:
    picked["edit-part"], picked["edit-who"] = GROUP, ALL
    picked.fire("weights", "cell_select", cell=UP, column=0, panel=None)
    assert (picked["edit-part"], picked["edit-who"]) == (GROUP, ALL)

    picked.fire("norms", "line_select", line="row", cell=UP, column=0, panel="expert-1")
    picked.fire("weights", "cell_select", cell=UP, column=0, panel=None)

    assert (picked["edit-part"], picked["edit-who"]) == (TENSOR, ONE)
    assert f"<b>{UP}</b> of expert-1" in picked["edit-picked"]


@pytest.mark.parametrize(
    "told",
    [
        {"cell": "made.up", "line": "row"},
        {"line": "row", "panel": "nobody"},
        {"line": "column", "column": 2},
        {"line": "column", "column": "0"},
    ],
)
def test_a_label_that_is_not_drawn_picks_nothing(picked: Screen, told: dict[str, Any]) -> None:
    picked.fire("weights", "line_select", **{"cell": UP, "column": 0, "panel": "", **told})

    assert picked.state(Picked) == Picked()
    assert picked["edit-part"] == TENSOR


def shown(screen: Screen) -> Recipe:
    """The recipe that the page stands for."""
    screen.fire("forecast", "select", value="Recipe")
    return load_recipe(screen["recipe-text"])


def shown_weights(screen: Screen) -> tuple[dict[str, float], ...]:
    """The weight of each tensor in it, for each expert."""
    return weights_of(shown(screen), Edits(), tuple(random_tensors(0)))


def test_a_third_of_the_layers_gets_a_number_of_its_own(picked: Screen) -> None:
    for part, number in (("first third", 0.25), ("last third", 0.75)):
        picked["edit-part"], picked["edit-who"], picked["edit-first"] = part, ALL, number
        picked.fire("edit-apply")

    for table in shown_weights(picked):
        assert [table[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in (0, 1)] == [0.25, 0.75]
        assert {value for name, value in table.items() if "layers" not in name} == {1.0}


def test_a_part_that_the_models_do_not_have_is_not_changed_in_silence(picked: Screen) -> None:
    picked["edit-part"], picked["edit-who"] = "middle third", ALL  # of two layers
    picked.fire("edit-apply")

    assert picked.state(Draft).edits.done == ()
    assert "These models have no middle third, so nothing would change." in picked["edit-done"]


def test_turned_into_task_arithmetic_the_changes_stand_on_top_of_its_weights(picked: Screen) -> None:
    picked["edit-part"], picked["edit-who"], picked["edit-change"], picked["edit-first"] = LAYER, ALL, SCALE, 0.5
    picked.fire("edit-apply")
    edits = picked.state(Draft).edits
    picked["task_arithmetic-normalize"] = True
    picked["method"] = "from"
    picked.fire("method", "change")
    assert "Or press Reset below “Change by hand”" in picked["forecast-note"]
    plain = as_weights(picked)

    picked.fire("edit-convert")
    picked.fire("method", "change")

    assert picked.state(Draft).edits == edits
    assert "Your changes stand on top of them." in picked["edit-done"]
    assert "layer 1: weight × 0.5" in picked["edit-done"]
    assert picked["task_arithmetic-normalize"] is False
    expected = [{name: value * (0.5 if name == UP else 1) for name, value in table.items()} for table in plain]
    for table, wanted in zip(shown_weights(picked), expected, strict=True):
        assert table == pytest.approx(wanted, rel=1e-6)


def as_weights(screen: Screen) -> list[dict[str, float]]:
    """FroM's coefficients of each tensor, by expert."""
    selection = screen.state(Selection)
    found = predicted(selection, Recipe("from", Path(selection.base), tuple(map(Path, selection.fitting))))
    assert found
    return [dict(zip(found.names, column, strict=True)) for column in found.weights.T.tolist()]


def test_what_an_opened_recipe_said_of_task_arithmetic_is_past_when_it_is_turned_into_it(picked: Screen) -> None:
    selection = picked.state(Selection)
    told = Recipe(
        "task_arithmetic", Path(selection.base), tuple(map(Path, selection.fitting)), values={"lambda": [1.0, 0.5]}
    )
    picked.put(Draft(opened=Opened(told, {"task_arithmetic.lambda": 1.0})))
    picked["method"] = "from"

    picked.fire("edit-convert")
    picked.fire("method", "change")

    assert shown(picked).values == {"lambda": 1.0, "normalize": False}


def test_the_way_back_is_never_refused(picked: Screen) -> None:
    for _ in range(2):
        picked.fire("edit-apply")
    picked["method"] = "magmax"  # which has no weights

    picked.fire("edit-undo")
    assert len(picked.state(Draft).edits.done) == 1
    picked.fire("edit-reset")

    assert picked.state(Draft).edits.standing == ()
    picked.fire("method", "change")
    assert shown(picked).method == "magmax"
