"""Model Stock by hand, at the ends of its formula, and row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging.engine import merge, merge_groups
from merging.method import METHODS, Group
from merging.recipe import Recipe
from tests.adapters import random_adapter
from tests.conftest import write_model

STOCK = METHODS["model_stock"]


def merged(base: Tensor, *tau: Tensor, **values: bool) -> Tensor:
    [(_, found)] = merge_groups(STOCK, [Group("w", base, base + torch.stack(tau))], **values)
    return found


@pytest.mark.parametrize(
    ("tau", "share"),
    [
        ([[1.0, 0.0], [0.0, 3.0]], 0.0),  # they have nothing in common
        ([[1.0, 0.0], [3.0, 0.0]], 1.0),  # all they have is common
        ([[2.0, 0.0], [1.0, 3**0.5]], 2 / 3),  # cos 60° = 1/2: 2 · 1/2 / (1 + 1/2)
        ([[2.0, 0.0], [-1.0, 3**0.5]], -2.0),  # cos 120° = -1/2: 2 · -1/2 / (1 - 1/2)
        ([[2.0, 0.0, 0.0], [1.0, 3**0.5, 0.0], [1.0, 3**-0.5, (8 / 3) ** 0.5]], 0.75),  # 3 · 1/2 / (1 + 2 · 1/2)
    ],
)
def test_the_step_to_the_mean_follows_from_the_angle(tau: list[list[float]], share: float, both_paths: str) -> None:
    vectors = torch.tensor(tau)
    base = torch.full(vectors.shape[1:], 2.0)

    torch.testing.assert_close(merged(base, *vectors), base + share * vectors.mean(0))


def test_the_base_stays_where_the_directions_cancel(both_paths: str) -> None:
    # The released formula divides -2 by 0 here.
    base, tau = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, -1.0, 0.5])

    assert torch.equal(merged(base, tau, -3 * tau), base)


def test_an_expert_that_did_not_move_is_at_a_right_angle_to_all(both_paths: str) -> None:
    # Its products with the others are 0: cosines 1, 0 and 0, of mean 1/3, so 3 · 1/3 / (1 + 2/3) = 0.6 to the mean.
    tau = torch.tensor([3.0, 0.0])

    found = merged(torch.zeros(2), tau, tau, torch.zeros(2))

    torch.testing.assert_close(found, 0.6 * 2 / 3 * tau)


def test_rows_have_angles_of_their_own_and_a_vector_is_one_row() -> None:
    # The first row at 60°, the second at 90°.
    one, other = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 3**0.5], [1.0, 0.0]])

    found = merged(torch.zeros(2, 2), one, other, filter_wise=True)

    torch.testing.assert_close(found, torch.stack([2 / 3 * (one[0] + other[0]) / 2, torch.zeros(2)]))
    flat = merged(torch.zeros(4), one.flatten(), other.flatten(), filter_wise=True)
    torch.testing.assert_close(flat, merged(torch.zeros(4), one.flatten(), other.flatten()))


def test_rows_are_looked_at_some_at_a_time() -> None:
    tau = torch.randn(3, 600, 5, generator=torch.Generator().manual_seed(0))

    found = merged(torch.zeros(600, 5), *tau, filter_wise=True)

    alone = [merged(torch.zeros(5), *tau[:, row]) for row in (0, 255, 256, 599)]
    torch.testing.assert_close(found[[0, 255, 256, 599]], torch.stack(alone))


def test_rows_whose_step_is_none_between_base_and_mean_are_counted(tmp_path: Path) -> None:
    away = [torch.tensor([[2.0, 0.0], [2.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 2.0], [-1.0, 2.0], [1.0, 0.0]])]
    base = write_model(tmp_path / "base", {"layers.0.w": torch.zeros(3, 2)})
    experts = [write_model(tmp_path / f"expert-{i}", {"layers.0.w": tau}) for i, tau in enumerate(away)]

    report = merge(Recipe("model_stock", base, tuple(experts), values={"filter_wise": True}), tmp_path / "out")

    assert report.warnings == (
        "`layers.0.w`: Model Stock takes steps t that are not between 0 and 1 towards the mean in 1 of 3 rows.",
    )


def test_a_step_that_is_none_between_base_and_mean_is_told(tmp_path: Path) -> None:
    names = [f"layers.{layer}.w" for layer in range(3)]
    away = [torch.tensor([[2.0, 0.0], [1.0, 3**0.5]]), *[torch.tensor([[2.0, 0.0], [-1.0, 3**0.5]])] * 2]
    base = write_model(tmp_path / "base", {name: torch.zeros(2) for name in names})
    experts = [
        write_model(tmp_path / f"expert-{i}", {name: tau[i].clone() for name, tau in zip(names, away, strict=True)})
        for i in range(2)
    ]

    report = merge(Recipe("model_stock", base, tuple(experts)), tmp_path / "out")

    assert report.warnings == (
        "`layers.1.w`: Model Stock steps t = -2.00 towards the mean, not between 0 and 1, and so on in 1 more tensors.",
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (False, "steps t = -2.00 towards the mean, not between 0 and 1"),
        (True, "takes steps t that are not between 0 and 1 towards the mean in 1 of 1 rows"),
    ],
)
def test_it_is_told_of_adapters_that_become_one_as_well(rows: bool, words: str, tmp_path: Path) -> None:
    names = [f"layers.{layer}.up_proj" for layer in range(2)]
    away = [torch.tensor([[2.0, 0.0]]), torch.tensor([[-1.0, 3**0.5]])]  # cos 120°
    adapters = []
    for number, tau in enumerate(away):
        path = random_adapter(tmp_path / str(number), 0, dict.fromkeys(names, (1, 2)), 1)
        known = load_file(path / "adapter_model.safetensors")
        factors = {name: tau.clone() if "lora_A" in name else torch.ones(1, 1) for name in known}
        save_file(factors, path / "adapter_model.safetensors", {"format": "pt"})
        adapters.append(path)
    recipe = Recipe("model_stock", None, tuple(adapters), values={"filter_wise": rows}, result="adapter", rank=1)

    report = merge(recipe, tmp_path / "out")

    assert report.warnings == (f"`{names[0]}.weight`: Model Stock {words}, and so on in 1 more tensors.",)
