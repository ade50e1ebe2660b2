"""NearSwap, by hand, and its bound."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group
from tests.strategies import models

GROUP = Group("w", torch.ones(5), torch.tensor([[3.0, 0.0, 1.25, 1.0, 0.5]]))


def merged(group: Group = GROUP, **values: object) -> Tensor:
    return dict(merge_groups(METHODS["nearswap"], [group], **values))["w"]


def test_every_entry_moves_by_the_reach_or_arrives(both_paths: str) -> None:
    assert merged(t=0.5).tolist() == [1.5, 0.5, 1.25, 1.0, 0.5]
    assert merged(t=0.0).tolist() == [1.0] * 5
    assert merged(t=100.0).tolist() == GROUP.experts[0].tolist()


@given(groups=models(most=1), t=st.floats(0, 2))
def test_no_entry_moves_further_than_the_reach_or_past_the_expert(groups: list[Group], t: float) -> None:
    for name, found in merge_groups(METHODS["nearswap"], groups, t=t):
        [group] = [group for group in groups if group.name == name]
        tau, moved = group.experts[0] - group.base, found - group.base

        assert (moved.abs() <= tau.abs().clamp(max=t) * (1 + 1e-5) + 1e-6).all()
        assert (moved * tau >= -1e-6).all()
