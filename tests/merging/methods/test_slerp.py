"""SLERP and NuSLERP by hand: quarter turns, straight lines, and lines of a matrix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group

SLERP, NUSLERP = METHODS["slerp"], METHODS["nuslerp"]


def slerp(base: Tensor, expert: Tensor, t: float) -> Tensor:
    [(_, found)] = merge_groups(SLERP, [Group("w", base, expert[None])], t=t)
    return found


def nuslerp(base: Tensor | None, one: Tensor, other: Tensor, **values: object) -> Tensor:
    [(_, found)] = merge_groups(NUSLERP, [Group("w", base, torch.stack([one, other]))], **values)
    return found


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_a_quarter_turn(t: float, both_paths: str) -> None:
    found = slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0]), t)

    angle = t * math.pi / 2
    torch.testing.assert_close(found, torch.tensor([2 * math.cos(angle), 3 * math.sin(angle)]), atol=1e-6, rtol=1e-6)


def test_models_that_point_nearly_the_same_way_have_a_straight_line_between_them(both_paths: str) -> None:
    base = torch.tensor([1.0, 0.0])
    near, far = (
        torch.tensor([math.cos(angle), math.sin(angle)]) for angle in (0.0316, 0.0317)
    )  # cosines .99950, .9995-

    torch.testing.assert_close(slerp(base, near, 0.5), (base + near) / 2, rtol=0, atol=1e-7)
    assert slerp(base, near, 0.5).norm() < 0.99988
    assert slerp(base, far, 0.5).norm() == pytest.approx(1.0, abs=1e-6)


def test_opposite_models_have_one_too(both_paths: str) -> None:
    base = torch.tensor([1.0, -2.0])

    torch.testing.assert_close(slerp(base, -3 * base, 0.25), 0.75 * base - 0.25 * 3 * base)


def test_a_tensor_of_zeros_has_no_direction(both_paths: str) -> None:
    # The cosine is 0 then: sin 45° of the other.
    found = slerp(torch.zeros(2), torch.tensor([1.0, 1.0]), 0.5)

    torch.testing.assert_close(found, torch.full((2,), math.sin(math.pi / 4)))


@pytest.mark.parametrize("based", [True, False])
def test_the_share_of_the_second_weight_is_the_place_on_the_way(based: bool, both_paths: str) -> None:
    base, one, other = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
    angle = math.pi / 2 * 0.25
    expected = torch.tensor([2 * math.cos(angle), 3 * math.sin(angle)])

    if based:
        found = nuslerp(base, base + one, base + other, weight=[3.0, 1.0]) - base
    else:
        found = nuslerp(None, one, other, weight=[3.0, 1.0])

    torch.testing.assert_close(found, expected)


def test_weights_that_cancel_stop_half_way(both_paths: str) -> None:
    found = nuslerp(None, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), weight=[1.0, -1.0])

    torch.testing.assert_close(found, torch.full((2,), 0.5**0.5))


def test_task_vectors_along_one_line_are_averaged(both_paths: str) -> None:
    tau = torch.tensor([1.0, -2.0, 0.5])

    for factor in (2.0, -1.0, 0.0):
        found = nuslerp(torch.zeros(3), tau, factor * tau, weight=[3.0, 1.0])

        # A vector of zeros has a right angle to any other.
        expected = math.cos(math.pi / 8) * tau if factor == 0 else 0.75 * tau + 0.25 * factor * tau
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("based", [True, False])
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (6,)])
def test_lines_are_merged_as_vectors_of_their_own(based: bool, rows: bool, shape: tuple[int, ...]) -> None:
    base, one, other = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    start = base if based else None

    found = nuslerp(start, one, other, nuslerp_flatten=False, nuslerp_row_wise=rows, weight=[1.0, 2.0])

    axis = 0 if rows else -1
    lines = [tensor.movedim(axis, -1).reshape(-1, shape[axis]) for tensor in (base, one, other)]
    for at, mine, his, line in zip(*lines, found.movedim(axis, -1).reshape(-1, shape[axis]), strict=True):
        torch.testing.assert_close(line, nuslerp(at if based else None, mine, his, weight=[1.0, 2.0]))
