"""What looks wrong with experts is said with its reason, and what is right is not."""

from __future__ import annotations

from pathlib import Path

import torch

from merging.compare import compare
from tests.conftest import random_tensors, write_model
from tests.merging.test_compare import opened


def told(folder: Path, **steps: dict[int, float]) -> list[str]:
    """The warnings about experts that moved from the base by these multiples of random directions."""
    start = random_tensors(0)
    moves = {number: random_tensors(number) for number in (1, 2)}
    paths = [write_model(folder / "base", start)]
    for expert, parts in steps.items():
        moved = {name: start[name] + sum(size * moves[n][name] for n, size in parts.items()) for name in start}
        paths.append(write_model(folder / expert, moved))
    return compare(*opened(paths[0], paths[1:])).warnings()


def test_experts_that_are_well_are_not_spoken_of(tmp_path: Path) -> None:
    assert told(tmp_path, one={1: 0.1}, two={2: 0.1}) == []


def test_the_same_expert_twice(tmp_path: Path) -> None:
    assert told(tmp_path, one={1: 0.1}, again={1: 0.1}, other={2: 0.1}) == [
        "one and again are the same: one of them adds nothing but weight."
    ]


def test_two_that_are_nearly_the_same(tmp_path: Path) -> None:
    [words] = told(tmp_path, one={1: 0.1}, near={1: 0.1, 2: 0.001})

    assert words.startswith("one and near differ by ")
    assert words.endswith("% of what they moved: one of them adds next to nothing.")


def test_one_that_went_the_same_way_further(tmp_path: Path) -> None:
    assert told(tmp_path, one={1: 0.1}, further={1: 0.2}) == [
        "one and further moved the same way from the base: one of them adds nothing."
    ]


def test_one_that_is_the_base_or_from_another(tmp_path: Path) -> None:
    assert told(tmp_path, still={}, far={1: 2.0}) == [
        "still equals the base model: it adds nothing.",
        next(words for words in told(tmp_path, still={}, far={1: 2.0}) if "was it fine-tuned from this one?" in words),
    ]


def test_one_that_is_far_louder_than_the_others(tmp_path: Path) -> None:
    [words] = told(tmp_path, loud={1: 0.4}, quiet={2: 0.01})

    assert words.startswith("loud is ")
    assert "times as far from the base as any other expert" in words


def test_nan_in_the_base_is_of_the_base(tmp_path: Path) -> None:
    tensors = {"w": torch.tensor([1.0, torch.nan])}
    paths = [write_model(tmp_path / "base", tensors), write_model(tmp_path / "expert", {"w": torch.ones(2)})]

    assert compare(*opened(paths[0], paths[1:])).warnings() == [
        "base: `w` holds NaN or infinity, so this merge will be refused."
    ]
