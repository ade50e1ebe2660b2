"""A tensor under the microscope: for every method there is something to see, or a sentence."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch

from merging.errors import MergeStopped
from merging.method import ADAPTERS, METHODS
from merging.plan import Plan
from merging.recipe import Recipe
from merging.spectra import Spectra, spectra
from tests.adapters import random_adapter
from tests.conftest import DATA_FREE, Family, random_tensors, write_model
from tests.ui.screens import Screen, select
from ui import tensor_panel
from ui.models_panel import Selection
from ui.tensor_panel import CHOOSE, against, look, pairs
from ui.views import show_tensor

UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"
EMBED = "model.embed_tokens.weight"


def looked(
    selection: Selection, recipe: Recipe, name: str = UP, one: int | None = 0, other: int | None = 1
) -> list[Any]:
    """What is shown at the end: what is above, steps, scatter and singular values."""
    shown: list[Any] = [None] * 4
    for values in look(selection, recipe, name, one, other, threading.Event()):
        shown = [before if value == gr.skip() else value for before, value in zip(shown, values, strict=True)]
    return shown


@pytest.mark.parametrize("name", DATA_FREE)
def test_the_steps_of_every_method_are_drawn(family: Family, name: str) -> None:
    base, experts = family(METHODS[name].taking(2))
    selection, recipe = select(base, experts), Recipe(name, base, tuple(experts))

    for tensor in (UP, NORM):
        head, steps, scatter, spectra = looked(selection, recipe, tensor)

        assert f"<h3>{tensor}</h3>" in head
        titles = [note.text for note in steps.layout.annotations]
        assert len(titles) >= 3
        assert titles[-1] == f"{len(titles)}. merged"
        assert all(any(value is not None for value in bar.y) for bar in steps.data)
        assert (scatter is not None) == (len(experts) > 1)
        assert (spectra is not None) == (tensor == UP)
        assert "entries by row and column" in head


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_steps_of_methods_of_adapters_are_drawn(family: Family, tmp_path: Path, name: str) -> None:
    base, _ = family()
    shapes = {UP.removesuffix(".weight"): (6, 4)}
    adapters = [random_adapter(tmp_path / f"adapter-{seed}", seed, shapes, rank=2) for seed in range(2)]
    selection, recipe = select(base, adapters), Recipe(name, base, tuple(adapters), result="adapter")

    head, steps, _, spectra = looked(selection, recipe)
    other, nothing, *_ = looked(selection, recipe, NORM)

    titles = [note.text for note in steps.layout.annotations]
    assert titles[:2] == ["1. base", "2. task vectors"]
    assert titles[-1] == f"{len(titles)}. merged"
    assert {bar.name for bar in steps.data if bar.name} == {"adapter-0", "adapter-1"}
    assert ("What is told in the common basis is of the direction" in head) == (name == "knots")
    assert "entries by row and column" in head
    assert spectra is not None
    assert nothing is None
    assert "No adapter changes <code>model.norm.weight</code>." in other


@pytest.mark.parametrize("name", [name for name in METHODS if name not in DATA_FREE])
def test_where_there_are_no_steps_a_sentence_says_why(family: Family, name: str) -> None:
    base, experts = family()

    head, steps, _, spectra = looked(select(base, experts), Recipe(name, base, tuple(experts)))

    assert steps is None
    assert 'role="status"' in head
    assert spectra is not None


def test_a_tensor_that_nobody_moved_says_so(family: Family, tmp_path: Path) -> None:
    base, _ = family()
    same = [write_model(tmp_path / name, random_tensors(0)) for name in ("a", "b")]

    head, _, _, spectra = looked(select(base, same), Recipe("ties", base, tuple(same)))

    assert "No expert moved an entry here." in head
    assert [line.name for line in spectra.data] == ["a, did not move", "b, did not move"]


def test_an_expert_that_lacks_the_tensor_is_left_out_of_it(family: Family) -> None:
    base, experts = family(3)
    lacking = random_tensors(1)
    del lacking[EMBED]
    write_model(experts[0], lacking)
    selection = select(base, experts)
    recipe = Recipe("ties", base, tuple(experts))

    _, steps, scatter, spectra = looked(selection, recipe, EMBED)

    assert scatter is None
    assert {bar.name for bar in steps.data if bar.name} == {"expert-2", "expert-3"}
    assert [line.name.partition(",")[0] for line in spectra.data] == ["expert-2", "expert-3"]
    assert looked(selection, recipe, EMBED, 1, 2)[2].layout.xaxis.title.text == "expert-2"


def test_experts_of_one_name_are_told_apart(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    twin = write_model(tmp_path / "elsewhere" / experts[0].name, random_tensors(7))
    selection = select(base, [experts[0], twin])

    scatter = looked(selection, Recipe("ties", base, (experts[0], twin)))[2]

    titles = (scatter.layout.xaxis.title.text, scatter.layout.yaxis.title.text)
    assert titles == ("expert-1 (1)", "expert-1 (2)")


def test_a_scatter_of_the_last_tensor_does_not_stay(family: Family) -> None:
    base, experts = family()
    lacking = random_tensors(1)
    del lacking[NORM]
    write_model(experts[0], lacking)

    *_, (_, _, scatter, _) = [
        values
        for values in look(select(base, experts), Recipe("ties", base, tuple(experts)), NORM, 0, 1, threading.Event())
        if values[1] != gr.skip()
    ]

    assert scatter is None


def test_nan_is_said_and_leaves_nothing_drawn(family: Family) -> None:
    base, experts = family()
    broken = random_tensors(1)
    broken[UP][0, 0] = torch.nan
    write_model(experts[0], broken)
    selection = select(base, experts)

    head, steps, scatter, spectra = looked(selection, Recipe("ties", base, tuple(experts)))

    assert "NaN or infinity" in head
    assert (steps, scatter, spectra, show_tensor(selection, UP)[1]) == (None, None, None, None)


def test_a_name_that_is_no_tensor_of_the_models_is_not_looked_for(family: Family) -> None:
    base, experts = family()
    selection, recipe = select(base, experts), Recipe("ties", base, tuple(experts))

    assert looked(selection, recipe, "../../etc/passwd") == [CHOOSE, None, None, None]
    assert against(selection, recipe, "<b>", 0, 1) is None
    assert show_tensor(selection, "<b>") == ("", None)


def test_another_pair_is_set_against_each_other(family: Family) -> None:
    base, experts = family(3)
    selection, recipe = select(base, experts), Recipe("ties", base, tuple(experts))

    figure = against(selection, recipe, UP, 2, 0)

    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("expert-3", "expert-1")
    assert sum(len(mark.x) for mark in figure.data) == 24
    assert against(selection, recipe, UP, 0, 7) is None
    assert against(selection, Recipe("ties", base, tuple(experts), values={"density": 7}), UP, 0, 1) is None


def test_the_pairs_are_the_experts_by_name(family: Family) -> None:
    one, other = pairs(select(*family(3)))
    none, nobody = pairs(Selection())

    assert [value for _, value in one.choices] == [0, 1, 2]
    assert (one.value, other.value) == (0, 1)
    assert (none.value, nobody.value) == (None, None)


def test_singular_values_are_found_once_for_all_settings(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    def counted(work: Plan, name: str, stop: threading.Event) -> Spectra:
        found.append(name)
        return spectra(work, name, stop)

    monkeypatch.setattr(tensor_panel, "spectra", counted)
    base, experts = family()
    selection = select(base, experts)
    ties, plain = (Recipe(name, base, tuple(experts)) for name in ("ties", "task_arithmetic"))

    first, again = (looked(selection, recipe)[3] for recipe in (ties, plain))
    looked(selection, ties, EMBED)
    write_model(experts[0], random_tensors(7))
    other = looked(select(base, experts), ties)[3]

    assert found == [UP, EMBED, UP]
    assert again == first
    assert other != first


def test_looking_stops_when_something_else_is_looked_at(family: Family) -> None:
    base, experts = family()
    stop = threading.Event()
    stop.set()

    with pytest.raises(MergeStopped):
        list(look(select(base, experts), Recipe("ties", base, tuple(experts)), UP, 0, 1, stop))


def test_a_clicked_cell_is_looked_at_when_the_view_is_open(screen: Screen, family: Family) -> None:
    screen.choose(*family())

    screen.fire("norms", "cell_select", cell=UP, panel="expert-1", column=0)

    assert f"<h3>{UP}</h3>" in screen["tensor-detail"]
    assert screen["tensor-histogram"] is not None
