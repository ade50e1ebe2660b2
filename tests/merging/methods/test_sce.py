"""SCE, by hand, and its edges."""

from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from merging.engine import merge_groups
from merging.groups import Groups
from merging.method import METHODS, Group
from merging.methods.frobenius import norm_weights
from merging.methods.sce import survey
from tests.strategies import models

TAU = torch.tensor([[1.0, 3.0, -2.0, 0.0], [1.0, -1.0, -4.0, 2.0]])
GROUP = Group("w", torch.ones(4), 1 + TAU)


def merged(group: Group = GROUP, **values: Any) -> Tensor:
    return dict(merge_groups(METHODS["sce"], [group], **values))["w"]


def test_what_goes_with_the_majority_is_averaged_by_mean_squares(both_paths: str) -> None:
    # The mean squares are 14 / 4 and 22 / 4, so the weights 14 / 36 and 22 / 36.
    expected = 1 + torch.tensor([1.0, 3.0, (-2 * 14 - 4 * 22) / 36, 2.0])

    torch.testing.assert_close(merged(), expected)


def test_only_the_entries_that_vary_most_are_selected(both_paths: str) -> None:
    # The variances are 0, 4, 1 and 1: of three that are not 0, a half is one, and two thirds are two, with a tie.
    torch.testing.assert_close(merged(select_topk=0.5), torch.tensor([1.0, 4.0, 1.0, 1.0]))
    weights = torch.tensor([13.0, 21.0]) / 34
    third = -(2 * weights[0] + 4 * weights[1])
    torch.testing.assert_close(merged(select_topk=0.7), torch.tensor([1.0, 4.0, float(1 + third), 3.0]))


def test_a_share_of_less_than_one_entry_selects_none(both_paths: str) -> None:
    assert torch.equal(merged(select_topk=0.3), GROUP.base)
    assert torch.equal(merged(select_topk=0.0), GROUP.base)


def test_a_draw_is_positive(both_paths: str) -> None:
    draw = Group("w", torch.zeros(2), torch.tensor([[2.0, 1.0], [-2.0, 1.0]]))

    assert merged(draw).tolist() == [2.0, 1.0]


def test_small_changes_are_weighed_alike(both_paths: str) -> None:
    # Mean squares of 1e-10 and 4e-10 are below the limit of the released rule.
    small = Group("w", torch.zeros(2), torch.tensor([[1e-5, 1e-5], [2e-5, 2e-5]]))

    torch.testing.assert_close(merged(small), torch.full((2,), 1.5e-5))


def test_one_expert_does_not_vary(both_paths: str) -> None:
    alone = Group("w", GROUP.base, GROUP.experts[:1])

    assert torch.equal(merged(alone), alone.experts[0])
    assert torch.equal(merged(alone, select_topk=0.9), alone.base)


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_the_scope_is_a_tensor_or_the_model(scope: str, both_paths: str) -> None:
    groups = [GROUP, Group("v", torch.zeros(4), 100 * TAU)]

    found = dict(merge_groups(METHODS["sce"], groups, select_topk=0.5, scope=scope))

    # Of six entries that vary, the three of the second tensor are a half.
    torch.testing.assert_close(found["w"], torch.tensor([1.0, 4.0 if scope == "tensor" else 1.0, 1.0, 1.0]))
    assert int((found["v"] != 0).sum()) == (1 if scope == "tensor" else 3)


@given(groups=models())
def test_its_weights_are_those_of_from_at_an_exponent_of_2(groups: list[Group]) -> None:
    for group in groups:
        norms = (group.experts - group.base).double().reshape(len(group.experts), -1).norm(dim=1)
        if norms.square().sum() / group.size < 1e-6:
            continue

        found = survey(Groups.of([group.cut(0, group.size)])).weight

        torch.testing.assert_close(found, norm_weights(norms, 2.0).float(), rtol=1e-5, atol=1e-7)
