"""DARE by its statistics over seeds, and to the last bit where it is known what was kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from merging.engine import merge, merge_groups
from merging.method import METHODS, Group
from merging.recipe import Recipe
from tests.conftest import Family, random_tensors, write_model
from tests.strategies import models

SIZE = 20_000
BASE = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
TAU = 0.1 * torch.randn(3, SIZE, generator=torch.Generator().manual_seed(1))
GROUP = Group("w", BASE, BASE + TAU)
FROM_ZERO = Group("w", torch.zeros(SIZE), TAU)


def merged(method: str = "dare_linear", group: Group = FROM_ZERO, **values: Any) -> Tensor:
    return dict(merge_groups(METHODS[method], [group], **values))[group.name]


def alone(index: int, group: Group = FROM_ZERO) -> dict[str, Any]:
    """Weights that leave one expert."""
    return {"weight": [float(index == other) for other in range(len(group.experts))]}


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_what_is_kept_is_divided_by_its_chance_and_the_rest_is_the_base(density: float, both_paths: str) -> None:
    found = merged(density=density, **alone(1))

    kept = found != 0
    assert torch.equal(found, torch.where(kept, TAU[1] / torch.tensor(density), 0.0))
    error = (density * (1 - density) / SIZE) ** 0.5
    assert abs(float(kept.float().mean()) - density) < 5 * error


def test_without_rescaling_what_is_kept_is_as_it_was(both_paths: str) -> None:
    found = merged(density=0.3, rescale="none", **alone(0))

    assert torch.equal(found, torch.where(found != 0, TAU[0], 0.0))


def test_l1_restores_the_sum_of_magnitudes(both_paths: str) -> None:
    found = merged(density=0.3, rescale="l1", **alone(2))
    plain = merged(density=0.3, rescale="none", **alone(2))

    assert float(found.abs().double().sum()) == pytest.approx(float(TAU[2].abs().double().sum()), rel=1e-6)
    factor = TAU[2].abs().double().sum() / plain.abs().double().sum()
    torch.testing.assert_close(found, (plain.double() * factor).float(), rtol=1e-6, atol=0)
    assert 3.0 < factor < 3.7  # near 1 / 0.3


def test_l1_of_the_whole_model_is_one_factor(both_paths: str) -> None:
    groups = [FROM_ZERO, Group("v", torch.zeros(50), 3 * TAU[:, :50])]

    parts = [dict(merge_groups(METHODS["dare_linear"], groups, density=0.3, rescale=rule, scope="model", **alone(0)))
             for rule in ("l1", "none")]  # fmt: skip

    after, before = (sum(float(part[name].abs().double().sum()) for name in part) for part in parts)
    assert after == pytest.approx(sum(float(group.experts[0].abs().double().sum()) for group in groups), rel=1e-6)
    for name, tensor in parts[0].items():
        torch.testing.assert_close(tensor, parts[1][name] * (after / before), rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", ["dare_linear"])
def test_its_mean_over_seeds_is_task_arithmetic(method: str) -> None:
    few = Group("w", BASE[:200], BASE[:200] + TAU[:, :200])
    values = {"weight": [1.0, 0.5, -0.5], "scaling": 0.7}
    seeds, density = 2000, 0.4

    found = torch.stack([merged(method, few, density=density, seed=seed, **values) for seed in range(seeds)])

    expected = merged("task_arithmetic", few, **values)
    parts = torch.tensor(values["weight"])[:, None] * TAU[:, :200] * 0.7
    error = (parts.square().sum(0) * (1 - density) / density / seeds).sqrt()
    assert ((found.mean(0) - expected).abs() < 5 * error).all()


def test_an_entry_is_kept_in_its_share_of_seeds_and_by_each_expert_on_its_own() -> None:
    ones = Group("w", torch.zeros(40), torch.ones(2, 40))

    kept = torch.stack([
        torch.stack([merged(group=ones, density=0.3, seed=seed, **alone(index, ones)) for index in range(2)]) > 0
        for seed in range(1000)
    ]).float()  # (seeds, experts, entries)  # fmt: skip

    error = (0.3 * 0.7 / 1000) ** 0.5
    assert ((kept.mean(0) - 0.3).abs() < 5 * error).all()
    both = (kept[:, 0] * kept[:, 1]).mean()
    assert abs(float(both) - 0.09) < 5 * (0.09 * 0.91 / 40_000) ** 0.5


def test_signs_are_elected_and_what_agrees_is_averaged_or_added() -> None:
    group = Group("w", torch.tensor([10.0, 10.0, 0.0, 0.0]), torch.tensor([[12.0, 7.0, 1.0, 0], [11.0, 9.0, -1.0, 0]]))

    assert merged("dare_ties", group, density=1.0).tolist() == [11.5, 8.0, 1.0, 0.0]  # a draw is positive
    assert merged("dare_ties", group, density=1.0, merge="sum").tolist() == [13.0, 6.0, 1.0, 0.0]
    # Weighed, the entries are 2 and -2, -3 and 2, 1 and 2: the first two are of the first expert alone.
    assert merged("dare_ties", group, density=1.0, weight=[1.0, -2.0]).tolist() == [12.0, 7.0, -3.0, 0.0]


def test_signs_are_elected_among_what_is_kept(both_paths: str) -> None:
    kept = torch.stack([merged(density=0.5, **alone(index)) for index in range(3)])

    found = merged("dare_ties", density=0.5)

    positive = kept.sum(0) >= 0
    agrees = torch.where(positive, kept > 0, kept < 0)
    expected = torch.where(agrees, kept, 0.0).sum(0) / agrees.sum(0).clamp(min=1)
    torch.testing.assert_close(found, expected)


@given(groups=models(), scaling=st.floats(0, 2), normalize=st.booleans())
def test_where_all_is_kept_it_is_task_arithmetic(groups: list[Group], scaling: float, normalize: bool) -> None:
    values = {"scaling": scaling, "normalize": normalize}

    ours = dict(merge_groups(METHODS["dare_linear"], groups, density=1.0, **values))

    for name, expected in merge_groups(METHODS["task_arithmetic"], groups, **values):
        torch.testing.assert_close(ours[name], expected)


@given(groups=models())
def test_where_all_is_kept_it_is_ties_without_trimming(groups: list[Group]) -> None:
    ours = dict(merge_groups(METHODS["dare_ties"], groups, density=1.0))

    ties = merge_groups(METHODS["ties"], groups, density=1.0, variant="mergekit", scope="tensor")
    for name, expected in ties:
        torch.testing.assert_close(ours[name], expected)


def test_at_a_density_of_zero_nothing_is_left(both_paths: str) -> None:
    for rescale in ("probability", "l1", "none"):
        assert torch.equal(merged(group=GROUP, density=0.0, rescale=rescale), BASE)


def test_each_expert_may_have_a_density_of_its_own() -> None:
    densities = [0.2, 1.0, 0.6]
    found = [float((merged(density=densities, **alone(index)) != 0).float().mean()) for index in range(3)]

    assert found == pytest.approx(densities, abs=0.02)


def test_the_seed_of_the_recipe_decides(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    found = {}

    for out, seed in [("one", 1), ("again", 1), ("other", 2)]:
        merge(Recipe("dare_linear", base, tuple(experts), seed=seed), tmp_path / out)
        found[out] = load_file(tmp_path / out / "model.safetensors")

    name = "model.embed_tokens.weight"
    assert torch.equal(found["one"][name], found["again"][name])
    assert not torch.equal(found["one"][name], found["other"][name])
    start = random_tensors(0)[name]
    tau = torch.stack([load_file(path / "model.safetensors")[name] - start for path in experts])
    expected = merged(group=Group(name, start, start + tau), seed=2)
    torch.testing.assert_close(found["other"][name], expected)


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_an_expert_keeps_its_draws_where_another_lacks_the_tensor(scope: str, family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    name = "model.embed_tokens.weight"
    start = random_tensors(0)
    write_model(experts[0], {other: tensor + 1 for other, tensor in start.items() if other != name})
    recipe = Recipe("dare_linear", base, tuple(experts), values={"scope": scope})

    merge(recipe, tmp_path / "out")

    both = Group(name, start[name], torch.stack([start[name], load_file(experts[1] / "model.safetensors")[name]]))
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[name], merged(group=both))
