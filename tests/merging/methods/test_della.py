"""DELLA by its statistics over seeds, and to the last bit where it is known what was kept."""

from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from merging.engine import merge_groups
from merging.errors import MergeError
from merging.method import METHODS, Group
from merging.methods.della import Odds, chances
from merging.preflight import check
from merging.recipe import Recipe
from tests.conftest import Family
from tests.strategies import models

ROWS, ROW = 2000, 9
TAU = torch.randn(2, ROWS, ROW, generator=torch.Generator().manual_seed(1))
GROUP = Group("w", torch.zeros(ROWS, ROW), TAU)
RANKS = TAU.abs().argsort(2).argsort(2)  # no two are equal


def merged(method: str = "della_linear", group: Group = GROUP, **values: Any) -> Tensor:
    return dict(merge_groups(METHODS[method], [group], **values))[group.name]


def first(**values: Any) -> Tensor:
    """What is made of the first expert alone."""
    return merged(weight=[1.0, 0.0], **values)


def test_the_chance_grows_with_the_rank_from_one_end_to_the_other() -> None:
    odds = Odds(torch.tensor([0.3, 0.5]), torch.tensor([0.7, 0.5]), torch.zeros(2))

    torch.testing.assert_close(chances(odds, 5), torch.tensor([[0.3, 0.4, 0.5, 0.6, 0.7], [0.5] * 5]))
    assert chances(odds, 1).tolist() == [[0.5], [0.5]]


def test_what_is_kept_is_divided_by_its_own_chance(both_paths: str) -> None:
    found = first(density=0.5, epsilon=0.2)

    chance = 0.3 + 0.4 * RANKS[0] / (ROW - 1)
    torch.testing.assert_close(found, torch.where(found != 0, TAU[0] / chance, 0.0))
    for rank in range(ROW):
        kept = float((found[RANKS[0] == rank] != 0).float().mean())
        expected = 0.3 + 0.4 * rank / (ROW - 1)
        assert abs(kept - expected) < 5 * (expected * (1 - expected) / ROWS) ** 0.5


def test_ranks_are_those_of_a_row_and_a_vector_is_one_row(both_paths: str) -> None:
    # At these odds only the larger half of a row is ever kept, but for rounding.
    wide = Group("w", torch.zeros(ROW * ROWS), TAU.reshape(2, -1))

    found = first(group=wide, density=0.5, epsilon=0.4999)

    size = TAU[0].abs().flatten()
    order = size.argsort()
    tenth = len(order) // 10
    assert (found[order[:tenth]] != 0).float().mean() < 0.1
    assert (found[order[-tenth:]] != 0).float().mean() > 0.9


def test_without_rescaling_what_is_kept_is_as_it_was(both_paths: str) -> None:
    found = first(rescale="none")

    assert torch.equal(found, torch.where(found != 0, TAU[0], 0.0))
    assert 0.48 < (found != 0).float().mean() < 0.52


def test_l1_restores_the_sum_of_magnitudes(both_paths: str) -> None:
    found, plain = first(rescale="l1"), first(rescale="none")

    assert float(found.abs().double().sum()) == pytest.approx(float(TAU[0].abs().double().sum()), rel=1e-6)
    assert torch.equal(found != 0, plain != 0)


def test_its_mean_over_seeds_is_task_arithmetic() -> None:
    few = Group("w", torch.ones(4, ROW), 1 + TAU[:, :4])
    seeds, values = 2000, {"weight": [1.0, -0.5], "scaling": 0.7}

    found = torch.stack([merged(group=few, density=0.4, epsilon=0.2, seed=seed, **values) for seed in range(seeds)])

    chance = 0.2 + 0.4 * RANKS[:, :4] / (ROW - 1)
    parts = torch.tensor([1.0, -0.5])[:, None, None] * TAU[:, :4] * 0.7
    error = (parts.square() * (1 - chance) / chance).sum(0).div(seeds).sqrt()
    assert ((found.mean(0) - merged("task_arithmetic", few, **values)).abs() < 5 * error).all()


def test_signs_are_elected_among_what_is_kept(both_paths: str) -> None:
    kept = torch.stack([merged(weight=[float(index == 0), float(index == 1)]) for index in range(2)])

    found = merged("della")

    agrees = torch.where(kept.sum(0) >= 0, kept > 0, kept < 0)
    torch.testing.assert_close(found, torch.where(agrees, kept, 0.0).sum(0) / agrees.sum(0).clamp(min=1))


@given(groups=models())
def test_where_all_is_kept_it_is_task_arithmetic_or_ties_without_trimming(groups: list[Group]) -> None:
    ours = dict(merge_groups(METHODS["della_linear"], groups, density=1.0, scaling=0.4))
    for name, expected in merge_groups(METHODS["task_arithmetic"], groups):
        torch.testing.assert_close(ours[name], expected)

    ours = dict(merge_groups(METHODS["della"], groups, density=1.0))
    for name, expected in merge_groups(METHODS["ties"], groups, density=1.0, variant="mergekit", scope="tensor"):
        torch.testing.assert_close(ours[name], expected)


def test_a_gradient_that_goes_beyond_them_is_told_before_anything_is_read(family: Family) -> None:
    base, experts = family(2)
    recipe = Recipe("della", base, tuple(experts), values={"density": [0.5, 0.98]})

    [problem] = check(recipe).problems

    assert problem.startswith("`model.layers.1.mlp.up_proj.weight`: Epsilon ε is 0.05 and density ρ 0.98, but ρ - ε")


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.5), (0.9, 0.15), (0.04, 0.05)])
def test_chances_beyond_0_and_1_are_refused(density: float, epsilon: float) -> None:
    with pytest.raises(MergeError) as caught:
        merged(density=density, epsilon=epsilon)

    assert str(caught.value) == (
        f"Epsilon ε is {epsilon:g} and density ρ {density:g}, but ρ - ε and ρ + ε must lie between 0 and 1. "
        "Lower epsilon, or bring the density nearer to 0.5."
    )
