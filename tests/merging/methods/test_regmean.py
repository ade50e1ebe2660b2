"""RegMean against the regression that it solves, and where it is an average."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group

REGMEAN = METHODS["regmean"]


class Known:
    """Inner products of inputs in memory, a matrix for each expert; none for what is no linear layer's."""

    def __init__(self, *products: Tensor) -> None:
        self.products = products

    def inputs(self) -> tuple[Callable[[], Tensor], ...]:
        return tuple(lambda one=one: one for one in self.products)  # type: ignore[misc]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def merged(base: Tensor, experts: Tensor, known: Known, **values: float) -> Tensor:
    group = Group("layers.0.w", base, experts)
    group.collected = known
    [(_, found)] = merge_groups(REGMEAN, [group], **values)
    return found


def test_outputs_are_as_near_as_can_be_to_those_of_the_experts() -> None:
    base, *experts = drawn(3, 4, 6)
    inputs = drawn(2, 50, 6)

    found = merged(base, torch.stack(experts), Known(*(x.T @ x for x in inputs)), alpha=1.0)

    wanted = torch.cat([x @ w.T for x, w in zip(inputs, experts, strict=True)])
    expected = torch.linalg.lstsq(inputs.flatten(0, 1).double(), wanted.double()).solution.T
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_at_0_columns_are_averaged_by_the_squares_of_their_inputs() -> None:
    experts = torch.tensor([[[1.0, 2.0]], [[5.0, 10.0]]])
    first, second = torch.tensor([[3.0, 9.0], [9.0, 1.0]]), torch.tensor([[1.0, 9.0], [9.0, 1.0]])

    found = merged(torch.zeros(1, 2), experts, Known(first, second), alpha=0.0)

    torch.testing.assert_close(found, torch.tensor([[(3 * 1 + 5) / 4, 6.0]]))


def test_a_share_of_the_off_diagonal_is_kept() -> None:
    base, *experts = drawn(3, 4, 6)
    products = [x.T @ x for x in drawn(2, 50, 6)]
    shrunk = [0.3 * g + 0.7 * torch.diag(g.diagonal()) for g in products]
    expected = sum(w @ g for w, g in zip(experts, shrunk, strict=True)) @ torch.linalg.inv(sum(shrunk))

    found = merged(base, torch.stack(experts), Known(*products), alpha=0.3)

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
def test_columns_whose_inputs_were_never_there_stay_near_the_base(alpha: float) -> None:
    base, *experts = drawn(3, 4, 6)
    inputs = drawn(2, 50, 6)
    inputs[..., 2] = 0

    found = merged(base, torch.stack(experts), Known(*(x.T @ x for x in inputs)), alpha=alpha)

    torch.testing.assert_close(found[:, 2], base[:, 2], rtol=1e-4, atol=1e-4)
    assert (found - base)[:, [0, 1, 3, 4, 5]].abs().min() > 1e-3


@pytest.mark.parametrize("known", [Known(), Known(torch.eye(6), torch.eye(6)), None])
def test_what_is_no_linear_layers_and_equal_inputs_are_averaged(known: Known | None) -> None:
    base, *experts = drawn(3, 4, 6)
    group = Group("layers.0.w", base, torch.stack(experts))
    group.collected = known

    [(_, found)] = merge_groups(REGMEAN, [group])

    torch.testing.assert_close(found, torch.stack(experts).mean(0))
