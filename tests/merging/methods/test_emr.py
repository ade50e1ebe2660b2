"""EMR's unified task vector, by hand, and what it is when it is something else."""

import torch
from hypothesis import given
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group
from tests.strategies import models

TAU = torch.tensor([[2.0, 1.0, 3.0, 0.0, -1.0], [1.0, -3.0, -3.0, 0.0, -2.0], [-2.5, 1.0, 0.0, 0.0, 0.0]])
GROUP = Group("w", torch.ones(5), 1 + TAU)


def merged(group: Group = GROUP, **values: object) -> Tensor:
    return dict(merge_groups(METHODS["emr"], [group], **values))["w"]


def test_the_largest_change_of_the_elected_sign_is_taken(both_paths: str) -> None:
    # The sums are 0.5, -1, 0, 0 and -3; a sum of zero elects the negative sign.
    assert merged().tolist() == [3.0, -2.0, -2.0, 1.0, -1.0]
    assert merged(scaling=0.5).tolist() == [2.0, -0.5, -0.5, 1.0, 0.0]


@given(groups=models())
def test_where_no_election_is_a_draw_it_is_ties_largest_without_trimming(
    groups: list[Group],
) -> None:
    whole = [Group(g.name, g.base.round(), g.experts.round()) for g in groups]
    ties = dict(merge_groups(METHODS["ties"], whole, density=1.0, merge="max", scope="tensor"))

    for group in whole:
        [(_, found)] = merge_groups(METHODS["emr"], [group])

        decided = (group.experts - group.base).sum(0) != 0
        assert torch.equal(found[decided], ties[group.name][decided])


def test_one_expert_is_that_expert() -> None:
    assert torch.equal(merged(Group("w", GROUP.base, GROUP.experts[:1])), GROUP.experts[0])
