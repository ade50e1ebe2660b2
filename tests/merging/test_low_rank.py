"""Factors of low rank are those of the truncated SVD, in memory that depends on the rank."""

from typing import Any

import pytest
import torch

from merging.low_rank import Factors, compressed, nearest, of_matrix, passes, room_for


@pytest.mark.parametrize(
    ("rows", "columns", "terms", "rank"), [(30, 20, 6, 4), (5, 40, 9, 3), (8, 8, 20, 8), (3, 4, 2, 2)]
)
def test_compression_is_the_truncated_svd(rows: int, columns: int, terms: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    factors = Factors(torch.randn(terms, columns, generator=generator), torch.randn(rows, terms, generator=generator))
    matrix = factors.up.double() @ factors.down.double()
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    expected = (left[:, :rank] * sizes[:rank]) @ right[:rank]

    for cut, loss in (compressed(factors, rank), of_matrix(matrix.float(), rank)):
        torch.testing.assert_close(cut.product().double(), expected, rtol=1e-4, atol=1e-4)
        assert loss.lost == pytest.approx(float(sizes[rank:].square().sum()), rel=1e-3, abs=1e-3)
        assert loss.whole == pytest.approx(float(sizes.square().sum()), rel=1e-5)


def test_a_randomised_decomposition_is_near_the_exact_one() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = 0.8 ** torch.arange(60.0)
    left, right = (torch.linalg.qr(torch.randn(n, 60, generator=generator))[0] for n in (90, 70))
    matrix = (left * sizes) @ right.T

    exact, quick = of_matrix(matrix, 10), of_matrix(matrix, 10, randomised=True)

    assert quick[1].lost == pytest.approx(exact[1].lost, rel=1e-3)
    torch.testing.assert_close(quick[0].product(), exact[0].product(), rtol=1e-3, atol=1e-4)
    assert torch.equal(quick[0].down, of_matrix(matrix, 10, randomised=True)[0].down)


@pytest.mark.parametrize(("rows", "columns"), [(50, 7), (7, 50), (20, 20)])
@pytest.mark.parametrize("randomised", [False, True])
def test_a_matrix_that_is_read_by_rows_is_decomposed_as_the_whole(rows: int, columns: int, randomised: bool) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    visits = 0

    def blocks() -> Any:
        nonlocal visits
        visits += 1
        return iter(matrix.split(3))

    cut, loss = nearest(blocks, (rows, columns), 4, randomised)

    whole, expected = of_matrix(matrix, 4, randomised)
    torch.testing.assert_close(cut.product(), whole.product(), rtol=1e-4, atol=1e-5)
    assert loss.lost == pytest.approx(expected.lost, rel=1e-4)
    assert visits == passes((rows, columns), 4, randomised)


def test_a_matrix_of_zeros_has_factors_of_no_length() -> None:
    for shape in ((9, 4), (4, 9)):
        factors, loss = of_matrix(torch.zeros(shape), 2)
        assert not factors.product().any()
        assert (factors.down.isfinite().all(), factors.up.isfinite().all(), *loss) == (True, True, 0.0, 0.0)


def test_what_is_read_by_rows_need_not_fit_the_memory() -> None:
    assert room_for((1 << 20, 64)) < 1 << 20
