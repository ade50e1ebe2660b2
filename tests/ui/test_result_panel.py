"""What comes out of a merge: the choice follows the method and the experts, and comes back when it can be had again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters import random_adapter
from tests.conftest import Family, random_tensors, write_model
from tests.ui.screens import Screen
from ui.models_panel import Selection

UP = "model.layers.0.mlp.up_proj"


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    return [random_adapter(tmp_path / f"adapter-{seed}", seed, {UP: (6, 4)}, rank=2) for seed in range(2)]


def chosen(screen: Screen, base: Path, experts: list[Path]) -> None:
    """Choose models, and let the panel follow."""
    screen.choose(base, experts)
    screen.fire("method", "change")


def wanted(screen: Screen, result: str) -> None:
    """Choose a result, as a click does."""
    screen["result"] = result
    screen.fire("result", "input")
    screen.fire("method", "change")


def test_a_choice_comes_back_when_the_experts_allow_it_again(
    screen: Screen, family: Family, adapters: list[Path]
) -> None:
    base, full = family()

    chosen(screen, base, adapters)
    wanted(screen, "adapter")
    chosen(screen, base, [*adapters, full[0]])
    hindered, words = screen["result"], screen["result-note"]
    chosen(screen, base, adapters)

    assert (hindered, screen["result"]) == ("model", "adapter")
    assert "expert-1 is a full model" in words
    assert screen["result-note"] == ""


def test_a_choice_that_was_made_meanwhile_is_not_undone(screen: Screen, adapters: list[Path], tmp_path: Path) -> None:
    chosen(screen, write_model(tmp_path / "base", random_tensors(0)), adapters)
    (late,) = (function for function in screen.demo.fns.values() if screen.named["result-note"] in function.outputs)

    seen, *_ = late.fn("ties", screen.state(Selection), "model", "model")  # asked before, and told after the click

    assert "value" not in seen.constructor_args


def test_an_adapter_recipe_is_opened_while_full_models_are_chosen(
    screen: Screen, family: Family, adapters: list[Path], tmp_path: Path
) -> None:
    base, full = family()
    chosen(screen, base, full)
    head = ("mergescope: 1", "merge_method: ties", f"base_model: {base}", "result: adapter", "rank: 3", "models:")
    text = "\n".join((*head, *(f"- model: {path}" for path in adapters)))
    (tmp_path / "recipe.yaml").write_text(text)

    screen["recipe-path"] = str(tmp_path / "recipe.yaml")
    screen.fire("recipe-path", "submit")
    screen.fire("method", "change")  # before the models of the recipe are read
    early = screen["result"]
    chosen(screen, base, adapters)

    assert (early, screen["result"], screen["rank"]) == ("model", "adapter", "3")
