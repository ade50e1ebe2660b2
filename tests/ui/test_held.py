"""What is held is named with its values, on one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from merging.recipe import Recipe
from tests.conftest import Family
from tests.ui.screens import Screen
from ui.edit_panel import ALL, MODEL
from ui.held import in_words

MODELS: tuple[Any, ...] = (Path("base"), tuple(map(Path, "abc")))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe("from", *MODELS), "FroM, exponent 1, λ 1"),
        (Recipe("from", *MODELS, values={"lora": "factors"}), "FroM, exponent 1, λ 1, LoRA adapters factors"),
        (Recipe("ties", *MODELS, (1, 1, 0.5)), "TIES-Merging, density 0.2, λ 1, weights 1 · 1 · 0.5"),
        (
            Recipe("ties", *MODELS, own=({}, {"density": 0.5}, {})),
            "TIES-Merging, density 0.2 · 0.5 · 0.2, λ 1, weights 1 · 1 · 1",
        ),
        (
            Recipe("linear", *MODELS, ([0, 1], 1, 1), {"normalize": False}),
            "Linear, normalize off, weight by tensor",
        ),
        (Recipe("dare_linear", *MODELS, seed=7), "DARE, density 0.5, λ 1, weights 1 · 1 · 1, seed 7"),
        (
            Recipe("task_arithmetic", *MODELS, result="adapter", rank=4),
            "Task arithmetic, λ 0.4, weights 1 · 1 · 1, as an adapter of rank 4",
        ),
    ],
)
def test_values_are_named(recipe: Recipe, words: str) -> None:
    assert in_words(recipe) == words


def test_the_weights_of_many_experts_do_not_fill_the_page() -> None:
    recipe = Recipe("linear", Path("base"), tuple(Path(str(at)) for at in range(30)))

    assert in_words(recipe) == "Linear, weights 1 · 1 · 1 · 1 · 1 · 1 · 1 · 1 · …"


def test_what_is_held_names_its_values_and_whether_it_was_changed_by_hand(family: Family, screen: Screen) -> None:
    base, experts = family()
    screen.choose(base, experts)
    screen["method"], screen["task_arithmetic-lambda"] = "task_arithmetic", 0.8
    screen.fire("task_arithmetic-lambda", "change")

    screen.fire("hold")
    before = screen["holding"]
    screen["edit-part"], screen["edit-who"] = MODEL, ALL
    screen["edit-first"] = 0.5
    screen.fire("edit-apply")
    screen.fire("hold")

    weights = " · ".join(["1"] * len(experts))
    assert f"Held:</b> Task arithmetic, λ 0.8, weights {weights}. What you change" in before
    assert f"Held:</b> Task arithmetic, λ 0.8, weights {weights}, changed by hand. What you change" in screen["holding"]
