"""What is said of each expert in numbers, held against torch over the whole weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from merging.checkpoint import open_checkpoint
from merging.compare import Comparison
from merging.places import place
from tests.conftest import Family, random_tensors, write_model
from tests.ui.screens import select
from ui.comparing import known_comparison
from ui.measures import (
    ABSOLUTE,
    CONFLICT,
    ENERGY,
    KURTOSIS,
    MEAN,
    MEASURES,
    RELATIVE,
    UNMOVED,
    Measure,
    grouped,
    pairs_of,
)  # fmt: skip

NAMES = tuple(random_tensors(0))
Known = tuple[Comparison, dict[str, Tensor], list[dict[str, Tensor]]]


@pytest.fixture
def known(family: Family) -> Known:
    """Two experts, the second of which left half of the entries alone; the base's tensors, and their task vectors."""
    base, experts = family()
    start, moved = ({n: open_checkpoint(path).tensor(n) for n in NAMES} for path in (base, experts[1]))
    for name, tensor in moved.items():
        tensor.view(-1)[: tensor.numel() // 2] = start[name].view(-1)[: tensor.numel() // 2]
    write_model(experts[1], moved)
    ends = [{name: open_checkpoint(path).tensor(name) for name in NAMES} for path in experts]
    found = known_comparison(select(base, experts))
    assert found
    return found, start, [{name: (end[name] - start[name]).double() for name in NAMES} for end in ends]


def kurtosis(tau: Tensor) -> Tensor:
    apart = tau - tau.mean()
    return apart.pow(4).mean() / apart.square().mean().square()


def energy(tau: Tensor) -> Tensor:
    squares = tau.flatten().square().sort(descending=True).values
    return squares[: max(1, int(0.2 * len(squares)))].sum() / squares.sum()


OF_ONE: list[tuple[Measure, Callable[[Tensor], Tensor]]] = [
    (ABSOLUTE, lambda tau: tau.norm()),
    (UNMOVED, lambda tau: (tau == 0).double().mean()),
    (MEAN, lambda tau: tau.mean()),
    (KURTOSIS, kurtosis),
]


@pytest.mark.parametrize(("measure", "expected"), OF_ONE, ids=[measure.title for measure, _ in OF_ONE])
def test_a_number_of_each_tensor_is_that_of_its_task_vector(
    known: Known, measure: Measure, expected: Callable[[Tensor], Tensor]
) -> None:
    comparison, _, tau = known

    table = torch.stack([torch.stack([expected(expert[name]) for expert in tau]) for name in comparison.names])

    torch.testing.assert_close(measure.table(comparison), table, rtol=1e-4, atol=1e-6)


def test_the_distance_is_relative_to_the_base(known: Known) -> None:
    comparison, start, tau = known

    table = [[float(expert[name].norm() / start[name].norm()) for expert in tau] for name in comparison.names]

    torch.testing.assert_close(RELATIVE.table(comparison), torch.tensor(table).double(), rtol=1e-4, atol=0)


def test_the_energy_is_the_share_of_the_largest_entries(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tau = [torch.randn(80, 100, generator=generator) ** power for power in (1, 3)]
    base = write_model(tmp_path / "base", {"w": torch.zeros(80, 100)})
    experts = [write_model(tmp_path / str(index), {"w": moved}) for index, moved in enumerate(tau)]
    comparison = known_comparison(select(base, experts))
    assert comparison

    shares = ENERGY.table(comparison)[0].tolist()

    assert shares == pytest.approx([float(energy(moved)) for moved in tau], abs=0.01)


def test_conflicts_are_of_the_entries_that_both_moved(known: Known) -> None:
    comparison, _, tau = known

    table = CONFLICT.table(comparison)

    for row, name in enumerate(comparison.names):
        both = (tau[0][name] != 0) & (tau[1][name] != 0)
        apart = both & (tau[0][name].sign() != tau[1][name].sign())
        assert table[row].tolist() == pytest.approx([float(apart.sum() / both.sum())] * 2)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=list(MEASURES))
def test_a_group_of_one_tensor_has_the_number_of_that_tensor(known: Known, measure: Measure) -> None:
    comparison, *_ = known

    over = measure.over(comparison, torch.eye(len(comparison.names), dtype=torch.float64))

    torch.testing.assert_close(over, measure.table(comparison).double(), rtol=1e-9, atol=0)


def test_layers_are_measured_over_all_their_entries(known: Known) -> None:
    comparison, start, tau = known
    rows = [place(name).row for name in comparison.names]
    layers = grouped(rows, ["0", "1"])
    assert layers.sum(1).tolist() == [1, 1]
    whole = torch.ones(1, len(rows), dtype=torch.float64)

    norms, unmoved, relative = (m.over(comparison, whole)[0].tolist() for m in (ABSOLUTE, UNMOVED, RELATIVE))

    flat = [torch.cat([expert[name].flatten() for name in NAMES]) for expert in tau]
    base = torch.cat([start[name].flatten() for name in NAMES]).double().norm()
    assert norms == pytest.approx([float(one.norm()) for one in flat], rel=1e-5)
    assert unmoved == pytest.approx([float((one == 0).double().mean()) for one in flat])
    assert relative == pytest.approx([float(one.norm() / base) for one in flat], rel=1e-5)


def test_what_an_expert_lacks_does_not_count(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    tensors = random_tensors(1)
    del tensors["model.norm.weight"]
    write_model(experts[0], tensors)
    comparison = known_comparison(select(base, experts))
    assert comparison
    alone = grouped(list(comparison.names), ["model.norm.weight", "no such layer"])

    for measure in MEASURES.values():
        table, over = measure.table(comparison), measure.over(comparison, alone)
        row = comparison.names.index("model.norm.weight")
        if measure is not ABSOLUTE:  # whose sum over nothing is 0
            assert over.isnan().tolist() == [[True, measure is CONFLICT], [True, True]]
        assert bool(table[row, 0].isnan())


def test_pairs_after_trimming_are_of_fewer_entries(known: Known) -> None:
    comparison, *_ = known

    whole, left = (pairs_of(comparison, density).of() for density in (None, 0.2))

    assert bool((left.both < whole.both)[:, [0, 1], [0, 1]].all())
    assert left.rates[0].diagonal().tolist() == [0, 0]
