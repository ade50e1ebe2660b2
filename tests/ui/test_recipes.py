"""A recipe fills the page, and the page says the same recipe again: by file, by path, by drop and by link."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import yaml

from merging import merge
from merging.method import ADAPTERS, METHODS, Method
from merging.params import Param
from merging.recipe import Recipe, load_recipe
from tests.adapters import random_adapter
from tests.conftest import Family, random_tensors, write_model
from tests.ui.screens import Screen
from ui.downloads import NOTHING
from ui.draft import Draft
from ui.visit import Visit

ALL = METHODS | ADAPTERS


def another(param: Param) -> Any:
    """A value that is not the default."""
    if param.kind == "switch":
        return not param.default
    if param.kind == "choice":
        return param.choices[-1]
    return 0.5 if param.default != 0.5 and param.low <= 0.5 <= param.high else (param.low + param.high) / 2


def changed(method: Method, base: Path, experts: list[Path]) -> Recipe:
    """A recipe in which every value is another one than by default, as far as these go together."""
    result = "adapter" if method.name in ADAPTERS else ""
    recipe = Recipe(method.name, base, tuple(experts), result=result)
    for param in method.params.values():
        if not param.per_expert and not param.settled:
            tried = replace(recipe, values={**recipe.values, param.key: another(param)})
            recipe = recipe if tried.problems() else tried
    if "weight" in method.params:
        recipe = replace(recipe, weights=tuple(0.5 + index for index in range(len(experts))))
    if method.random:
        recipe = replace(recipe, seed=7)
    assert recipe.problems() == []
    return recipe


def opened(screen: Screen, path: Path) -> None:
    """Open the recipe at a path, and read the models that it names."""
    screen["recipe-path"] = str(path)
    screen.fire("recipe-path", "submit")
    assert "is open" in screen["recipe-opened"]
    screen.choose(screen["base"], screen["experts"])


def saved(screen: Screen) -> str:
    told, _ = screen.fire("recipe-save")
    assert told["name"] == "recipe.yaml"
    return str(told["text"])


def models(folder: Path, method: Method) -> tuple[Path, list[Path]]:
    """A base and as many experts as the method takes; adapters for a method of adapters alone."""
    base = write_model(folder / "base", random_tensors(0))
    count = method.taking(2)
    if method.name in ADAPTERS:
        shapes = {"model.layers.0.mlp.up_proj": (6, 4)}
        return base, [random_adapter(folder / f"adapter-{seed}", seed, shapes, rank=2) for seed in range(count)]
    return base, [write_model(folder / f"expert-{seed}", random_tensors(1 + seed)) for seed in range(count)]


@pytest.mark.parametrize("method", ALL.values(), ids=list(ALL))
def test_the_page_says_a_recipe_again_as_it_was_opened(screen: Screen, tmp_path: Path, method: Method) -> None:
    recipe = changed(method, *models(tmp_path, method))
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(tmp_path))

    opened(screen, tmp_path / "recipe.yaml")
    again = load_recipe(f"{saved(screen)}\n")

    assert again.to_yaml(tmp_path) == recipe.to_yaml(tmp_path)
    assert again.values.items() >= recipe.values.items()


HAND = """
mergescope: 1
merge_method: ties
base_model: base
models:
- model: expert-1
  parameters: {weight: [0.2, 0.8], density: 0.3}
- model: expert-2
  parameters:
    weight:
    - {filter: mlp, value: 0.4}
    - {value: 1.0}
parameters:
  density: [0.1, 0.9]
  lambda: 0.7
  scope: tensor
