"""What the microscope shows of one tensor, against direct computations on all of it."""

from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from merging import microscope
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.lens import lens
from merging.memory import merge_groups
from merging.method import METHODS, Group
from merging.microscope import MARKS, Scatter, scatter
from merging.plan import Plan, plan
from merging.recipe import Recipe
from merging.sampled import spread
from tests.conftest import DATA_FREE, write_model

NAME = "model.layers.0.w.weight"


def task_vectors(shape: tuple[int, ...], count: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randn(count, *shape, generator=random) * (torch.rand(count, *shape, generator=random) < 0.7)


def written(folder: Path, tau: Tensor) -> tuple[Path, tuple[Path, ...]]:
    """A base of zeros, and experts that have moved so far from it."""
    norm = torch.arange(4.0)
    base = write_model(folder / "base", {NAME: torch.zeros(tau.shape[1:]), "norm": norm})
    experts = [write_model(folder / f"expert-{i}", {NAME: row.clone(), "norm": norm + i}) for i, row in enumerate(tau)]
    return base, tuple(experts)


def planned(folder: Path, tau: Tensor) -> Plan:
    base, experts = written(folder, tau)
    return plan(open_checkpoint(base), [open_checkpoint(expert) for expert in experts])


def scattered(folder: Path, tau: Tensor, method: str, one: int = 0, other: int = 1, **known: Any) -> Scatter:
    base, experts = written(folder, tau)
    settings = Recipe(method, base, experts, (), known).settings()
    work = plan(open_checkpoint(base), [open_checkpoint(expert) for expert in experts])
    with closing(lens(work, settings, NAME)) as seen:
        return scatter(seen, one, other)


def test_runs_are_spread_over_all_of_a_tensor_and_its_columns() -> None:
    runs = spread(1 << 20, 4096, 16)

    assert len(runs) == 256
    assert all(before.stop <= after.start for before, after in pairwise(runs))
    assert runs[0].start >= 0
    assert runs[-1].stop <= 1 << 20
    assert len({run.start % 4096 // 512 for run in runs}) == 8  # no rhythm with rows of 4,096
    assert spread(100, 100, 16) == [range(100)]
    assert spread(10, 4, 16) == [range(4)]


def test_who_keeps_an_entry_under_ties(tmp_path: Path) -> None:
    tau = torch.tensor([[4.0, -1.0, 0.5, 3.0, 3.0], [3.0, 2.0, 0.1, -5.0, 0.0], [-1.0, 5.0, 0.2, 0.0, 0.0]])
    known = {"density": 0.5, "scope": "tensor"}

    found = scattered(tmp_path, tau, "ties", 0, 2, **known)

    assert found.experts == ("expert-0", "expert-2")
    assert found.places.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(found.tau, tau[[0, 2]])
    assert found.kept is not None
    # Signs that are elected: +, +, +, - and +; the first expert's 3.0 loses to -5.0, the third's -1.0 to 7.0.
    assert [MARKS[mark] for mark in found.kept.tolist()] == ["first", "second", "second", "none", "first"]


@pytest.mark.parametrize("method", DATA_FREE)
@pytest.mark.parametrize("points", [40, 2000])
def test_who_keeps_an_entry_under_every_method(
    method: str, points: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the merge does not depend on an expert's entry, it is not kept; else it is."""
    count = METHODS[method].taking(2)
    tau = task_vectors((12, 30), count)
    base, experts = written(tmp_path, tau)
    settings = Recipe(method, base, experts).settings()
    work = plan(open_checkpoint(base), [open_checkpoint(expert) for expert in experts])

    with closing(lens(work, settings, NAME)) as seen:
        found = scatter(seen, 0, count - 1, points)

    assert len(found.places) == min(points // microscope.NEAR * microscope.NEAR, 360)
    assert torch.equal(found.tau, tau.flatten(1)[[0, count - 1]][:, found.places])
    if METHODS[method].whole and seen.whole:
        assert found.kept is None
        return
    assert found.kept is not None
    first, second = (found.kept & 1).bool(), (found.kept & 2).bool()
    assert not first[found.tau[0] == 0].any()
    assert not second[found.tau[1] == 0].any()
    assert first.any() or points < 360 or method == "lines"  # whose first layer is the base's
    if not METHODS[method].random and count == 2 and METHODS[method].entrywise:
        [(_, merged)] = merge_groups(METHODS[method], [Group(NAME, torch.zeros(12, 30), tau)], scope="tensor")
        if "scope" not in METHODS[method].params or settings.fixed["scope"] == "tensor":
            assert torch.equal(merged.flatten()[found.places] != 0, first | second)


def test_an_expert_that_lacks_the_tensor_is_named(tmp_path: Path) -> None:
    base, experts = written(tmp_path, task_vectors((6, 4)))
    bare = write_model(tmp_path / "bare", {"norm": torch.zeros(4)})
    settings = Recipe("ties", base, (*experts, bare)).settings()
    work = plan(open_checkpoint(base), [open_checkpoint(folder) for folder in (*experts, bare)])

    with closing(lens(work, settings, NAME)) as seen, pytest.raises(MergeError) as error:
        scatter(seen, 0, 2)

    assert str(error.value) == f"bare has no `{NAME}`. Choose another expert."
