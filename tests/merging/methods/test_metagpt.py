"""MetaGPT by hand, and as the case of FroM that it is."""

import torch
from hypothesis import given

from merging.engine import merge_groups
from merging.method import METHODS, Group
from tests.strategies import models

METAGPT, FROM = METHODS["metagpt"], METHODS["from"]


def test_task_vectors_count_by_their_squares_over_the_whole_model() -> None:
    # Squares 9 + 16 = 25 and 0 + 75 = 75: a quarter of the first and three of the second.
    groups = [
        Group("v", torch.ones(1), torch.tensor([[4.0], [1.0]])),
        Group("w", torch.zeros(2), torch.tensor([[4.0, 0.0], [75**0.5, 0.0]])),
    ]

    found = dict(merge_groups(METAGPT, groups, scaling=2.0))

    torch.testing.assert_close(found["v"], torch.tensor([1 + 2 * 3.0 / 4]))
    torch.testing.assert_close(found["w"], torch.tensor([2 * (4 / 4 + 3 * 75**0.5 / 4), 0.0]))


@given(groups=models())
def test_it_is_from_with_exponent_2_and_one_norm_for_each_expert(groups: list[Group]) -> None:
    found = dict(merge_groups(METAGPT, groups))

    for name, expected in merge_groups(FROM, groups, k=2.0, scope="model"):
        assert torch.equal(found[name], expected)
