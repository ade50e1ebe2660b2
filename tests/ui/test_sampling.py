"""Sampling: who is asked, who cannot be and why, how far a merge in memory is, and what is remembered of it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from merging import merge, unwritten
from merging.errors import MergeStopped
from merging.generate import Answer
from merging.recipe import Recipe
from tests.adapters import random_adapter
from tests.conftest import Family, random_tensors, write_model
from tests.ui.screens import Screen, select
from ui import sample_panel
from ui.asked import NOW, WRITTEN, Asked, One, asked_of
from ui.jobs import announce, stop
from ui.models_panel import read_models
from ui.sample_panel import run_sample
from ui.visit import Visit

FIELDS: dict[str, Any] = {"prompt": "And", "temperature": 1, "top_p": 1, "length": 5, "seed": 0, "chat": False}


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The models of every call for answers, which are made up here."""
    calls: list[list[Any]] = []

    def answers(models: list[Any], *others: Any) -> Iterator[list[Answer]]:
        calls.append(models)
        yield [Answer(state="loading") for _ in models]
        yield [Answer(f"word {index}", "done") for index, _ in enumerate(models)]

    monkeypatch.setattr(sample_panel, "answers", answers)
    return calls


@pytest.fixture
def merging(family: Family) -> Recipe:
    base, experts = family()
    return Recipe("ties", base, tuple(experts))


def asked_with(recipe: Recipe, which: str = NOW, now: Recipe | str = "", visit: Visit | None = None) -> list[One]:
    """Who is asked of the models of a recipe."""
    assert recipe.base
    selection = select(recipe.base, list(recipe.experts))
    last = (visit or Visit()).last(selection.base)
    return asked_of(selection, which, now or recipe, last)


def test_base_experts_and_merge_answer_and_are_remembered(merging: Recipe, spoken: list[list[Any]]) -> None:
    *_, (shown, asked) = run_sample(asked_with(merging), FIELDS, "someone")

    assert [shown.count(f"word {number}</pre>") for number in range(5)] == [1, 1, 1, 1, 0]
    assert spoken[0][:3] == [merging.base, *merging.experts]
    assert asked == Asked("And", tuple(map(str, (merging.base, *merging.experts))), merging)


def test_a_merge_in_memory_tells_how_far_it_is(merging: Recipe, spoken: list[list[Any]]) -> None:
    unwritten.forget()

    told = [shown for shown, _ in run_sample(asked_with(merging), FIELDS, "someone")]

    assert "<b>0%</b> <span>Reading headers</span>" in told[0]
    assert re.search(r"<b>\d+%</b> <span>(Surveying|Merging) model\.", told[1])
    assert told[0].count("<progress") == told[0].count('class="answer merge"') == 1
    assert "<progress" not in told[-1]


def test_a_merge_in_memory_waits_for_another_and_can_be_stopped_meanwhile(
    merging: Recipe, spoken: list[list[Any]]
) -> None:
    announce("someone", "sample")

    with unwritten.KEEP.lock:
        run = run_sample(asked_with(merging), FIELDS, "someone")
        shown, _ = next(run)
        stop("someone", "sample")
        *_, (last, asked) = run

    assert "Waiting for another merge in memory" in shown
    assert "Stopped." in last
    assert (asked, spoken) == (None, [])