out_dtype: bfloat16
tokenizer_source: base
extra_tensors: keep
"""


@pytest.fixture
def by_hand(family: Family, tmp_path: Path) -> Path:
    family()
    (tmp_path / "by-hand.yaml").write_text(HAND)
    return tmp_path / "by-hand.yaml"


def test_what_has_no_control_outlives_an_opened_recipe(screen: Screen, by_hand: Path) -> None:
    opened(screen, by_hand)

    assert load_recipe(f"{saved(screen)}\n").to_yaml(by_hand.parent) == load_recipe(by_hand).to_yaml(by_hand.parent)
    assert screen["ties-density"] == 0.1  # a gradient is shown by its first number


def test_a_control_that_was_moved_goes_before_the_gradient_it_stood_for(screen: Screen, by_hand: Path) -> None:
    opened(screen, by_hand)
    screen["ties-density"] = 0.6

    again, told = load_recipe(f"{saved(screen)}\n"), load_recipe(by_hand)

    assert again.values == {**again.values, **told.values, "density": 0.6}
    assert again.own == ()  # one expert's own density would stand before the control
    assert again.weights == told.weights
    assert (again.out_dtype, again.tokenizer_source, again.extra_tensors) == ("bfloat16", "base", "keep")


def test_another_method_keeps_what_is_of_the_result(screen: Screen, by_hand: Path) -> None:
    opened(screen, by_hand)
    screen["method"] = "task_arithmetic"

    again = load_recipe(f"{saved(screen)}\n")

    assert (again.method, again.out_dtype, again.extra_tensors) == ("task_arithmetic", "bfloat16", "keep")
    assert again.values["lambda"] == screen["task_arithmetic-lambda"]
    assert "density" not in again.values


def test_another_expert_leaves_nothing_of_what_was_opened_but_controls(
    screen: Screen, by_hand: Path, tmp_path: Path
) -> None:
    opened(screen, by_hand)
    screen.choose(screen["base"], [tmp_path / "expert-1"])

    again = load_recipe(f"{saved(screen)}\n")

    assert (again.values["density"], again.values["lambda"], again.values["scope"]) == (0.1, 0.7, "tensor")
    assert (again.own, again.out_dtype) == ((), "")


def test_a_recipe_that_cannot_be_read_changes_nothing(screen: Screen, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("merge_method: tie\nbase_model: x\nmodels: [{model: y}]\n")
    before = dict(screen.held)

    screen["recipe-path"] = str(tmp_path / "bad.yaml")
    screen.fire("recipe-path", "submit")

    assert "Did you mean" in screen["recipe-opened"] or "There is no method" in screen["recipe-opened"]
    touched = {number for number, value in screen.held.items() if value is not before[number]}
    assert touched == {screen.named[name]._id for name in ("recipe-path", "recipe-opened")}


def test_an_expert_named_twice_is_refused_in_words(screen: Screen, family: Family, tmp_path: Path) -> None:
    base, experts = family()
    recipe = Recipe("linear", base, (experts[0], experts[0]), (0.5, 0.25))
    (tmp_path / "twice.yaml").write_text(recipe.to_yaml(tmp_path))

    screen["recipe-path"] = str(tmp_path / "twice.yaml")
    screen.fire("recipe-path", "submit")

    assert f"has the expert {experts[0]} twice" in screen["recipe-opened"]


def test_a_recipe_without_a_base_says_what_to_choose(screen: Screen, family: Family, tmp_path: Path) -> None:
    _, experts = family()
    (tmp_path / "r.yaml").write_text(Recipe("linear", None, tuple(experts)).to_yaml(tmp_path))

    screen["recipe-path"] = str(tmp_path / "r.yaml")
    screen.fire("recipe-path", "submit")

    assert screen["base"] == ""
    assert "names no base model" in screen["recipe-opened"]


def test_a_dropped_recipe_finds_the_models_at_hand_and_says_so(screen: Screen) -> None:
    head = "mergescope: 1\nmerge_method: ties\nbase_model: /elsewhere/base\n"
    text = f"{head}models: [{{model: /elsewhere/bible}}, {{model: /nowhere/else}}]\n"

    screen.fire("recipe-drop", "dropped", name="<b>.yaml", text=text)

    assert screen["base"].endswith("zoo/base")
    assert [Path(path).name for path in screen["experts"]] == ["bible", "else"]
    assert "There is no model at /elsewhere/bible." in screen["recipe-opened"]
    assert "&lt;b&gt;.yaml is open: TIES-Merging of 2 experts." in screen["recipe-opened"]


def test_what_holds_no_recipe_is_said_when_it_is_dropped(screen: Screen) -> None:
    screen.fire("recipe-drop", "dropped", name="<i>.safetensors", text=" ")

    assert "&lt;i&gt;.safetensors holds no recipe." in screen["recipe-opened"]


def test_a_link_opens_what_it_was_made_of(screen: Screen, built: gr.Blocks) -> None:
    screen.choose(screen["base"], screen["experts"])
    screen["method"], screen["ties-density"] = "ties", 0.35

    screen.fire("recipe-link")
    other = Screen(built)
    letters = screen["recipe-linked"]
    for index, function in built.fns.items():
        if (built._id, "load") in function.targets and getattr(function.fn, "__name__", "") == "on_visit":
            other._run(index, {"query": {"recipe": letters}})

    assert (other["method"], other["ties-density"]) == ("ties", 0.35)
    assert other["experts"] == screen["experts"]
    assert "The link is open" in other["recipe-opened"]


def test_the_server_does_not_say_that_a_link_was_copied(screen: Screen) -> None:
    screen.choose(screen["base"], screen["experts"])

    screen.fire("recipe-link")

    assert screen["recipe-linked"]
    assert screen["recipe-unsaved"] == ""


def test_nothing_is_offered_before_models_are_chosen(screen: Screen) -> None:
    file, _ = screen.fire("recipe-save")

    assert file == {}
    assert NOTHING in screen["recipe-unsaved"]


def test_what_mergekit_does_not_have_is_an_error_and_no_file(screen: Screen, family: Family) -> None:
    screen.choose(*family())
    saved(screen)

    file, _ = screen.fire("recipe-mergekit")

    assert file == {}
    assert "mergekit has no FroM" in screen["recipe-unsaved"]


def test_a_merged_folder_is_a_recipe(screen: Screen, family: Family, tmp_path: Path) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts), values={"density": 0.3})
    merge(recipe, tmp_path / "out")

    opened(screen, tmp_path / "out")

    assert load_recipe(f"{saved(screen)}\n").to_yaml(tmp_path) == recipe.to_yaml(tmp_path)


def test_the_sliders_show_the_weights_of_a_recipe_that_is_opened_over_the_same_models(
    screen: Screen, family: Family, tmp_path: Path
) -> None:
    base, experts = family()
    screen.choose(base, experts)
    screen["method"] = "ties"
    screen.fire("method", "change")
    before = {label: slider.value for label, slider in screen.rendered.items()}
    (tmp_path / "r.yaml").write_text(Recipe("ties", base, tuple(experts), (0.5, 0.25)).to_yaml(tmp_path))

    screen["recipe-path"] = str(tmp_path / "r.yaml")
    screen.fire("recipe-path", "submit")

    assert before == {"Weight of expert-1": 1.0, "Weight of expert-2": 1.0}
    assert screen.rendered["Weight of expert-1"].value == 0.5
    assert screen.rendered["Weight of expert-2"].value == 0.25


LOOSE = "mergescope: 1\nmerge_method: ties\nbase_model: ../base\nmodels: [{model: ../bible}, {model: ../mine}]\n"


def test_a_dropped_recipe_is_not_read_from_where_the_app_runs(
    screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    write_model(tmp_path / "base", random_tensors(0))
    write_model(tmp_path / "mine", random_tensors(1))
    monkeypatch.chdir(tmp_path / "here")
    before = screen["base"]

    screen.fire("recipe-drop", "dropped", name="r.yaml", text=LOOSE)
    assert "no model at hand is called mine." in screen["recipe-opened"]
    assert "Or the path of one" in screen["recipe-opened"]
    assert screen["base"] == before
    screen.fire("recipe-drop", "dropped", name="r.yaml", text=LOOSE.replace("../mine", "../shakespeare"))

    assert screen["base"].endswith("zoo/base")
    assert [Path(path).name for path in screen["experts"]] == ["bible", "shakespeare"]
    assert "The recipe names ../base, from its own folder." in screen["recipe-opened"]


def test_a_merge_of_this_visit_is_known_by_its_recipe(screen: Screen, family: Family, tmp_path: Path) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts), values={"density": 0.3})
    screen.put(screen.state(Visit).merged(recipe, merge(recipe, tmp_path / "out")))

    text = (tmp_path / "out" / "mergescope.yaml").read_text()
    screen.fire("recipe-drop", "dropped", name="out", text=text)

    assert (screen["base"], screen["experts"]) == (str(base), [str(path) for path in experts])
    assert f"which is {tmp_path / 'out'} of this visit" in screen["recipe-opened"]


def test_a_recipe_that_is_opened_takes_the_list_of_changes_with_it(screen: Screen, family: Family) -> None:
    base, experts = family()
    screen.choose(base, experts)
    screen["method"] = "task_arithmetic"
    screen["edit-preset"] = "attention only"
    screen.fire("edit-preset", "change")
    before = screen["edit-done"]
    told = {"mergescope": 1, "merge_method": "ties", "base_model": str(base)}
    told["models"] = [{"model": str(expert)} for expert in experts]

    screen.fire("recipe-drop", "dropped", name="recipe.yaml", text=yaml.safe_dump(told))

    assert "attention" in before
    assert "attention" not in screen["edit-done"]
    assert not screen.state(Draft).edits.done
