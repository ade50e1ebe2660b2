"""What every method of adapters alone must satisfy, by whatever rule: all that holds for methods in `test_methods`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, reject
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging.engine import merge
from merging.errors import MergeError
from merging.method import ADAPTERS
from merging.params import Param
from merging.recipe import Recipe
from tests.adapters import random_adapter
from tests.merging.test_methods import ends
from tests.strategies import settings

SIDES = {"model.layers.0.mlp.up_proj": (7, 5), "model.layers.1.mlp.down_proj": (5, 9)}
FILE = "adapter_model.safetensors"
CHOICE = {"peft": "combination_type", "knots": "merger"}
KINDS = [(name, rule) for name, key in CHOICE.items() for rule in ADAPTERS[name].params[key].choices]
every_kind = pytest.mark.parametrize(("method", "rule"), KINDS)
RANDOM = [(method, rule) for method, rule in KINDS if "dare" in rule]


def test_every_method_of_adapters_is_here() -> None:
    assert set(CHOICE) == set(ADAPTERS)
    assert len(KINDS) == 11 + 4


def adapters(folder: Path, count: int, rank: int = 3) -> tuple[Path, ...]:
    return tuple(random_adapter(folder / f"adapter-{seed}", seed, SIDES, rank) for seed in range(count))


def recipe_of(method: str, rule: str, experts: tuple[Path, ...], **values: Any) -> Recipe:
    """A recipe that keeps everything, unless told otherwise."""
    plain = {"density": 1.0, **({"lambda": 1.0} if method == "knots" else {})}
    return Recipe(method, None, experts, values={CHOICE[method]: rule, **plain, **values})


def products(folder: Path) -> dict[str, Tensor]:
    """What an adapter adds to each matrix, but for its scaling."""
    found = load_file(folder / FILE)
    return {key: found[key.replace("lora_A", "lora_B")] @ tensor for key, tensor in found.items() if "lora_A" in key}


def merged(recipe: Recipe, out: Path) -> dict[str, Tensor]:
    return products(merge(recipe, out, workers=1, fsync=False).out)


def share(method: str, rule: str, count: int) -> float:
    """The weight of each of several adapters that are one and the same, with which they merge into it."""
    if rule.removesuffix("_svd").endswith("ties"):
        return 1.0  # what agrees is averaged
    apart = method == "peft" and rule in ("linear", "dare_linear", "magnitude_prune")
    return 1 / count**2 if apart else 1 / count  # of A and of B the roots are taken, and multiplied


@every_kind
@pytest.mark.parametrize("count", [1, 2, 3])
def test_copies_of_one_adapter_give_that_adapter(method: str, rule: str, count: int, tmp_path: Path) -> None:
    (one,) = adapters(tmp_path, 1)
    weights = (share(method, rule, count),) * count

    found = merged(replace(recipe_of(method, rule, (one,) * count), weights=weights), tmp_path / "out")

    for key, product in products(one).items():
        torch.testing.assert_close(found[key], 2 * product, rtol=1e-4, atol=1e-5)  # alpha is twice the rank


@every_kind
def test_the_order_of_the_adapters_does_not_matter(method: str, rule: str, tmp_path: Path) -> None:
    experts, weights = adapters(tmp_path, 3), (1.0, 0.5, 2.0)
    # What is drawn at random is drawn for an adapter's place: only where all is kept, no place is another.
    density = 1.0 if (method, rule) in RANDOM else 0.6
    recipe = recipe_of(method, rule, experts, density=density)
    expected = merged(replace(recipe, weights=weights), tmp_path / "out")

    for order in [(2, 0, 1), (1, 0, 2)]:
        turned = replace(recipe, experts=tuple(experts[i] for i in order), weights=tuple(weights[i] for i in order))
        found = merged(turned, tmp_path / "".join(map(str, order)))
        for key, product in expected.items():
            torch.testing.assert_close(found[key], product, rtol=1e-4, atol=1e-4)


def emptied(adapter: Path) -> Path:
    """The same adapter before its training: with zeros for B."""
    found = load_file(adapter / FILE)
    blank = {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in found.items()}
    save_file(blank, adapter / FILE, {"format": "pt"})
    return adapter


@every_kind
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_adapters_that_add_nothing_stay_so(method: str, rule: str, density: float, tmp_path: Path) -> None:
    experts = tuple(emptied(adapter) for adapter in adapters(tmp_path, 3))

    found = merged(recipe_of(method, rule, experts, density=density), tmp_path / "out")

    assert len(found) == len(SIDES)
    assert not any(product.any() for product in found.values())


@every_kind
def test_one_that_adds_nothing_does_no_harm(method: str, rule: str, tmp_path: Path) -> None:
    first, second = adapters(tmp_path, 2)

    found = merged(recipe_of(method, rule, (first, emptied(second)), density=0.7), tmp_path / "out")

    assert all(product.isfinite().all() and product.any() for product in found.values())


def ends_of(method: str) -> list[tuple[Param, Any]]:
    own = [param for param in ADAPTERS[method].params.values() if param.key != CHOICE[method]]
    return [(param, value) for param in own for value in ends(param)]


@every_kind
def test_both_ends_of_every_range_give_finite_numbers(method: str, rule: str, tmp_path: Path) -> None:
    experts = adapters(tmp_path, 2)
    for number, (param, value) in enumerate(ends_of(method)):
        recipe = recipe_of(method, rule, experts)
        recipe = (
            replace(recipe, weights=(value,) * 2)
            if param.per_expert
            else replace(recipe, values=recipe.values | {param.key: value})
        )
        refused = [
            (param.key, value) == ("density", None) and rule not in ("cat", "svd", "linear"),
            (param.key, value) == ("merge", "max") and rule == "dare_ties",
        ]
        if any(refused):
            with pytest.raises(
                MergeError, match=r"needs a `density`\. Give it one\.|is none of DARE-TIES's rules\. Choose "
            ):
                merge(recipe, tmp_path / "refused")
            continue

        found = merged(recipe, tmp_path / f"out-{number}")

        assert all(product.isfinite().all() for product in found.values())


@pytest.mark.parametrize("method", CHOICE)
@given(data=st.data(), ranks=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@hypothesis_settings(max_examples=25)
def test_any_allowed_values_give_finite_numbers_of_the_same_shape(
    method: str, data: st.DataObject, ranks: list[int]
) -> None:
    known = ADAPTERS[method].params
    values = {known[name].key: value for name, value in data.draw(settings(ADAPTERS[method])).items()}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        experts = tuple(random_adapter(root / str(i), i, SIDES, rank) for i, rank in enumerate(ranks))
        try:
            found = merged(Recipe(method, None, experts, values=values), root / "out")
        except MergeError as error:
            assert str(error).endswith(".")  # noqa: PT017 - either is a clear answer
            reject()

    assert [tuple(product.shape) for product in found.values()] == [*SIDES.values()]
    assert all(product.isfinite().all() for product in found.values())


@every_kind
def test_the_same_recipe_gives_the_same_bytes_however_it_is_cut(
    method: str, rule: str, tmp_path: Path, small_chunks: Callable[..., None]
) -> None:
    recipe = recipe_of(method, rule, adapters(tmp_path, 3), density=0.6)
    one, again = (merge(recipe, tmp_path / name, workers=n, fsync=False).out for name, n in [("one", 1), ("two", 3)])

    small_chunks(7)
    cut = merge(recipe, tmp_path / "cut", workers=2, fsync=False).out

    assert (again / FILE).read_bytes() == (one / FILE).read_bytes()
    for key, product in products(one).items():
        torch.testing.assert_close(products(cut)[key], product, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("method", "rule"), RANDOM)
def test_what_is_drawn_follows_from_the_seed(method: str, rule: str, tmp_path: Path) -> None:
    recipe = recipe_of(method, rule, adapters(tmp_path, 2), density=0.5)

    one, other = (merged(replace(recipe, seed=seed), tmp_path / str(seed)) for seed in (1, 2))

    assert not any(torch.equal(one[key], other[key]) for key in one)


@every_kind
def test_kernels_give_what_their_definition_gives(
    method: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merging import kernels

    recipe = recipe_of(method, rule, adapters(tmp_path, 3), density=0.6)
    found = merged(recipe, tmp_path / "kernels")
    monkeypatch.setattr(kernels, "usable", lambda: False)

    for key, product in merged(recipe, tmp_path / "torch").items():
        torch.testing.assert_close(found[key], product, rtol=1e-5, atol=1e-5)
