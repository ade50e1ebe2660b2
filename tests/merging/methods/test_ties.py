"""TIES-Merging, by hand, and at the edges that the paper leaves open."""

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group
from tests.strategies import models


def tau(*rows: list[float], name: str = "w") -> Group:
    """Experts of a base model of zeros, so that the experts are the task vectors and the result is the step."""
    return Group(name, torch.zeros(len(rows[0])), torch.tensor(rows))


def merged(*groups: Group, **values: object) -> list[list[float]]:
    settings = {"density": 1.0, "scaling": 1.0} | values
    return [tensor.tolist() for _, tensor in merge_groups(METHODS["ties"], list(groups), **settings)]


def test_trimming_looks_at_the_whole_model() -> None:
    # At density 0.5 the released code keeps 4 of 6 entries: all of `a`, and only the last entry of `b`.
    a = tau([1.0, -2.0, 0.1], [3.0, 1.0, 0.2], name="a")
    b = tau([0.01, 0.02, 0.03], [0.01, -0.02, 0.03], name="b")

    found = dict(merge_groups(METHODS["ties"], [a, b], density=0.5, scaling=1.0))

    torch.testing.assert_close(found["a"], torch.tensor([2.0, -2.0, 0.15]))
    torch.testing.assert_close(found["b"], torch.tensor([0.0, 0.0, 0.03]))


def test_trimming_can_look_at_each_tensor() -> None:
    a, b = tau([1.0, -2.0, 3.0], name="a"), tau([0.1, 0.3, 0.2], name="b")

    found = merged(a, b, density=0.34, scope="tensor")  # one of three, and one more

    assert found == [[0.0, -2.0, 3.0], [0.0, pytest.approx(0.3), pytest.approx(0.2)]]


def test_the_step_starts_at_the_base_and_is_scaled() -> None:
    group = Group("w", torch.tensor([10.0, 20.0]), torch.tensor([[12.0, 20.0], [14.0, 16.0]]))

    assert merged(group, scaling=0.5) == [[11.5, 18.0]]


def test_one_more_entry_is_kept_than_the_paper_says() -> None:
    assert merged(tau([1.0, 2.0, 3.0, 4.0, 5.0]), density=0.4) == [[0.0, 0.0, 3.0, 4.0, 5.0]]


def test_entries_that_tie_with_the_threshold_all_stay() -> None:
    assert merged(tau([1.0, -2.0, 2.0, 2.0, 5.0]), density=0.2) == [[0.0, -2.0, 2.0, 2.0, 5.0]]


def test_at_density_one_nothing_is_trimmed() -> None:
    assert merged(tau([1.0, -2.0, 1e-30])) == [[1.0, -2.0, pytest.approx(1e-30)]]


def test_the_largest_entry_and_its_ties_stay_at_the_smallest_density() -> None:
    assert merged(tau([1.0, -3.0, 2.0, 3.0]), density=0.01) == [[0.0, -3.0, 0.0, 3.0]]


def test_where_most_entries_are_zero_nothing_else_is_trimmed() -> None:
    assert merged(tau([0.0, 0.0, 0.0, 0.0, 0.1, -3.0, 0.0, 0.0, 0.0, 0.0]), density=0.2) == [
        [0.0, 0.0, 0.0, 0.0, pytest.approx(0.1), -3.0, 0.0, 0.0, 0.0, 0.0]
    ]


def test_an_entry_whose_sum_is_zero_takes_the_sign_of_the_majority() -> None:
    cancelling = tau([1.0, 2.0, 3.0], [-1.0, 2.0, 3.0])

    assert merged(cancelling) == [[1.0, 2.0, 3.0]]
    assert merged(cancelling, merge="sum") == [[1.0, 4.0, 6.0]]
    assert merged(cancelling, merge="max") == [[1.0, 2.0, 3.0]]


def test_a_negative_majority_counts_as_well() -> None:
    assert merged(tau([1.0, -2.0, -3.0], [-5.0, -2.0, -3.0], [4.0, 0.0, 0.0])) == [[-5.0, -2.0, -3.0]]


