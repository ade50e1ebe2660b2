"""The Karcher mean by hand, and by the same steps on the vectors themselves in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group

KARCHER = METHODS["karcher"]


def merged(*experts: Tensor, base: Tensor | None = None, **values: float) -> Tensor:
    [(_, found)] = merge_groups(KARCHER, [Group("w", base, torch.stack(experts))], **values)
    return found


def test_the_mean_of_two_is_half_way_on_the_arc_at_their_mean_length(both_paths: str) -> None:
    found = merged(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0]))

    torch.testing.assert_close(found, 3 * torch.full((2,), 0.5**0.5))


def test_the_base_does_not_count(both_paths: str) -> None:
    one, other = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])

    assert torch.equal(merged(one, other, base=torch.tensor([7.0, 8.0])), merged(one, other))


def test_on_a_circle_angles_are_averaged(both_paths: str) -> None:
    angles = [0.1, 0.4, 1.6]

    found = merged(*(torch.tensor([math.cos(angle), math.sin(angle)]) for angle in angles), max_iter=100, tol=0.0)

    torch.testing.assert_close(found, torch.tensor([math.cos(0.7), math.sin(0.7)]))


@pytest.mark.parametrize(("experts", "near"), [(2, 1.0), (3, 1.0), (5, 1.0), (3, 1e-3), (4, 1e-4)])
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_the_numbers_before_the_vectors_are_enough(experts: int, near: float, steps: int) -> None:
    source = torch.Generator().manual_seed(experts)
    base = torch.randn(40, generator=source)
    vectors = base + near * torch.randn(experts, 40, generator=source)

    found = merged(*vectors, max_iter=float(steps), tol=1e-9)

    torch.testing.assert_close(found.double(), climbed(vectors.double(), steps), rtol=1e-6, atol=1e-7)


def climbed(vectors: Tensor, steps: int) -> Tensor:
    """The definition: from the mean of the directions along the mean of the ways to each of them."""
    norms = vectors.norm(dim=1)
    units = vectors / norms[:, None]
    point = units.mean(0) / units.mean(0).norm()
    for _ in range(steps):
        cosines = (units @ point).clamp(-1, 1)
        angles = cosines.acos()
        scale = torch.where(angles > 1e-9, angles / angles.sin(), 0.0)
        step = (scale[:, None] * (units - cosines[:, None] * point)).mean(0)
        if step.norm() < 1e-9:
            break
        point = point * step.norm().cos() + step / step.norm() * step.norm().sin()
        point /= point.norm()
    return point * norms.mean()


def test_zeros_count_for_the_length_alone(both_paths: str) -> None:
    found = merged(torch.tensor([3.0, 0.0]), torch.zeros(2), torch.tensor([0.0, 3.0]))

    torch.testing.assert_close(found, 2 * torch.full((2,), 0.5**0.5))
    assert torch.equal(merged(torch.zeros(2), torch.zeros(2)), torch.zeros(2))


def test_opposite_experts_are_averaged_as_they_are(both_paths: str) -> None:
    found = merged(torch.tensor([3.0, 0.0]), torch.tensor([-1.0, 0.0]))

    torch.testing.assert_close(found, torch.tensor([1.0, 0.0]))
