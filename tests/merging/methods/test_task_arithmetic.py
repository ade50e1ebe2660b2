"""Task arithmetic, by hand, and what it is when it is something else."""

import pytest
import torch
from hypothesis import given
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group
from tests.strategies import models

GROUP = Group("w", torch.tensor([1.0, 1.0]), torch.tensor([[2.0, 1.0], [1.0, -1.0]]))


def merged(group: Group = GROUP, **values: object) -> Tensor:
    return dict(merge_groups(METHODS["task_arithmetic"], [group], **values))["w"]


def test_what_the_experts_learned_is_added_and_shortened() -> None:
    assert merged(scaling=0.5).tolist() == [1.5, 0.0]


def test_the_default_scaling_is_the_one_suggested_without_validation_data() -> None:
    torch.testing.assert_close(merged(), torch.tensor([1.4, 0.2]))


def test_a_negative_weight_forgets() -> None:
    assert merged(weight=[-1.0, 0.0], scaling=1.0).tolist() == [0.0, 1.0]


def test_a_scaling_of_zero_is_the_base_model() -> None:
    assert torch.equal(merged(scaling=0.0), GROUP.base)


def test_normalising_divides_by_the_sum_of_the_weights() -> None:
    assert merged(weight=[3.0, 1.0], scaling=1.0, normalize=True).tolist() == [1.75, 0.5]


def test_weights_that_cancel_are_left_as_they_are() -> None:
    assert merged(weight=[1.0, -1.0], scaling=1.0, normalize=True).tolist() == [2.0, 3.0]


def test_weights_that_cancel_but_for_rounding_are_left_as_they_are_too() -> None:
    three = Group("w", torch.zeros(1), torch.tensor([[3.0], [1.0], [1.0]]))

    found = merged(three, weight=[0.85, 0.05, -0.9], scaling=1.0, normalize=True)

    torch.testing.assert_close(found, torch.tensor([1.7]))


def test_one_expert_at_full_length_is_that_expert() -> None:
    alone = Group("w", GROUP.base, GROUP.experts[:1])

    assert torch.equal(merged(alone, scaling=1.0), GROUP.experts[0])


@pytest.mark.parametrize("normalize", [False, True])
@given(groups=models())
def test_at_one_over_n_it_is_the_average(normalize: bool, groups: list[Group]) -> None:
    scaling = 1.0 if normalize else 1 / len(groups[0].experts)

    ours = dict(merge_groups(METHODS["task_arithmetic"], groups, scaling=scaling, normalize=normalize))

    for name, average in merge_groups(METHODS["linear"], groups):
        torch.testing.assert_close(ours[name], average, rtol=1e-5, atol=1e-5)