def test_stopping_ends_a_merge_in_memory(
    merging: Recipe, spoken: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def endless(recipe: Recipe, tell: Any, stopping: threading.Event) -> None:
        tell(unwritten.Step(1, 4, "w", 1, 4, "Merging"))
        stopping.wait(10)
        ended.set()
        raise MergeStopped("Stopped.")

    monkeypatch.setattr(sample_panel, "merged_in_memory", endless)
    run = run_sample(asked_with(merging), FIELDS, "someone")
    next(run)
    shown, _ = next(run)
    stop("someone", "sample")
    *_, (last, _) = run

    assert "<b>25%</b> <span>Merging w</span>" in shown
    assert ended.is_set()
    assert "Stopped." in last


def test_a_merge_too_large_for_memory_says_so_and_the_others_answer(
    merging: Recipe, spoken: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    unwritten.forget()
    monkeypatch.setattr(unwritten, "free_memory", lambda: 200)

    *_, (shown, asked) = run_sample(asked_with(merging), FIELDS, "someone")

    assert "The merged model takes 336 bytes of memory, and 100 bytes may be used." in shown
    assert shown.count("word ") == 3
    assert asked
    assert asked.merge is None


LOST = OSError(5, "Input/output error", "/data/model.safetensors")


def lost(*_: Any) -> None:
    raise LOST


def test_a_merge_in_memory_that_the_system_ends_says_so_and_the_others_answer(
    merging: Recipe, spoken: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_panel, "merged_in_memory", lost)

    *_, (shown, asked) = run_sample(asked_with(merging), FIELDS, "someone")

    assert "<code>/data/model.safetensors</code> could not be read or written (Input/output error)." in shown
    assert shown.count("word ") == 3
    assert asked
    assert asked.merge is None


def test_answers_that_the_system_ends_name_the_file(merging: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_panel, "answers", lost)

    *_, (shown, asked) = run_sample(asked_with(merging), FIELDS, "someone")

    assert "<code>/data/model.safetensors</code> could not be read or written" in shown
    assert asked is None


@pytest.mark.parametrize(("button", "shown"), [("sample-run", "answers"), ("run", "merge-status")])
def test_what_nobody_foresaw_is_told_as_that_and_gives_the_buttons_back(
    screen: Screen, merging: Recipe, monkeypatch: pytest.MonkeyPatch, button: str, shown: str
) -> None:
    def failing(*_: Any) -> None:
        raise gr.Error("unforeseen")

    monkeypatch.setattr("ui.wires.sample.run_sample", failing)
    monkeypatch.setattr("ui.wires.merge.run_merge", failing)
    assert merging.base
    screen.choose(merging.base, merging.experts)

    with pytest.raises(gr.Error):
        screen.fire(button)

    assert "Something went wrong here. Nothing that you have set or written is lost" in screen[shown]


def test_who_cannot_be_asked_says_why_and_the_others_answer(
    merging: Recipe, spoken: list[list[Any]], tmp_path: Path
) -> None:
    more = replace(merging, experts=(tmp_path / "gone", *merging.experts))

    *_, (shown, asked) = run_sample(asked_with(more, now="Density is wrong."), FIELDS, "someone")

    assert "It is not asked, since it cannot be merged: There is no file or folder" in shown
    assert "Density is wrong." in shown
    assert shown.index("<h3>gone</h3>") < shown.index("<h3>expert-1</h3>")
    assert shown.count("word ") == 3
    assert asked == Asked("And", tuple(map(str, (merging.base, *merging.experts))), None)


def test_without_a_merge_it_is_said_which_is_missing(merging: Recipe, tmp_path: Path) -> None:
    first = asked_with(merging, WRITTEN)[-1]
    _, alone = read_models(str(merging.base), [])
    none = asked_of(alone, NOW, merging, None)

    assert first.source is None
    assert "Nothing was merged into this base on this visit" in first.missing
    assert [one.name for one in none] == ["base", "merge: as it stands"]
    assert "No expert is chosen that can be merged into this base" in none[-1].missing

    visit = Visit().merged(merging, merge(merging, tmp_path / "out"))
    written = asked_with(merging, WRITTEN, visit=visit)[-1]
    assert (written.name, written.source, written.recipe) == ("merge: out", tmp_path / "out", merging)


def test_a_base_without_a_config_is_told_before_anything_is_merged(
    merging: Recipe, spoken: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert merging.base
    (merging.base / "config.json").unlink()
    monkeypatch.setattr(sample_panel, "merged_in_memory", None)

    *_, (shown, _) = run_sample(asked_with(merging), FIELDS, "someone")

    assert "The base has no config.json, so the merge has none, and cannot be asked." in shown


def test_an_adapter_is_asked_from_its_folder_alone(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", random_tensors(0))
    shapes = {"model.layers.0.mlp.up_proj": (6, 4)}
    some = [random_adapter(tmp_path / f"adapter-{seed}", seed, shapes, rank=2) for seed in range(2)]
    recipe = Recipe("task_arithmetic", base, tuple(some), result="adapter")

    before = asked_with(recipe)[-1]
    visit = Visit().merged(recipe, merge(recipe, tmp_path / "out"))
    same = asked_with(recipe, visit=visit)[-1]
    other = asked_with(recipe, now=replace(recipe, values={"lambda": 0.2}), visit=visit)[-1]

    wrong = asked_with(recipe, now=replace(recipe, values={"lambda": "much"}), visit=visit)[-1]

    assert wrong.missing == before.missing
    assert "makes an adapter, which is asked from its folder" in before.missing
    assert (same.source, same.missing) == (tmp_path / "out", "")
    assert other.missing == before.missing


def test_models_that_were_not_reached_say_so(merging: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_panel, "answers", lambda models, *_: iter([[Answer() for _ in models]]))

    *_, (shown, asked) = run_sample(asked_with(merging), FIELDS, "someone")

    assert shown.count("Stopped before it was asked.") == 4
    assert asked is None


# On the page.


def test_the_page_remembers_what_was_asked_with_which_recipe(
    screen: Screen, merging: Recipe, spoken: list[list[Any]]
) -> None:
    assert merging.base
    screen.choose(merging.base, merging.experts)
    screen["method"], screen["ties-density"] = "ties", 0.4

    screen.fire("sample-run")

    (asked,) = screen.state(tuple)
    assert asked.merge
    assert (asked.merge.method, asked.merge.values["density"]) == ("ties", 0.4)
    assert asked.models == tuple(map(str, (merging.base, *merging.experts)))
    assert asked.prompt == screen["prompt"]


def test_values_that_make_no_merge_keep_no_other_from_answering(
    screen: Screen, merging: Recipe, spoken: list[list[Any]]
) -> None:
    assert merging.base
    screen.choose(merging.base, merging.experts)
    screen["method"], screen["ties-density"] = "ties", 7

    screen.fire("sample-run")

    assert "</code> must be between 0.01 and 1, but it is 7." in screen["answers"]
    assert screen["answers"].count("word ") == 3


def test_without_a_base_nobody_is_asked(screen: Screen, spoken: list[list[Any]]) -> None:
    screen.fire("sample-run")

    assert "No base model is chosen." in screen["answers"]
    assert spoken == []
