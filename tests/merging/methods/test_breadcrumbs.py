"""Model Breadcrumbs, by hand, and its edges."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group
from tests.strategies import models

TAU = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0, 9.0, -10.0]])
GROUP = Group("w", torch.zeros(10), TAU)


def merged(method: str = "breadcrumbs", group: Group = GROUP, **values: Any) -> Tensor:
    return dict(merge_groups(METHODS[method], [group], **values))["w"]


def kept(group: Group = GROUP, **values: Any) -> list[float]:
    """The magnitudes that are left of the only expert, ascending."""
    found = merged(group=group, **values).abs().flatten()
    return sorted(found[found != 0].tolist())


@pytest.mark.parametrize(
    ("density", "gamma", "expected"),
    [
        (0.5, 0.2, [4, 5, 6, 7, 8]),  # the two largest and the three smallest go
        (0.5, 0.0, [6, 7, 8, 9, 10]),
        (0.8, 0.5, [1, 2, 3, 4, 5, 6, 7, 8]),  # the upper cut is shortened so that eight remain
        (1.0, 0.5, list(range(1, 11))),
        (0.59, 0.19, [5, 6, 7, 8, 9]),  # both shares are rounded down
        (0.05, 0.1, [9]),  # one stays where none would
        (0.9, 0.01, list(range(2, 11))),  # nothing to cut above; mergekit drops the tensor
    ],
)
def test_the_largest_and_the_smallest_are_dropped(
    density: float, gamma: float, expected: list[float], both_paths: str
) -> None:
    assert kept(density=density, gamma=gamma) == expected


def test_tensors_are_ranked_apart_or_together() -> None:
    groups = [Group("a", torch.zeros(10), TAU), Group("b", torch.zeros(10), 100 * TAU)]
    values = {"density": 0.4, "gamma": 0.1}

    apart = dict(merge_groups(METHODS["breadcrumbs"], groups, **values))
    whole = dict(merge_groups(METHODS["breadcrumbs"], groups, **values, scope="model"))

    assert [int((apart[name] != 0).sum()) for name in "ab"] == [4, 4]
    assert apart["b"].abs().amax() == 900
    assert [int((whole[name] != 0).sum()) for name in "ab"] == [0, 8]
    assert whole["b"].abs().amax() == 800


def test_what_is_left_is_weighed_and_added() -> None:
    two = Group("w", torch.ones(10), 1 + torch.cat([TAU, TAU.flip(1)]))
    values = {"density": 0.2, "gamma": 0.1, "weight": [1.0, 0.5], "scaling": 2.0}

    # Magnitudes 8 and 9 are left of both.
    expected = torch.ones(10)
    expected[7], expected[8], expected[2], expected[1] = 1 - 16, 1 + 18, 1 - 8, 1 + 9
    torch.testing.assert_close(merged(group=two, **values), expected)
    torch.testing.assert_close(merged(group=two, **values, normalize=True), 1 + (expected - 1) / 1.5)


def test_signs_are_elected_among_what_is_left_and_what_agrees_is_added() -> None:
    two = Group("w", torch.zeros(4), torch.tensor([[1.0, 5.0, 3.0, 9.0], [1.0, -2.0, 3.0, 4.0]]))
    values = {"density": 0.5, "gamma": 0.25}

    # 3 and 5 are left of the first, -2 and 3 of the second.
    assert merged("breadcrumbs_ties", two, **values).tolist() == [0.0, 5.0, 6.0, 0.0]
    assert merged("breadcrumbs_ties", two, **values, merge="mean").tolist() == [0.0, 5.0, 3.0, 0.0]


def test_l1_restores_the_sum_of_magnitudes(both_paths: str) -> None:
    found = merged(density=0.5, gamma=0.2, rescale="l1")

    torch.testing.assert_close(found, merged(density=0.5, gamma=0.2) * (55 / 30))


def test_each_expert_may_have_shares_of_its_own() -> None:
    two = Group("w", torch.zeros(10), torch.cat([TAU, TAU]))

    found = merged(group=two, density=[0.2, 0.3], gamma=[0.0, 0.3], weight=[1.0, 10.0])

    assert found.tolist() == [0.0, 0.0, 0.0, 0.0, 50.0, -60.0, 70.0, 0.0, 9.0, -10.0]


@given(groups=models(), gamma=st.floats(0, 1))
def test_at_full_density_it_is_task_arithmetic(groups: list[Group], gamma: float) -> None:
    ours = dict(merge_groups(METHODS["breadcrumbs"], groups, density=1.0, gamma=gamma))

    for name, expected in merge_groups(METHODS["task_arithmetic"], groups, scaling=1.0):
        torch.testing.assert_close(ours[name], expected)


@given(groups=models(), density=st.floats(0.01, 1))
def test_without_an_upper_cut_it_is_ties_trimming(groups: list[Group], density: float) -> None:
    ours = dict(merge_groups(METHODS["breadcrumbs_ties"], groups, density=density, gamma=0.0, merge="mean"))

    ties = merge_groups(METHODS["ties"], groups, density=density, variant="mergekit", scope="tensor")
    for name, expected in ties:
        torch.testing.assert_close(ours[name], expected)