def test_the_majority_is_that_of_the_whole_model_or_of_each_tensor() -> None:
    up, draw = tau([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], name="up"), tau([1.0, -7.0], [-1.0, -7.0], name="draw")

    assert merged(up, draw)[1] == [1.0, -7.0]
    assert merged(up, draw, scope="tensor")[1] == [-1.0, -7.0]


def test_when_the_majority_is_a_draw_the_negative_side_counts() -> None:
    balanced = tau([1.0, 2.0, -2.0], [-1.0, 2.0, -2.0])

    assert merged(balanced) == [[-1.0, 2.0, -2.0]]
    assert merged(balanced, merge="sum") == [[-1.0, 4.0, -4.0]]
    assert merged(balanced, merge="max") == [[0.0, 2.0, -2.0]]


def test_the_majority_counts_entries_and_not_their_size() -> None:
    assert merged(tau([1.0, -9.0, 1.0, 1.0], [-1.0, -9.0, 1.0, 1.0])) == [[1.0, -9.0, 1.0, 1.0]]


def test_experts_that_disagree_with_the_elected_sign_are_left_out() -> None:
    disputed = tau([3.0, -1.0], [-1.0, -2.0], [1.0, 6.0])

    assert merged(disputed) == [[2.0, 6.0]]
    assert merged(disputed, merge="sum") == [[4.0, 6.0]]
    assert merged(disputed, merge="max") == [[3.0, 6.0]]


def test_an_expert_that_did_not_move_is_not_counted() -> None:
    assert merged(tau([2.0, -4.0], [0.0, 0.0])) == [[2.0, -4.0]]


def test_one_expert_keeps_its_trimmed_task_vector() -> None:
    alone = tau([1.0, -4.0, 3.0, 0.5])

    assert merged(alone, density=0.25, scaling=2.0) == [[0.0, -8.0, 6.0, 0.0]]


@pytest.mark.parametrize("sign", ["mass", "normfrac", "normmass"])
@pytest.mark.parametrize("merge", ["mean", "sum", "max"])
def test_nothing_moves_where_no_expert_did(sign: str, merge: str) -> None:
    assert merged(tau([0.0, 0.0], [0.0, 0.0]), sign=sign, merge=merge) == [[0.0, 0.0]]


def test_the_sign_rules_elect_by_mass_by_share_and_by_the_sum_of_shares() -> None:
    # Shares of the squared norms at the first entry: 0.5 against 0.3 and 0.3; masses: 1 against 0.3 and 0.3.
    small = math.sqrt(0.3**2 / 0.3 - 0.3**2)
    disputed = tau([-1.0, 1.0], [0.3, small], [0.3, small])

    assert merged(disputed, sign="mass")[0][0] == -1.0
    assert merged(disputed, sign="normfrac")[0][0] == -1.0
    assert merged(disputed, sign="normmass")[0][0] == pytest.approx(0.3)


def test_a_small_expert_can_win_by_share_where_it_loses_by_mass() -> None:
    disputed = tau([3.0, 4.0], [-1.0, 0.0])

    assert merged(disputed, sign="mass") == [[3.0, 4.0]]
    assert merged(disputed, sign="normfrac") == [[-1.0, 4.0]]
    assert merged(disputed, sign="normmass") == [[-1.0, 4.0]]


def test_at_equal_shares_the_first_expert_decides() -> None:
    assert merged(tau([-1.0, 1.0], [1.0, 1.0]), sign="normfrac") == [[-1.0, 1.0]]
    assert merged(tau([1.0, 1.0], [-1.0, 1.0]), sign="normfrac") == [[1.0, 1.0]]


@pytest.mark.parametrize("sign", ["normfrac", "normmass"])
def test_an_expert_that_did_not_move_has_no_vote(sign: str) -> None:
    assert merged(tau([0.0, 0.0], [-1.0, 2.0]), sign=sign) == [[-1.0, 2.0]]


