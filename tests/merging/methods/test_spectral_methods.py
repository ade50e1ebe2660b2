"""TSV-Merge, Iso-C, Iso-CTS and STAR on matrices whose directions can be seen, and at their edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group

SPECTRAL = ["tsv_m", "iso_c", "iso_cts", "star"]


def step(name: str, *tau: Tensor, **values: object) -> Tensor:
    """The merged step away from a base of zeros."""
    group = Group("layers.0.w", torch.zeros(tau[0].shape), torch.stack(tau))
    [(_, found)] = merge_groups(METHODS[name], [group], **values)
    return found


def diagonal(*numbers: float) -> Tensor:
    return torch.diag(torch.tensor(numbers, dtype=torch.float32))


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_tsv_keeps_each_experts_share_of_the_directions() -> None:
    # Two of four directions each; those kept do not overlap, so that nothing has to be turned.
    found = step("tsv_m", diagonal(5, 1, 3, 2), diagonal(2, 4, 1, 6), scaling=0.5)

    torch.testing.assert_close(found, diagonal(2.5, 2, 1.5, 3), rtol=0, atol=1e-5)


def test_tsv_turns_directions_that_overlap_until_they_do_not() -> None:
    # One direction each, at 60°. The nearest orthogonal ones are at 15° and at -15° from these, on both sides.
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.75**0.5])

    found = step("tsv_m", 2 * torch.outer(first, first), 3 * torch.outer(second, second))

    angles = torch.deg2rad(torch.tensor([-15.0, 75.0]))
    one, other = torch.stack([angles.cos(), angles.sin()], 1)
    torch.testing.assert_close(found, 2 * torch.outer(one, one) + 3 * torch.outer(other, other))


def test_tsv_averages_where_there_are_more_experts_than_directions() -> None:
    tau = drawn(3, 2, 5)

    torch.testing.assert_close(step("tsv_m", *tau), tau.mean(0))


def test_iso_c_makes_all_directions_of_the_sum_equally_strong() -> None:
    turned = torch.linalg.qr(drawn(3, 3)).Q

    found = step("iso_c", turned @ diagonal(5, 1, 0), turned @ diagonal(1, 1, 1), scaling=2.0)

    torch.testing.assert_close(found, 2 * 3 * turned)  # the sum has 6, 2 and 1, of mean 3


def test_iso_c_of_one_expert_keeps_its_singular_directions() -> None:
    tau = drawn(5, 3)

    found = step("iso_c", tau)

    left, values, right = torch.linalg.svd(tau, full_matrices=False)
    torch.testing.assert_close(left.T @ found @ right.T, values.mean() * torch.eye(3), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.linalg.svdvals(found).sum(), values.sum())


def test_iso_cts_gives_the_sums_weakest_directions_to_the_experts() -> None:
    # The sum has 7, 6, 0 and 0 on the diagonal: two directions are common; beside them the experts have 2 and -2
    # along the third, and 3 and -3 along the fourth: each its strongest there, the fourth. Only one is left of them.
    found = step("iso_cts", diagonal(3, 3, 2, 3), diagonal(4, 3, -2, -3), common_space_fraction=0.5)

    # Both experts' own direction is the fourth, from opposite sides: they cancel, but for the strength they lend.
    torch.testing.assert_close(found, (7 + 6 + 3 + 3) / 4 * diagonal(1, 1, 0, 0), rtol=0, atol=1e-5)


def test_iso_cts_without_directions_of_single_experts_is_iso_c() -> None:
    tau = drawn(2, 6, 4)

    torch.testing.assert_close(step("iso_cts", *tau, common_space_fraction=1.0), step("iso_c", *tau))


@pytest.mark.parametrize(("side", "experts"), [(1, 3), (2, 3), (5, 3), (7, 4)])
def test_iso_cts_has_no_more_directions_than_there_are(side: int, experts: int) -> None:
    found = step("iso_cts", *drawn(experts, side, side + 2), common_space_fraction=0.0)

    values = torch.linalg.svdvals(found)
    torch.testing.assert_close(values, values[:1].expand(side), rtol=1e-4, atol=0)


def test_star_keeps_the_strongest_directions_and_their_sum() -> None:
    # 40 % of 10 is 4: reached by the first alone in `one`, by the first two in `other`.
    one, other = diagonal(5, 4, 1), diagonal(3, 3, 3)

    torch.testing.assert_close(step("star", one), diagonal(10, 0, 0), rtol=0, atol=1e-5)
    kept = step("star", other)
    torch.testing.assert_close(torch.linalg.svdvals(kept), torch.tensor([4.5, 4.5, 0]), rtol=0, atol=1e-5)


def test_star_at_its_end_is_the_mean() -> None:
    tau = drawn(3, 4, 6)

    torch.testing.assert_close(step("star", *tau, eta=100.0, scaling=3.0), tau.sum(0))


def test_star_does_not_count_an_expert_that_did_not_move() -> None:
    one = diagonal(5, 4, 1)

    torch.testing.assert_close(step("star", one, torch.zeros(3, 3)), step("star", one))


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_what_is_no_matrix_takes_the_mean(name: str, shape: tuple[int, ...]) -> None:
    tau = drawn(3, *shape)

    torch.testing.assert_close(step(name, *tau, scaling=0.5), 0.5 * tau.mean(0))


@pytest.mark.parametrize("name", SPECTRAL)
def test_a_matrix_and_its_transpose_are_merged_alike(name: str) -> None:
    tau = drawn(3, 7, 4)

    torch.testing.assert_close(step(name, *tau).T, step(name, *(one.T for one in tau)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "iso_cts"])
def test_changes_of_low_rank_get_no_directions_that_nobody_has(name: str) -> None:
    # As adapters make them. What the released code makes up for the rest differs from machine to machine.
    left, right = drawn(40, 3), drawn(3, 30)
    tau = [left * scale @ right for scale in torch.tensor([[1.0, 2, 3], [3, 1, 1]])]

    found = step(name, *tau)

    one, other = torch.linalg.qr(left).Q, torch.linalg.qr(right.T).Q
    torch.testing.assert_close(one @ (one.T @ found @ other) @ other.T, found, rtol=1e-4, atol=1e-4)
    assert found.norm() > 1


@pytest.mark.parametrize("name", ["tsv_m", "iso_cts"])
def test_a_sketch_is_near_where_directions_fade(name: str) -> None:
    lefts, rights = torch.linalg.qr(drawn(3, 120, 100)).Q, torch.linalg.qr(drawn(3, 100, 100)).Q
    fading = torch.diag(0.9 ** torch.arange(100.0))
    tau = [left @ fading @ right for left, right in zip(lefts, rights, strict=True)]

    exact, quick = (step(name, *tau, svd=solver) for solver in ("exact", "randomised"))

    assert (exact - quick).norm() < 0.01 * exact.norm()
