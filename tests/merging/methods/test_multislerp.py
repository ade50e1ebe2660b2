"""Multi-SLERP by hand and against its definition in float64, tangents and all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging.engine import merge_groups
from merging.errors import MergeError
from merging.method import METHODS, Group
from tests.strategies import models

MULTISLERP = METHODS["multislerp"]


def merged(base: Tensor | None, experts: Tensor, name: str = "w", **values: object) -> Tensor:
    [(_, found)] = merge_groups(MULTISLERP, [Group(name, base, experts)], **values)
    return found


def test_directions_and_lengths_are_averaged_apart(both_paths: str) -> None:
    # Directions (1, 0) and (0, 1) have their mean at 45°, lengths 1 and 3 theirs at 2.
    tau = torch.tensor([[1.0, 0.0], [0.0, 3.0]])

    found = merged(torch.ones(2), 1 + tau)

    torch.testing.assert_close(found, 1 + 2 * torch.full((2,), 0.5**0.5))


@given(groups=models(least=2), data=st.data())
def test_it_is_its_definition(groups: list[Group], data: st.DataObject) -> None:
    weight = torch.tensor(data.draw(st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=4, max_size=4)))
    for group in groups:
        some = weight[: len(group.experts)]
        expected = definition(group.experts.double().reshape(len(some), -1), (some / some.sum()).double())
        if expected is not None:
            found = merged(None, group.experts, weight=some).double().flatten()
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def definition(vectors: Tensor, weight: Tensor) -> Tensor | None:
    """The mean of the directions, the mean of the tangents there, and a step along it; None where they cancel."""
    norms = vectors.norm(dim=1)
    units = vectors / (norms + 1e-8)[:, None]
    mean = weight @ units
    if mean.norm() < 1e-3:
        return None
    mean /= mean.norm()
    tangent = weight @ (units - (units @ mean)[:, None] * mean)
    length = tangent.norm() + 1e-8
    return (mean * length.cos() + tangent * length.sin() / length) * (weight @ norms)


def test_two_opposite_experts_are_averaged(both_paths: str) -> None:
    tau = torch.tensor([1.0, 2.0])

    torch.testing.assert_close(merged(torch.ones(2), 1 + torch.stack([tau, -3 * tau])), 1 - tau)


def test_more_that_cancel_are_refused_by_name(both_paths: str) -> None:
    experts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])

    with pytest.raises(MergeError, match=r"^The experts cancel out in `layers.3.w`, .* Change a weight\.$"):
        merged(None, experts, "layers.3.w")


def test_experts_that_did_not_move_leave_the_base(both_paths: str) -> None:
    base = torch.tensor([1.0, 2.0])

    assert torch.equal(merged(base, torch.stack([base] * 3)), base)


def test_weights_without_a_sum_are_refused() -> None:
    experts = torch.eye(2)

    with pytest.raises(MergeError, match="weights add up to 0"):
        merged(None, experts, weight=[1.0, -1.0])
    found = merged(None, experts, weight=[1.0, -0.5], normalize_weights=False)
    torch.testing.assert_close(found, 0.5 * torch.tensor([1.0, -0.5]) / 1.25**0.5)