def test_shares_are_those_of_what_trimming_left() -> None:
    # Untrimmed, the first expert's share of its first entry is 9 of 25; trimmed it is all, and a tie goes to it.
    disputed = tau([3.0, 2.9, 2.75], [-1.0, 0.0, 0.0])

    assert merged(disputed, sign="normfrac", density=0.01)[0][0] == 3.0
    assert merged(disputed, sign="normfrac", density=1.0)[0][0] == -1.0


def test_weights_count_in_the_vote_and_in_the_mean() -> None:
    assert merged(tau([2.0], [4.0]), weight=[1.0, 3.0]) == [[3.5]]
    assert merged(tau([2.0], [-1.0]), weight=[1.0, 3.0]) == [[-1.0]]


def test_a_common_weight_changes_nothing_in_the_mean_and_lengthens_the_sum() -> None:
    disputed = tau([3.0, -1.0], [-1.0, -2.0])

    assert merged(disputed, weight=[2.0, 2.0]) == merged(disputed)
    assert merged(disputed, weight=[2.0, 2.0], merge="sum") == [[6.0, -6.0]]


def test_weights_of_zero_leave_the_base_model() -> None:
    assert merged(tau([2.0, 1.0], [4.0, 1.0]), weight=[0.0, 0.0]) == [[0.0, 0.0]]


def test_weights_that_cancel_but_for_rounding_do_not_blow_an_entry_up() -> None:
    assert merged(tau([3.0], [1.0], [-1.0]), weight=[0.85, 0.05, -0.9]) == [[pytest.approx(3.5)]]


@given(groups=models())
def test_without_conflict_and_trimming_it_averages_the_entries_that_moved(groups: list[Group]) -> None:
    agreeing = [Group(g.name, torch.zeros_like(g.base), g.experts.abs()) for g in groups]

    found = dict(merge_groups(METHODS["ties"], agreeing, density=1.0, scaling=1.0))

    for group in agreeing:
        moved = (group.experts != 0).sum(0).clamp(min=1)
        torch.testing.assert_close(found[group.name], group.experts.sum(0) / moved)


@given(groups=models(least=1, most=1))
def test_one_expert_untrimmed_is_that_expert(groups: list[Group]) -> None:
    found = dict(merge_groups(METHODS["ties"], groups, density=1.0, scaling=1.0))

    for group in groups:
        torch.testing.assert_close(found[group.name], group.experts[0])


def of_sign(result: Tensor, taus: Tensor) -> Tensor:
    """Whether each entry lies between zero and the largest task vector's on its side."""
    largest = torch.where(result > 0, taus.clamp(min=0).amax(0), -taus.clamp(max=0).amin(0))
    return result.abs() <= largest * (1 + 1e-6)


@given(groups=models())
def test_the_mean_never_leaves_the_range_of_the_experts(groups: list[Group]) -> None:
    from_zero = [Group(g.name, torch.zeros_like(g.base), g.experts) for g in groups]

    found = dict(merge_groups(METHODS["ties"], from_zero, density=0.5, scaling=1.0))

    assert all(of_sign(found[group.name], group.experts).all() for group in from_zero)


def test_a_negative_weight_turns_an_expert_round_before_it_votes() -> None:
    # By hand: the weighted task vectors are 1 and -3, so the negative side wins, with -3 over the weight -1.
    assert merged(tau([1.0], [3.0]), weight=[1.0, -1.0], density=1.0) == [[3.0]]
    assert merged(tau([2.0]), weight=[-1.0], density=1.0) == [[2.0]]
    assert merged(tau([2.0]), weight=[-1.0], density=1.0, merge="sum") == [[-2.0]]


@pytest.mark.parametrize("sign", ["mass", "normfrac", "normmass"])
def test_an_expert_of_weight_zero_has_no_vote(sign: str) -> None:
    assert merged(tau([1.0, 5.0], [-1.0, 0.0]), weight=[1.0, 0.0], density=1.0, sign=sign) == [[1.0, 5.0]]
