"""Consensus task arithmetic, by hand, and what it is when it is something else."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group
from tests.strategies import models

# Used by: all; the first alone; the first two; nobody.
TAU = torch.tensor([[1.0, 10.0, 4.0, 0.0], [1.0, 1.0, 4.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
GROUP = Group("w", torch.ones(4), 1 + TAU)


def merged(group: Group = GROUP, **values: object) -> Tensor:
    return dict(merge_groups(METHODS["consensus_ta"], [group], **values))["w"]


def test_only_what_enough_tasks_use_is_added(both_paths: str) -> None:
    # At 0.4, a task uses an entry if its change is more than 0.4 of the others' together: 1 > 0.8, 1 < 4.4, 1 < 3.2.
    assert merged(scaling=1.0).tolist() == [4.0, 1.0, 10.0, 1.0]
    assert merged(scaling=1.0, threshold=3).tolist() == [4.0, 1.0, 1.0, 1.0]
    assert merged(scaling=1.0, threshold=1).tolist() == [4.0, 13.0, 10.0, 1.0]
    assert merged(scaling=1.0, threshold=4).tolist() == [1.0, 1.0, 1.0, 1.0]
    torch.testing.assert_close(merged(), torch.tensor([1.9, 1.0, 3.7, 1.0]))


def test_standing_out_is_strict(both_paths: str) -> None:
    # Each of two equal changes is just as large as the other.
    equal = Group("w", torch.zeros(1), torch.tensor([[2.0], [2.0]]))

    assert merged(equal, scaling=1.0, tall_lambda=1.0).tolist() == [0.0]
    assert merged(equal, scaling=1.0, tall_lambda=0.99).tolist() == [4.0]


@given(groups=models(), scaling=st.floats(0, 2))
def test_where_nobody_need_use_an_entry_it_is_task_arithmetic(groups: list[Group], scaling: float) -> None:
    ours = dict(merge_groups(METHODS["consensus_ta"], groups, threshold=0, scaling=scaling))

    for name, expected in merge_groups(METHODS["task_arithmetic"], groups, scaling=scaling):
        torch.testing.assert_close(ours[name], expected)


@given(groups=models())
def test_where_one_must_it_leaves_out_what_nobody_uses(groups: list[Group]) -> None:
    ours = dict(merge_groups(METHODS["consensus_ta"], groups, threshold=1, tall_lambda=0.2, scaling=1.0))

    arithmetic = dict(merge_groups(METHODS["task_arithmetic"], groups, scaling=1.0))
    for group in groups:
        tau = group.experts - group.base
        rest = torch.stack([tau.sum(0) - row for row in tau])
        used = (tau.abs() > 0.21 * rest.abs()).any(0)  # beyond all rounding
        torch.testing.assert_close(ours[group.name][used], arithmetic[group.name][used], rtol=1e-4, atol=1e-5)
