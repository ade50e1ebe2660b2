"""Fisher merging by hand: entry by entry, with a floor, and with each expert's information at one length."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group

FISHER = METHODS["fisher"]


@dataclass(frozen=True)
class Known:
    """Fisher information in memory, (experts, entries)."""

    values: Tensor

    def information(self, start: int, stop: int) -> Tensor:
        return self.values[:, start:stop]


def merged(information: list[list[float]], experts: list[list[float]], **values: object) -> Tensor:
    group = Group("w", torch.tensor([1.0, 1.0]), torch.tensor(experts))
    group.collected = Known(torch.tensor(information))
    [(_, found)] = merge_groups(FISHER, [group], **values)
    return found


def test_entries_count_by_their_information() -> None:
    found = merged([[3.0, 1.0], [1.0, 0.0]], [[4.0, 5.0], [8.0, 9.0]])

    torch.testing.assert_close(found, torch.tensor([(3 * 4 + 8) / 4, 5.0]), rtol=1e-5, atol=1e-5)


def test_weights_multiply_the_information() -> None:
    found = merged([[3.0, 1.0], [1.0, 1.0]], [[4.0, 5.0], [8.0, 9.0]], weight=[1.0, 3.0])

    torch.testing.assert_close(found, torch.tensor([6.0, 8.0]), rtol=1e-5, atol=1e-5)


def test_where_no_expert_has_any_they_are_averaged() -> None:
    found = merged([[0.0, 1.0], [0.0, 1e-6]], [[4.0, 5.0], [8.0, 9.0]])

    # In the second entry: 1 + 1e-6 and 1e-6 + 1e-6.
    torch.testing.assert_close(found, torch.tensor([6.0, 5.0 + 4 * 2e-6]), rtol=1e-6, atol=1e-6)


def test_information_may_be_brought_to_one_length() -> None:
    # Lengths 5 and 10: 0.6 and 0.8 of the first, 0.8 and 0.6 of the second.
    found = merged([[3.0, 4.0], [8.0, 6.0]], [[4.0, 5.0], [8.0, 9.0]], normalize=True)

    torch.testing.assert_close(found, torch.tensor([(0.6 * 4 + 0.8 * 8) / 1.4, (0.8 * 5 + 0.6 * 9) / 1.4]), rtol=1e-5,
                               atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("normalize", [True, False])
def test_without_information_it_is_the_mean(normalize: bool) -> None:
    group = Group("w", torch.tensor([1.0, 1.0]), torch.tensor([[4.0, 5.0], [8.0, 9.0]]))

    [(_, found)] = merge_groups(FISHER, [group], normalize=normalize)

    torch.testing.assert_close(found, torch.tensor([6.0, 7.0]))
