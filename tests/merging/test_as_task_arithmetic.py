"""Merges that weigh whole tensors, said again as task arithmetic: the same model comes out, by weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merging.adapter import open_expert
from merging.as_task_arithmetic import as_task_arithmetic, inexact
from merging.checkpoint import open_checkpoint
from merging.coefficients import coefficients
from merging.compare import compare
from merging.edits import Edit, Edits, applied, uneditable
from merging.engine import merge
from merging.errors import MergeError
from merging.method import METHODS
from merging.parts import Part
from merging.recipe import Recipe, load_recipe
from tests.conftest import Family, random_tensors, write_model

ZOO = Path(__file__).parents[2] / "zoo"


def told_again(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe as task arithmetic, by the coefficients of its models, and its tensors."""
    assert recipe.base
    base = open_checkpoint(recipe.base)
    comparison = compare(base, [open_expert(path, base) for path in recipe.experts])
    method, values, weights = recipe.checked()
    values |= {"weight": torch.tensor(weights)}
    table = coefficients(method, values, comparison, comparison.probe)
    return as_task_arithmetic(recipe, table.tolist(), comparison.names), comparison.names


@pytest.mark.parametrize(
    ("method", "values", "weights"),
    [
        ("from", {}, ()),
        ("from", {"k": 2.0, "lambda": 0.7}, ()),
        ("from", {"k": 0.0}, ()),
        ("from", {"scope": "model"}, ()),
        ("metagpt", {"lambda": 0.5}, ()),
        ("model_stock", {}, ()),
        ("lines", {"alpha": 0.2, "lambda": 0.6}, (1.0, -0.5)),
        ("nuslerp", {}, (0.3, 0.7)),
        ("multislerp", {}, (0.3, 0.7)),
        ("task_arithmetic", {"normalize": True}, (0.3, 0.7)),
    ],
)
def test_it_merges_the_same(
    method: str, values: dict[str, Any], weights: tuple[float, ...], family: Family, tmp_path: Path
) -> None:
    base, experts = family()
    recipe = Recipe(method, base, tuple(experts), weights, values)

    again, _ = told_again(recipe)

    assert again.method == "task_arithmetic"
    (tmp_path / "again.yaml").write_text(again.to_yaml(tmp_path))
    merge(recipe, tmp_path / "one")
    merge(load_recipe(tmp_path / "again.yaml"), tmp_path / "other")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    start = load_file(base / "model.safetensors")
    for name, tensor in one.items():
        assert not torch.equal(tensor, start[name])
        torch.testing.assert_close(other[name], tensor, rtol=1e-6, atol=1e-6)


def test_of_the_embedded_models_from_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    recipe = Recipe("from", ZOO / "base", tuple(ZOO / name for name in ("shakespeare", "bible", "python-lora")))

    again, names = told_again(recipe)

    merge(recipe, tmp_path / "one")
    merge(again, tmp_path / "other")
    one, other = ((tmp_path / name / "model.safetensors") for name in ("one", "other"))
    found = load_file(other)
    for name, tensor in load_file(one).items():
        assert torch.equal(found[name], tensor), name
    # Column by column in place of tensor by tensor, which are many more.
    assert all(len(weight) < len(names) / 2 for weight in again.weights)


def test_it_can_be_changed_by_hand_then(family: Family) -> None:
    base, experts = family()
    recipe = Recipe("from", base, tuple(experts))

    again, names = told_again(recipe)

    assert uneditable(recipe)
    assert uneditable(again) == ""
    edited = applied(again, Edits((Edit(Part("layer", "1"), "set", 2.0),)), names)
    assert edited.settings().of("model.layers.1.mlp.up_proj.weight", 1.0)["weight"] == [2.0, 2.0]


def test_changes_by_hand_stand_on_top_of_its_weights_exactly(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    recipe = Recipe("from", base, tuple(experts))
    again, names = told_again(recipe)
    one, other = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")
    edits = Edits((Edit(Part("tensor", one), "scale", 0.5), Edit(Part("group", "last third"), "set", 0.0)))

    edited = applied(again, edits, names)

    for result, folder in ((recipe, "one"), (edited, "other")):
        merge(result, tmp_path / folder)
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    start = load_file(base / "model.safetensors")
    wanted = {**whole, one: start[one] + 0.5 * (whole[one] - start[one]), other: start[other]}
    for name in names:
        torch.testing.assert_close(part[name], wanted[name], rtol=1e-6, atol=1e-6)


def test_a_tensor_that_an_expert_lacks_is_merged_without_it(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    few = random_tensors(7)
    del few["model.norm.weight"]
    write_model(experts[1], few)
    recipe = Recipe("from", base, tuple(experts))

    again, _ = told_again(recipe)

    merge(recipe, tmp_path / "one")
    merge(again, tmp_path / "other")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            Recipe("ties", Path("base"), (Path("a"),)),
            "TIES-Merging gives no tensor one weight per expert, so task arithmetic cannot do the same. Choose FroM.",
        ),
        (
            Recipe("linear", Path("base"), (Path("a"),)),
            "Linear does not start from the base, so task arithmetic cannot do the same. Choose FroM.",
        ),
        (
            Recipe("slerp", Path("base"), (Path("a"),)),
            "SLERP also changes how much the base counts, so task arithmetic cannot do the same. Choose FroM.",
        ),
        (
            Recipe("multislerp", None, (Path("a"), Path("b"))),
            "Without a base, Multi-SLERP has no task vectors to weigh. Name a base model.",
        ),
        (
            Recipe("from", Path("base"), (Path("a"),), values={"lora": "factors"}),
            "Averaged factors mix the A of one adapter with the B of another. Choose `lora: product`.",
        ),
    ],
)
def test_what_is_no_weighted_sum_is_refused_in_words(recipe: Recipe, words: str) -> None:
    assert inexact(recipe) == words
    with pytest.raises(MergeError) as caught:
        as_task_arithmetic(recipe, [[1.0]], ["w"])
    assert str(caught.value) == words


def test_a_tensor_that_is_merged_as_a_whole_is_named(family: Family) -> None:
    base, experts = family()

    with pytest.raises(
        MergeError, match=r"^`model\.embed_tokens\.weight` is merged as a whole, .* Choose other values"
    ):
        told_again(Recipe("model_stock", base, tuple(experts), values={"filter_wise": True}))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_weighted_sum_or_is_not_for_a_reason(name: str) -> None:
    method = METHODS[name]
    recipe = Recipe(name, Path("base"), tuple(map(Path, "ab"[: method.taking(2)])))

    told = {"from", "metagpt", "model_stock", "lines", "nuslerp", "multislerp", "task_arithmetic"}

    assert (inexact(recipe) == "") == (name in told)
