"""Matrices taken apart and put together again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from merging import spectral
from merging.spectral import orthogonal, parts


def drawn(rows: int, columns: int, rank: int | None = None) -> Tensor:
    source = torch.Generator().manual_seed(rows + columns)
    if rank is None:
        return torch.randn(rows, columns, generator=source)
    return torch.randn(rows, rank, generator=source) @ torch.randn(rank, columns, generator=source)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 6), (1, 5), (1, 1)])
def test_all_parts_make_the_matrix_again(shape: tuple[int, int]) -> None:
    matrix = drawn(*shape)

    left, values, right = parts(matrix)

    torch.testing.assert_close(left * values @ right, matrix, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(left.T @ left, torch.eye(len(values)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(right @ right.T, torch.eye(len(values)), rtol=1e-5, atol=1e-5)
    assert values.tolist() == sorted(values.tolist(), reverse=True)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_some_parts_are_the_nearest_matrix_of_that_rank(shape: tuple[int, int]) -> None:
    matrix = drawn(*shape)

    left, values, right = parts(matrix, 2)

    assert (left.shape, values.shape, right.shape) == ((shape[0], 2), (2,), (2, shape[1]))
    lost = torch.linalg.svdvals(matrix)[2:].norm()
    torch.testing.assert_close((matrix - left * values @ right).norm(), lost)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_directions_that_are_nobodys_are_left_out(shape: tuple[int, int]) -> None:
    assert len(parts(drawn(*shape, rank=7)).values) == 7
    assert len(parts(torch.zeros(shape)).values) == 0


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_a_sketch_finds_the_same_where_few_directions_are_strong(shape: tuple[int, int]) -> None:
    matrix = drawn(*shape, rank=12) + 1e-3 * drawn(*shape)

    left, values, right = parts(matrix, 12, "randomised")

    exact = parts(matrix, 12)
    torch.testing.assert_close(values, exact.values, rtol=1e-5, atol=0)
    torch.testing.assert_close(left * values @ right, exact.left * exact.values @ exact.right, rtol=1e-3, atol=1e-3)


def test_a_sketch_is_the_same_whenever_it_is_made() -> None:
    matrix = drawn(80, 60)

    first = parts(matrix, 5, "randomised")
    torch.manual_seed(1)

    assert all(torch.equal(one, other) for one, other in zip(first, parts(matrix, 5, "randomised"), strict=True))


def test_many_directions_are_not_sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "_sketched", lambda *_: pytest.fail("it was sketched"))

    assert len(parts(drawn(60, 50), 20, "randomised").values) == 20


def test_what_float32_cannot_take_apart_is_taken_apart_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    svd = torch.linalg.svd

    def fails(matrix: Tensor, **given: Any) -> Any:
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("too many repeated singular values")
        return svd(matrix, **given)

    matrix = drawn(5, 4)
    expected = parts(matrix)
    monkeypatch.setattr(torch.linalg, "svd", fails)

    found = parts(matrix)

    torch.testing.assert_close(found.left * found.values @ found.right, matrix)
    assert found.values.dtype == torch.float32
    torch.testing.assert_close(found.values, expected.values)


def test_the_nearest_orthogonal_matrix_keeps_what_is_orthogonal() -> None:
    turned = torch.linalg.qr(drawn(5, 3)).Q

    torch.testing.assert_close(orthogonal(turned * torch.tensor([3.0, 1.0, 0.5])), turned)
    torch.testing.assert_close(orthogonal(turned * torch.tensor([3.0, 0.0, 0.5])), turned * torch.tensor([1.0, 0, 1]))
    assert orthogonal(torch.zeros(4, 0)).shape == (4, 0)
