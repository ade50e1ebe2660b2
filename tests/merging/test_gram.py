"""Inner products over chunks, with and without a base, and what follows from them for the screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merging import compare
from merging.coefficients import coefficients
from merging.crew import Crew
from merging.engine import merge
from merging.gram import Gram, gram
from merging.groups import Group, Groups
from merging.method import METHODS
from merging.plan import plan
from merging.ranking import NotFiniteError
from merging.recipe import Recipe
from merging.stream import Stream
from merging.vectors import squares
from tests.conftest import Family
from tests.merging.test_compare import opened


def drawn(size: int, based: bool = True) -> Group:
    base, *experts = torch.randn(4, size, generator=torch.Generator().manual_seed(size))
    return Group("w", base if based else None, torch.stack(experts))


@pytest.mark.parametrize("based", [True, False])
def test_they_are_those_of_base_and_task_vectors(
    based: bool, small_chunks: Callable[..., None], both_paths: str
) -> None:
    small_chunks(7)
    group = drawn(50, based)

    found = gram(Groups.of([group]))

    base = group.base.double() if based else torch.zeros(50, dtype=torch.float64)
    rows = torch.cat([base[None], (group.experts - group.base if based else group.experts).double()])
    torch.testing.assert_close(found.products, rows @ rows.T)
    torch.testing.assert_close(found.vectors, rows[1:] @ rows[1:].T)


def test_those_of_the_models_follow() -> None:
    group = drawn(50)

    found = gram(Groups.of([group]))

    models = torch.cat([group.base[None], group.experts]).double()
    torch.testing.assert_close(found.models, models @ models.T, rtol=1e-6, atol=1e-5)


def test_of_the_base_alone() -> None:
    products = torch.tensor([[4.0, 1.0], [1.0, 9.0]])

    assert Gram(products).models.tolist() == [[4, 5], [5, 4 + 2 + 9]]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_told(number: float, both_paths: str) -> None:
    group = Group("w", torch.zeros(2), torch.tensor([[1.0, number]]))

    with pytest.raises(NotFiniteError):
        gram(Groups.of([group]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_those_of_the_screen_are_those_of_the_merge_to_the_last_bit(
    dtype: torch.dtype, family: Family, small_chunks: Callable[..., None], both_paths: str
) -> None:
    small_chunks(7, 2)
    base, experts = opened(*family(3, dtype))

    found = compare.compare(base, experts)

    source = Stream(plan(base, experts), Crew())
    for row, name in enumerate(found.names):
        groups = source.tensor(name, Crew())
        assert torch.equal(found.products[row], gram(groups).products)
        assert torch.equal(found.squares[row], squares(groups))
    source.files.close()


METHODS_OF_ANGLES: list[tuple[str, dict[str, Any]]] = [
    ("model_stock", {}),
    ("metagpt", {}),
    ("lines", {"lambda": 1.0}),
    ("slerp", {"t": 0.3}),
    ("nuslerp", {}),
    ("multislerp", {}),
    ("karcher", {}),
]


@pytest.mark.parametrize(("name", "values"), METHODS_OF_ANGLES)
def test_what_the_screen_shows_is_what_the_merge_does(
    name: str, values: dict[str, Any], family: Family, tmp_path: Path
) -> None:
    method = METHODS[name]
    base, experts = family(method.taking(3))
    weights = [1.0, 0.5, 2.0][: len(experts)]
    told = tuple(weights) if "weight" in method.params else ()

    found = compare.compare(*opened(base, experts))
    table = coefficients(method, {**method.checked(values), "weight": torch.tensor(weights)}, found, found.probe)

    merge(Recipe(name, base, tuple(experts), told, values), tmp_path / "out")
    merged, start = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", base))
    moved = [load_file(folder / "model.safetensors") for folder in experts]
    assert table.isfinite().all()
    for row, tensor in zip(table, found.names, strict=True):
        models = torch.stack([model[tensor].double() for model in moved]).flatten(1)
        origin = start[tensor].double().flatten()
        vectors = models - origin if method.takes_base else models
        # What is left of the merge without the experts' shares is some of the base, or nothing without one.
        rest = merged[tensor].double().flatten() - row @ vectors
        share = rest @ origin / origin.square().sum() if method.takes_base else 0.0
        torch.testing.assert_close(rest, share * origin, rtol=1e-5, atol=1e-5)
        assert name == "slerp" or not method.takes_base or float(share) == pytest.approx(1, abs=1e-5)
