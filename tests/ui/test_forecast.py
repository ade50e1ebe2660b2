"""What the merge will do: holes say why, captions say how well it is known, and two settings are compared."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch

from merging import merge
from merging.adapter import open_base, open_expert
from merging.checkpoint import open_checkpoint
from merging.compare import Probe
from merging.crew import breathe
from merging.errors import MergeStopped
from merging.method import METHODS
from merging.predictor import Predictor
from merging.recipe import Recipe, load_recipe
from merging.wholes import MIXED
from tests.adapters import random_adapter
from tests.conftest import DATA_FREE, Family, random_tensors, write_model
from tests.ui.screens import Screen, cells, draw, select
from ui import forecast
from ui.comparing import known_predictor, predicted
from ui.figures.effects import DECIDING, DISTANCE, EFFECTS, KEPT, WEIGHTS
from ui.figures.looks import COLOURS, colour
from ui.forecast import caption, draw_forecast, recipe_text
from ui.forecast_panel import COMPARED, VIEWS
from ui.models_panel import Selection

UPS = tuple(f"model.layers.{layer}.mlp.up_proj" for layer in (0, 1))


def adapters(folder: Path) -> tuple[Path, list[Path]]:
    base = write_model(folder / "base", random_tensors(0))
    shapes = dict.fromkeys(UPS, (6, 4))
    return base, [random_adapter(folder / f"adapter-{seed}", seed, shapes, rank=2) for seed in range(2)]


@pytest.mark.parametrize("view", VIEWS)
def test_only_the_open_view_is_drawn(family: Family, view: str) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts))

    _, *shown, _ = draw_forecast(select(base, experts), recipe, view, KEPT, "weights", recipe, quick=False)

    assert [name for name, one in zip(VIEWS, shown, strict=True) if one != gr.skip()] == [view]
    assert all(one is not None for one in shown)


def test_without_models_nothing_of_the_last_ones_stays() -> None:
    recipe = Recipe("ties", Path("base"), (Path("one"),))

    assert draw_forecast(Selection(), recipe, "effects", KEPT, "weights", None, True) == ("", *[None] * 4, True)


def test_the_forecast_is_what_the_merge_becomes(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts), values={"density": 0.3})

    told = draw(select(base, experts), recipe).caption

    merge(replace(recipe, out_dtype="float32"), tmp_path / "out")
    merged, start = (open_checkpoint(path) for path in (tmp_path / "out", base))
    steps = [(merged.tensor(name) - start.tensor(name)).double() for name in start.entries]
    norm = math.sqrt(sum(float(step.square().sum()) for step in steps))
    ground = math.sqrt(sum(float(start.tensor(name).double().square().sum()) for name in start.entries))
    none = sum(int((step == 0).sum()) for step in steps) / sum(step.numel() for step in steps)
    assert f"steps {norm / ground:.2%} away from the base" in told
    assert f"by none {none:.0%}" in told
    assert "<b>TIES-Merging</b>" in told
    assert told.endswith("exact</p>")


def test_a_sample_is_called_one(family: Family) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts))
    found = predicted(select(base, experts), recipe)
    assert found

    few, most = (caption(recipe, replace(found, share=share, exact=frozenset())) for share in (0.01, 0.9))

    assert few.endswith("estimated from 1 entry in 100</p>")
    assert most.endswith("estimated from 1 entry in 2</p>")


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "iso_cts", "star"])
def test_whole_matrices_are_worked_out_when_nothing_moves(family: Family, screen: Screen, name: str) -> None:
    base, experts = family()
    selection = screen.choose(base, experts)
    screen["method"] = name

    quick = draw(selection, Recipe(name, base, tuple(experts)), quick=True)
    screen.fire("method", "change")

    assert "steps" not in quick.caption
    assert not quick.exact
    assert f"<b>{METHODS[name].title}</b> · steps " in screen["forecast-note"]
    assert screen["forecast-note"].endswith("exact</p>")


FEW = "estimated from 1 entry in 20"


@pytest.fixture
def sampled(family: Family, monkeypatch: pytest.MonkeyPatch) -> tuple[Selection, Recipe]:
    """Models of which fewer entries are at hand than there are."""
    base, experts = family()
    selection = select(base, experts)
    predictor = known_predictor(selection)
    assert predictor
    probe = predictor.comparison.probe
    monkeypatch.setattr(
        "ui.forecast.known_predictor",
        lambda *_: Predictor(replace(predictor.comparison, probe=Probe(probe.groups, 0.05))),
    )
    monkeypatch.setattr("ui.comparing.known_predictor", forecast.known_predictor)
    return selection, Recipe("task_arithmetic", base, tuple(experts))


@pytest.mark.parametrize(
    ("view", "effect", "words"),
    [
        ("weights", DISTANCE, " · exact</p>"),
        ("effects", DISTANCE, " · exact</p>"),
        ("effects", WEIGHTS, " · exact</p>"),
        ("effects", DECIDING, f" · exact · what is drawn is {FEW}</p>"),
        ("effects", KEPT, f" · exact · what is drawn is {FEW}</p>"),
    ],
)
def test_exact_is_said_of_what_is_drawn(sampled: tuple[Selection, Recipe], view: str, effect: str, words: str) -> None:
    drawn = draw(*sampled, view, effect=effect)

    assert "steps " in drawn.caption
    assert drawn.caption.endswith(words)
    assert drawn.exact == (FEW not in words)


@pytest.mark.parametrize(("compared", "held", "words"), [
    ("weights", "from", " · exact</p>"), ("relative", "from", " · exact</p>"),
    ("kept", "ties", f" · exact · what is drawn is {FEW}</p>"),
])  # fmt: skip
def test_a_difference_is_as_exact_as_the_less_exact_one(
    sampled: tuple[Selection, Recipe], compared: str, held: str, words: str
) -> None:
    selection, recipe = sampled

    drawn = draw(selection, recipe, "difference", compared=compared, held=replace(recipe, method=held))

    assert drawn.caption.endswith(words)


@pytest.mark.parametrize("name", DATA_FREE)
def test_every_effect_of_every_method_is_drawn(family: Family, name: str) -> None:
    base, experts = family(METHODS[name].taking(2))
    selection, recipe = select(base, experts), Recipe(name, base, tuple(experts))

    drawn = {effect: draw(selection, recipe, "effects", effect=effect).figure for effect in EFFECTS}

    assert all(figure is not None and len(figure.data) >= 1 for figure in drawn.values())
    shares = [sum(bar.y[layer] or 0 for bar in drawn[DECIDING].data) for layer in (0, 1)]
    assert all(share == pytest.approx(1) or (share == 0 and METHODS[name].whole) for share in shares)


def test_a_hole_says_why_it_is_one(family: Family, tmp_path: Path) -> None:
    base, experts = family(3)
    lacking, still = random_tensors(1), random_tensors(2)
    del lacking["model.norm.weight"]
    still["model.layers.0.mlp.up_proj.weight"] = random_tensors(0)["model.layers.0.mlp.up_proj.weight"]
    write_model(experts[0], lacking)
    write_model(experts[1], still)
    selection = select(base, experts)

    ties, wholes = (cells(draw(selection, Recipe(name, base, tuple(experts))).figure) for name in ("ties", "tsv_m"))

    assert ties["model.norm.weight"][0] == (None, "does not have this tensor")
    assert ties["model.layers.0.mlp.up_proj.weight"][1] == (None, "did not move here")
    assert wholes["model.layers.0.mlp.up_proj.weight"] == [(None, MIXED)] * 3
    assert wholes["model.norm.weight"][0] == (None, "does not have this tensor")


# Two settings side by side.


@pytest.mark.parametrize("compared", COMPARED)
def test_a_setting_does_not_differ_from_itself(family: Family, compared: str) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts))

    drawn = draw(select(base, experts), recipe, "difference", held=recipe, compared=compared)

    mine, theirs, differs = (cells(drawn.figure, panel) for panel in range(3))
    assert mine == theirs
    assert {number for row in differs.values() for number, _ in row} == {0.0}


@pytest.mark.parametrize("quick", [True, False])
def test_both_settings_stand_beside_their_difference_on_one_scale(family: Family, quick: bool) -> None:
    base, experts = family()
    selection = select(base, experts)
    one, other = (Recipe("ties", base, tuple(experts), values={"density": density}) for density in (0.5, 0.2))

    now, held = (cells(draw(selection, recipe, quick=quick).figure) for recipe in (one, other))
    figure = draw(selection, one, "difference", held=other, quick=quick).figure

    assert figure is not None
    assert [trace.meta for trace in figure.data] == ["Held", "Now", "Now − held"]
    panels = [{name: [number for number, _ in row] for name, row in cells(figure, panel).items()} for panel in range(3)]
    assert panels[:2] == [{name: [number for number, _ in row] for name, row in side.items()} for side in (held, now)]
    for name, row in panels[2].items():
        expected = [a - b for a, b in zip(panels[1][name], panels[0][name], strict=True)]
        assert row == pytest.approx(expected, abs=1e-4)
    assert [trace.coloraxis for trace in figure.data] == ["coloraxis", "coloraxis", "coloraxis2"]
    assert figure.layout.coloraxis2.cmin == -figure.layout.coloraxis2.cmax


def test_no_more_is_predicted_than_both_settings(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    base, experts = family()
    selection, asked = select(base, experts), []
    recipe = Recipe("ties", base, tuple(experts))

    def counted(*given: Any) -> Any:
        asked.append(given)
        return predicted(*given)

    monkeypatch.setattr(forecast, "predicted", counted)
    draw(selection, recipe, "difference", held=replace(recipe, method="task_arithmetic"))

    assert len(asked) == 2


@pytest.mark.parametrize("compared", COMPARED)
def test_where_one_of_two_is_not_known_the_difference_says_why(family: Family, compared: str) -> None:
    base, experts = family()
    one, other = (Recipe(name, base, tuple(experts)) for name in ("tsv_m", "ties"))

    drawn = draw(select(base, experts), other, "difference", held=one, compared=compared, quick=True)

    for panel in (0, 2):
        assert all(words != "no number" for row in cells(drawn.figure, panel).values() for _, words in row)
        assert any(number is None for row in cells(drawn.figure, panel).values() for number, _ in row)
    assert all(number is not None for row in cells(drawn.figure, 1).values() for number, _ in row)


def test_nothing_is_drawn_before_settings_are_held(family: Family) -> None:
    base, experts = family()

    assert draw(select(base, experts), Recipe("ties", base, tuple(experts)), "difference").figure is None


def test_a_model_and_an_adapter_are_not_compared(tmp_path: Path) -> None:
    base, some = adapters(tmp_path)
    model = Recipe("task_arithmetic", base, tuple(some))

    drawn = draw(select(base, some), model, "difference", held=replace(model, result="adapter"))

    assert drawn.figure is None
    assert "One of the two makes a model, and the other a LoRA adapter" in drawn.caption


# Adapters.


def test_what_predicts_an_adapter_is_kept_and_is_of_its_tensors_alone(tmp_path: Path) -> None:
    base, some = adapters(tmp_path)
    selection = select(base, some)

    predictor = known_predictor(selection, "adapter")

    assert predictor
    assert predictor is known_predictor(selection, "adapter")
    assert predictor is not known_predictor(selection)
    assert predictor.comparison.names == tuple(f"{module}.weight" for module in UPS)


def test_full_models_predict_no_adapter(family: Family) -> None:
    base, experts = family()
    selection = select(base, experts)
    recipe = Recipe("task_arithmetic", base, tuple(experts), result="adapter")

    assert known_predictor(selection, "adapter") is None
    assert predicted(selection, recipe) is None
    assert draw(selection, recipe, "effects").figure is None


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "from"])
def test_the_effects_of_an_adapter_are_those_of_its_step(tmp_path: Path, method: str) -> None:
    base, some = adapters(tmp_path)
    recipe = Recipe(method, base, tuple(some), result="adapter", rank=4)

    drawn = draw(select(base, some), recipe, "effects")

    assert drawn.figure is not None
    out = merge(recipe, tmp_path / "out").out
    ground = open_base(base)
    made = open_expert(out, ground)
    line = drawn.figure.data[0]
    assert line.name == "merge"
    for module, relative in zip(UPS, line.y, strict=True):
        before, after = (model.tensor(f"{module}.weight").double() for model in (ground, made))
        assert relative == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-3)
    assert "before any cut to rank 4" in drawn.caption


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize(("method", "values"), [("knots", {}), ("peft", {"combination_type": "linear"}), ("peft", {})])
def test_effects_of_mixed_adapters_are_holes_and_no_error(
    tmp_path: Path, method: str, values: dict[str, Any], effect: str
) -> None:
    base, some = adapters(tmp_path)
    recipe = Recipe(method, base, tuple(some), values=values, result="adapter")

    drawn = draw(select(base, some), recipe, "effects", effect=effect)

    assert drawn.figure is not None
    first = drawn.figure.data[0].y
    assert all((value is None) == (method == "knots" or bool(values)) for value in first)


# The recipe's text.


def test_the_recipe_is_shown_as_it_would_be_downloaded(family: Family) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts), values={"density": 0.3})

    text = draw(select(base, experts), recipe, "recipe").figure

    assert load_recipe(f"{text}\n").to_yaml(Path.cwd()) == recipe.to_yaml(Path.cwd())


def test_what_is_wrong_with_a_recipe_is_a_comment_in_its_text(family: Family) -> None:
    base, experts = family()

    text = recipe_text(Recipe("ties", base, tuple(experts), values={"density": 7, "x": 1}))

    assert "# `density` must be between 0.01 and 1, but it is 7." in text
    assert all(line.startswith("# ") for line in text.splitlines())


def test_a_broken_tensor_leaves_the_caption_without_nan(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    broken = random_tensors(1)
    broken["model.norm.weight"][0] = torch.inf
    write_model(experts[0], broken)

    told = draw(select(base, experts), Recipe("ties", base, tuple(experts))).caption

    assert "nan" not in told.lower()
    assert "it will be refused, for 1 tensor" in told


@pytest.mark.parametrize("quick", [True, False], ids=["while it is drawn", "while it is drawn exactly"])
def test_a_view_that_was_asked_for_meanwhile_is_the_one_that_stays(
    family: Family, screen: Screen, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    base, experts = family()
    screen.choose(base, experts)
    screen["method"] = "tsv_m"
    screen.fire("forecast", "select", value="Effects")
    asked = []

    def late(*given: Any) -> Any:
        shown = draw_forecast(*given)
        if given[-1] == quick and not asked:
            asked.append("the other effect")
            screen["effect"] = KEPT
            screen.fire("effect", "change")
        return shown

    monkeypatch.setattr("ui.wires.forecast.draw_forecast", late)
    screen.fire("tsv_m-lambda", "change")

    assert asked
    assert [trace.name for trace in screen["effects"].data] == [path.name for path in experts]


def test_what_is_drawn_exactly_stops_for_what_is_asked_next(
    family: Family, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family()
    screen.choose(base, experts)
    screen["method"] = "iso_c"
    moved, stopped = [], []

    def slow(*given: Any) -> Any:
        if given[-1] is False and not moved:
            moved.append("the slider, while all is drawn exactly")
            screen["iso_c-lambda"] = 0.7
            screen.fire("iso_c-lambda", "change")
            try:
                breathe()
            except MergeStopped:
                stopped.append("for it")
                raise
        return draw_forecast(*given)

    monkeypatch.setattr("ui.wires.forecast.draw_forecast", slow)
    screen.fire("iso_c-lambda", "change")

    assert stopped
    wanted = draw(select(base, experts), Recipe("iso_c", base, tuple(experts), values={"lambda": 0.7}))
    assert wanted.exact
    assert screen["forecast-note"] == wanted.caption


def test_what_was_left_out_while_a_view_was_turned_is_drawn_in_the_end(
    family: Family, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family()
    screen.choose(base, experts)
    screen["method"] = "task_arithmetic"
    screen.fire("task_arithmetic-lambda", "change")
    moved = []

    def late(*given: Any) -> Any:
        shown = draw_forecast(*given)
        if not moved:
            moved.append("the slider, which still takes the other view for the open one")
            screen["task_arithmetic-lambda"] = 0.7
            screen.fire("task_arithmetic-lambda", "change")
        return shown

    monkeypatch.setattr("ui.wires.forecast.draw_forecast", late)
    screen.fire("forecast", "select", value="Effects")

    wanted = draw(
        select(base, experts), Recipe("task_arithmetic", base, tuple(experts), values={"lambda": 0.7}), "effects"
    )
    assert moved
    assert wanted.figure is not None
    assert list(screen["effects"].data[0].y) == list(wanted.figure.data[0].y)


def test_a_slider_of_weights_is_heard_without_the_queue(family: Family, screen: Screen) -> None:
    base, experts = family()
    screen.choose(base, experts)
    screen["method"], screen["task_arithmetic-lambda"] = "task_arithmetic", 0.8
    screen["expert-weights"] = json.dumps({str(experts[0]): 0.25})

    screen.fire("expert-weights", "change")

    first = next(row for row in screen["weights"].data[0].z if row[0] is not None)
    assert first == pytest.approx([0.2, *[0.8] * (len(experts) - 1)])
    heard = {
        key for key, one in screen.demo.fns.items() if (screen.named["expert-weights"]._id, "change") in one.targets
    }
    packed = {key for key, one in screen.demo.fns.items() if one.trigger_after in heard}
    drawing = (one for one in screen.demo.fns.values() if screen.named["weights"] in one.outputs)
    followed = [one for one in drawing if one.trigger_after in packed]
    assert followed
    assert not any(one.queue for one in followed)


def test_an_expert_has_one_colour_and_the_merge_none_of_theirs(family: Family) -> None:
    base, experts = family()
    selection = select(base, experts)
    drawn = draw(selection, Recipe("task_arithmetic", base, tuple(experts)), "effects", effect=DISTANCE).figure
    assert drawn is not None

    merge, *others = drawn.data

    assert [trace.line.color for trace in others] == [colour(index) for index in range(len(experts))]
    assert merge.line.color not in COLOURS
