"""The recipe that the screen stands for: controls, what an opened recipe says beyond them, and changes by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from merging.edits import PRESETS, Edit, Edits
from merging.errors import MergeError
from merging.parts import Part
from merging.recipe import Recipe
from merging.settings import depths
from tests.adapters import random_adapter
from tests.conftest import Family, random_tensors, write_model
from tests.ui.screens import select
from ui.comparing import known_comparison
from ui.controls import first
from ui.draft import Draft, Opened, drafted, placed
from ui.models_panel import Selection, read_models

NAMES = tuple(random_tensors(0))
UP = "model.layers.1.mlp.up_proj.weight"
TIES = {"method": "ties", "ties.density": 0.2, "ties.lambda": 1}
HERE = Selection("base", ("one", "two"), ("one", "two"), ("one", "two"), merged=NAMES)


def test_controls_alone_are_a_recipe() -> None:
    recipe = drafted(HERE, TIES, Draft({"two": 0.5}))

    assert recipe == Recipe("ties", Path("base"), (Path("one"), Path("two")), (1.0, 0.5), {"density": 0.2, "lambda": 1})


def test_weights_that_vary_are_handed_on_as_they_are() -> None:
    varied: dict[str, Any] = {"one": [0.0, 1.0], "two": [{"filter": "mlp", "value": 0.5}, {"value": 1.0}]}

    recipe = drafted(HERE, TIES, Draft(varied))

    assert recipe.weights == (varied["one"], varied["two"])
    assert [first(weight) for weight in recipe.weights] == [0.0, 0.5]  # what their sliders show


def test_changes_by_hand_become_weights_of_tensors(family: Family) -> None:
    base, experts = family()
    selection = select(base, experts)
    edits = Edits().and_then(Edit(Part("tensor", UP), "set", 0.25, expert=str(experts[1])))

    recipe = drafted(selection, TIES, Draft(edits=edits))

    depth, settings = depths(NAMES), recipe.settings()
    weights = {name: settings.of(name, depth[name])["weight"] for name in NAMES}
    assert weights == {name: [1.0, 0.25 if name == UP else 1.0] for name in NAMES}


def test_changes_need_no_weight_to_be_read(family: Family) -> None:
    base, experts = family()
    _, selection = read_models(str(base), [str(path) for path in experts])
    draft = Draft(edits=Edits().and_then(PRESETS["attention only"]))

    recipe = drafted(selection, TIES, draft)

    assert known_comparison(selection) is None
    assert set(selection.merged) == set(NAMES)
    assert recipe.settings().of(UP, depths(selection.merged)[UP])["weight"] == [0.0] * len(experts)


def test_changes_that_cannot_be_made_are_refused(family: Family) -> None:
    draft = Draft(edits=Edits().and_then(Edit(Part(), "scale", 0.5)))

    with pytest.raises(MergeError, match="FroM has no weights to change"):
        drafted(HERE, {"method": "from"}, draft)


def test_changes_of_an_adapter_are_of_the_tensors_that_it_has(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", random_tensors(0))
    module = UP.removesuffix(".weight")
    adapter = random_adapter(tmp_path / "adapter", 1, {module: (6, 4)}, rank=2)
    selection = select(base, [adapter])
    known = known_comparison(selection)
    assert known
    ramp = Draft(edits=Edits().and_then(Edit(Part(), "scale", 0.0, 1.0)))
    fields = {"method": "task_arithmetic", "result": "adapter"}

    recipe = drafted(selection, fields, ramp)

    # The only layer that the adapter changes is the end of its ramp.
    assert recipe.settings().of(UP, depths(selection.adapted)[UP])["weight"] == [1.0]


def test_an_opened_recipe_of_other_models_says_nothing() -> None:
    told = Recipe("ties", Path("base"), (Path("other"),), values={"density": [0.1, 0.9]}, out_dtype="float16")

    recipe = drafted(HERE, TIES, Draft(opened=Opened(told, {"ties.density": 0.2})))

    assert (recipe.values["density"], recipe.out_dtype) == (0.2, "")


def test_what_only_models_have_is_not_asked_of_an_adapter() -> None:
    experts = (Path("one"), Path("two"))
    told = Recipe("ties", Path("base"), experts, tokenizer_source="union", extra_tensors="keep", out_dtype="float16")

    recipe = drafted(HERE, {**TIES, "result": "adapter"}, Draft(opened=Opened(told)))

    assert recipe.problems() == []
    assert recipe.out_dtype == "float16"


def test_models_that_are_not_there_are_looked_for_by_their_names(tmp_path: Path) -> None:
    here, away = tmp_path / "here", Path("/nowhere")
    here.mkdir()
    offered = {"math": "/zoo/math", "here": "/zoo/here"}
    recipe = Recipe("ties", away / "base", (away / "math", here), tokenizer_source="/nowhere/math")

    found = placed(recipe, offered)

    assert (found.base, found.experts) == (away / "base", (Path("/zoo/math"), here))
    assert found.tokenizer_source == "/zoo/math"
    assert found.warnings == ("There is no model at /nowhere/math. /zoo/math is taken in its place.",)
    assert placed(replace(recipe, tokenizer_source="union"), {}) == replace(recipe, tokenizer_source="union")
