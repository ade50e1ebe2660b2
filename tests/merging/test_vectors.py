"""Order statistics and norms over a stream, against sorting everything at once."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging import groups, ranking
from merging.groups import FEW
from merging.method import Group, Groups
from merging.ranking import order_statistics
from merging.vectors import magnitudes, norms
from tests.strategies import finite_floats


@pytest.fixture(autouse=True, params=["counted", "sorted"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, both_paths: str) -> None:
    """Every test runs with the histograms of large tensors, and with the sorting of small ones."""
    if request.param == "counted":
        monkeypatch.setattr(groups, "FEW", 0)


def stream(rows: Tensor, chunk: int) -> Groups:
    """The entries of (experts, entries) as experts of a base model of zeros, in chunks."""

    starts = range(0, rows.shape[1], chunk)
    parts = [(start, rows[:, start : start + chunk]) for start in starts]
    return Groups.of([Group("w", torch.zeros(part.shape[1]), part, start) for start, part in parts])


@given(data=st.data(), entries=finite_floats(least=3, most=60), experts=st.integers(1, 3), chunk=st.integers(1, 60))
def test_the_entry_of_every_rank_is_the_one_that_sorting_finds(
    data: st.DataObject, entries: Tensor, experts: int, chunk: int
) -> None:
    size = len(entries) // experts
    rows = entries[: size * experts].reshape(experts, size)
    ranks = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))

    found = order_statistics(stream(rows, chunk), lambda group: group.experts, lambda *_: ranks)

    assert torch.equal(found, rows.sort(dim=1).values[:, ranks])


def test_all_ranks_of_a_long_row_are_found_at_once() -> None:
    rows = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0)).bfloat16().float()

    found = order_statistics(stream(rows, 700), lambda group: group.experts, lambda size, _: list(range(0, size, 37)))

    assert torch.equal(found, rows.sort(dim=1).values[:, ::37])


def test_neighbouring_floats_are_told_apart() -> None:
    ones = torch.tensor([1.0]).view(torch.int32) + torch.arange(200, dtype=torch.int32)
    row = ones.view(torch.float32)[torch.randperm(200, generator=torch.Generator().manual_seed(0))][None]

    found = order_statistics(stream(row, 64), lambda group: group.experts, lambda size, _: list(range(size)))

    assert torch.equal(found, ones.view(torch.float32)[None])


def test_ranks_may_depend_on_how_many_entries_there_are() -> None:
    asked: list[int] = []

    def last(size: int, _: int) -> list[int]:
        asked.append(size)
        return [size - 1]

    found = order_statistics(stream(torch.tensor([[3.0, -5.0, 1.0]]), 2), magnitudes, last)

    assert asked == [3]
    assert found.tolist() == [[5.0]]


def test_order_statistics_without_a_sample_go_over_the_stream_twice() -> None:
    passes = 0

    def read(piece: Group) -> list[Group]:
        nonlocal passes
        passes += 1
        return [piece]

    order_statistics(
        Groups([Group("w", torch.zeros(2), torch.full((1, 2), 1.1))], read, [FEW + 1]), magnitudes, lambda *_: [0, 1]
    )

    assert passes == 2


def test_norms_are_those_of_the_task_vectors() -> None:
    base = torch.tensor([1.0, 1.0, 1.0])
    experts = torch.tensor([[4.0, 5.0, 1.0], [1.0, 1.0, 1.0]])

    parts = [Group("w", base[:2], experts[:, :2]), Group("w", base[2:], experts[:, 2:], start=2)]
    found = norms(Groups.of(parts))

    assert found.dtype == torch.float64
    assert found.tolist() == [5.0, 0.0]


def test_norms_of_tiny_entries_do_not_vanish() -> None:
    rows = torch.full((1, 4), 1e-30)

    assert norms(stream(rows, 2)).item() == torch.tensor(1e-30).double().mul(2).item()


@pytest.mark.parametrize("wide", [1, 3, 16, 100])
@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
def test_the_bin_of_a_rank(wide: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "WIDE", wide)
    counts = np.random.default_rng(wide).integers(0, 3, 16).astype(dtype)
    owners = np.repeat(np.arange(16), counts)

    found = [ranking._bin_of(counts, rank) for rank in range(len(owners) + 3)]

    assert found == [(owner, 0) for owner in owners] + [(-1, 0), (-1, 1), (-1, 2)]
