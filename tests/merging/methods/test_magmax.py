"""MagMax, by hand and against float64."""

import torch
from hypothesis import given
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group
from tests.strategies import models

GROUP = Group("w", torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([[2.0, 1.0, 3.0, 1.0], [-1.0, 0.5, -1.0, 1.0]]))


def merged(group: Group = GROUP, **values: object) -> Tensor:
    return dict(merge_groups(METHODS["magmax"], [group], **values))["w"]


def test_the_largest_change_of_each_entry_is_taken_and_the_first_of_equal_ones(both_paths: str) -> None:
    # The changes are 1 and -2; 0 and -0.5; 2 and -2; 0 and 0.
    assert merged().tolist() == [-1.0, 0.5, 3.0, 1.0]
    assert merged(scaling=0.5).tolist() == [0.0, 0.75, 2.0, 1.0]


@given(groups=models())
def test_it_is_the_change_that_float64_finds(groups: list[Group]) -> None:
    for group in groups:
        tau = group.experts.double() - group.base.double()
        winner = tau.abs().argmax(0, keepdim=True)
        expected = group.base + tau.gather(0, winner)[0]

        [(_, found)] = merge_groups(METHODS["magmax"], [group])

        # Changes that differ in float64 only may be the same in float32.
        other = tau.abs().amax(0) + group.base.abs()
        clear = (tau.abs().amax(0) - tau.abs()).le(1e-6 * other).sum(0) == 1
        torch.testing.assert_close(found[clear], expected[clear].float(), rtol=1e-6, atol=1e-6)


def test_one_expert_is_that_expert() -> None:
    assert torch.equal(merged(Group("w", GROUP.base, GROUP.experts[:1])), GROUP.experts[0])


def test_where_experts_move_apart_it_is_their_sum() -> None:
    # Each entry is changed by one expert at most: nothing is lost, as in task arithmetic.
    tau = torch.eye(4)[:3]
    apart = Group("w", GROUP.base, GROUP.base + tau)

    assert merged(apart).tolist() == [2.0, 2.0, 2.0, 1.0]
    assert torch.equal(merged(apart), dict(merge_groups(METHODS["task_arithmetic"], [apart], scaling=1.0))["w"])
