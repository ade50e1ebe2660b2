"""LiNeS by hand, and as the gradient that task arithmetic may have instead."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merging.engine import merge, merge_groups
from merging.method import METHODS, Group
from merging.recipe import Recipe
from tests.conftest import Family, write_model

LINES = METHODS["lines"]


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("model.embed_tokens.weight", 0.1),
        ("model.layers.0.w", 0.1),
        ("model.layers.1.w", 0.1 + 0.6 / 3),
        ("model.layers.3.w", 0.7),
        ("lm_head.weight", 0.1),
    ],
)
def test_the_factor_grows_from_the_first_layer_to_the_last(name: str, factor: float) -> None:
    tau = torch.tensor([[1.0, 2.0], [4.0, -1.0]])
    names = ["model.embed_tokens.weight", *(f"model.layers.{layer}.w" for layer in range(4)), "lm_head.weight"]

    found = dict(
        merge_groups(LINES, [Group(n, torch.ones(2), 1 + tau) for n in names], alpha=0.1, beta=0.6, scaling=2.0)
    )

    torch.testing.assert_close(found[name], 1 + 2 * factor * tau.sum(0))


def test_the_only_layer_is_the_first() -> None:
    [(_, found)] = merge_groups(
        LINES, [Group("layers.0.w", torch.zeros(1), torch.ones(1, 1))], alpha=0.25, beta=5.0, scaling=1.0
    )

    assert found.item() == 0.25


def test_it_is_task_arithmetic_with_a_gradient(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    weights, values = (0.5, 1.5), {"alpha": 0.25, "beta": 0.5, "lambda": 1.0}

    merge(Recipe("lines", base, tuple(experts), weights, values), tmp_path / "lines")
    merge(Recipe("task_arithmetic", base, tuple(experts), weights, {"lambda": [0.25, 0.75]}), tmp_path / "gradient")

    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("lines", "gradient"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_depth_is_the_merges_own_where_one_tensor_is_read_alone(tmp_path: Path) -> None:
    names = [f"layers.{layer}.w" for layer in range(5)]
    base = write_model(tmp_path / "base", {name: torch.zeros(3) for name in names})
    expert = write_model(tmp_path / "expert", {name: torch.ones(3) for name in names})

    merge(Recipe("lines", base, (expert,), values={"lambda": 1.0}), tmp_path / "out")

    found = load_file(tmp_path / "out" / "model.safetensors")
    assert [found[name][0].item() for name in names] == [0, 0.25, 0.5, 0.75, 1]
