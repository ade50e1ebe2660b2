"""RAM, by hand, and what it is when it is something else."""

import pytest
import torch
from hypothesis import given
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group
from tests.strategies import models

TAU = torch.tensor([[2.0, 1.0, 3e-6, 0.0], [0.0, -4.0, 5e-6, 0.0], [2e-6, 0.0, -1.0, 0.0]])
GROUP = Group("w", torch.zeros(4), TAU)


def merged(group: Group = GROUP, **values: object) -> Tensor:
    return dict(merge_groups(METHODS["ram"], [group], **values))["w"]


def test_each_entry_is_averaged_over_the_experts_that_changed_it(both_paths: str) -> None:
    assert merged().tolist() == [2.0, -1.5, -1.0, 0.0]
    assert merged(epsilon=1.5).tolist() == [2.0, -4.0, 0.0, 0.0]
    assert merged(epsilon=0.0)[0].item() == pytest.approx(1.000001, rel=1e-7)  # of the first and the last


def test_a_change_of_just_the_limit_does_not_count(both_paths: str) -> None:
    assert merged(epsilon=1.0).tolist() == [2.0, -4.0, 0.0, 0.0]


@given(groups=models())
def test_where_all_experts_changed_all_it_is_the_average(groups: list[Group]) -> None:
    for group in groups:
        changed = ((group.experts - group.base) != 0).all(0)

        [(_, found)] = merge_groups(METHODS["ram"], [group], epsilon=0.0)

        [(_, average)] = merge_groups(METHODS["linear"], [group])
        torch.testing.assert_close(found[changed], average[changed], rtol=1e-5, atol=1e-5)
