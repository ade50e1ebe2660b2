"""Linear merging, by hand."""

import pytest
import torch

from merging.engine import merge_groups
from merging.errors import MergeError
from merging.method import METHODS, Group

LINEAR = METHODS["linear"]
GROUP = Group("w", torch.tensor([100.0, 100.0]), torch.tensor([[1.0, 2.0], [3.0, -2.0]]))


def merged(group: Group = GROUP, **values: object) -> torch.Tensor:
    return dict(merge_groups(LINEAR, [group], **values))["w"]


def test_equal_weights_give_the_plain_average_of_the_experts() -> None:
    assert merged().tolist() == [2.0, 0.0]


def test_weights_count_in_proportion_to_their_sum() -> None:
    assert merged(weight=[1.0, 3.0]).tolist() == [2.5, -1.0]
    assert merged(weight=[0.5, 1.5]).tolist() == [2.5, -1.0]


def test_a_weight_may_be_negative() -> None:
    assert merged(weight=[2.0, -1.0]).tolist() == [-1.0, 6.0]


def test_a_weight_of_zero_leaves_an_expert_out() -> None:
    assert merged(weight=[0.0, 2.0]).tolist() == [3.0, -2.0]


def test_without_normalising_the_weighted_experts_are_added() -> None:
    assert merged(weight=[1.0, 2.0], normalize=False).tolist() == [7.0, -2.0]


def test_the_base_model_does_not_count() -> None:
    elsewhere = Group("w", torch.zeros(2), GROUP.experts)

    assert torch.equal(merged(elsewhere), merged())


@pytest.mark.parametrize("weight", [[1.0, -1.0], [0.0, 0.0]])
def test_weights_that_add_up_to_nothing_have_no_average(weight: list[float]) -> None:
    with pytest.raises(MergeError) as caught:
        merged(weight=weight)

    message = "The weights add up to 0 and have no average. Change one, or say `normalize: false`."
    assert str(caught.value) == message


def test_a_sum_that_is_nothing_but_rounding_has_no_average() -> None:
    three = Group("w", torch.zeros(1), torch.ones(3, 1))
    assert torch.tensor([0.85, 0.05, -0.9]).sum() != 0

    with pytest.raises(MergeError, match="add up to 0"):
        merged(three, weight=[0.85, 0.05, -0.9])


def test_small_weights_still_have_an_average() -> None:
    assert merged(weight=[1e-7, 1e-7]).tolist() == [2.0, 0.0]
