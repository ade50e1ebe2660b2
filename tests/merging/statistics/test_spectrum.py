"""Singular values of a tensor's task vectors, held against a decomposition of the whole matrix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from merging import MergeError
from merging.adapter import open_base, open_expert
from merging.plan import Plan, plan
from merging.statistics import spectrum as module
from merging.statistics.spectrum import spectrum
from tests.adapters import written
from tests.conftest import write_model
from tests.merging.test_compare import lacking, opened
from tests.merging.test_factored import ATTENTION


def model(folder: Path, *shape: int) -> tuple[Plan, Tensor]:
    """A base and an expert with one tensor of that shape; and its task vector."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    moved = start + torch.randn(shape, generator=generator)
    base, experts = opened(write_model(folder / "base", {"w": start}), [write_model(folder / "expert", {"w": moved})])
    return plan(base, experts), moved - start


@pytest.mark.parametrize("shape", [(7, 20), (20, 7), (6, 4, 5), (1, 9)])
def test_they_are_those_of_the_matrix(tmp_path: Path, shape: tuple[int, ...]) -> None:
    work, tau = model(tmp_path, *shape)

    found = spectrum(work, "w")[0]

    values = torch.linalg.svdvals(tau.reshape(shape[0], -1).double())
    torch.testing.assert_close(found.values, values, rtol=1e-5, atol=1e-6)
    assert found.stable_rank == pytest.approx(float(values.square().sum() / values[0] ** 2), rel=1e-5)
    assert found.exact


def test_of_a_large_matrix_they_are_an_estimate_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORK", 2500)
    work, tau = model(tmp_path, 2000, 5)

    found = spectrum(work, "w")[0]

    values = torch.linalg.svdvals(tau.double())
    assert found.share == 0.25
    assert not found.exact
    torch.testing.assert_close(found.values, values, rtol=0.2, atol=0)


def test_a_vector_has_none_and_neither_has_what_did_not_move(tmp_path: Path) -> None:
    work, _ = model(tmp_path, 9)
    assert len(spectrum(work, "w")[0].values) == 0

    work, _ = model(tmp_path / "other", 4, 4)
    still = spectrum(plan(work.base, [work.base]), "w")[0]
    assert still.values.tolist() == [0] * 4
    assert torch.tensor(still.stable_rank).isnan()


def test_what_is_not_finite_has_none(tmp_path: Path) -> None:
    base, experts = opened(
        write_model(tmp_path / "base", {"w": torch.zeros(2, 2)}),
        [write_model(tmp_path / "expert", {"w": torch.tensor([[1.0, torch.nan], [0.0, 1.0]])})],
    )

    assert len(spectrum(plan(base, experts), "w")[0].values) == 0


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft with this transformers
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_those_of_an_adapter_follow_from_its_factors(tmp_path: Path) -> None:
    folder, paths = written(tmp_path, ATTENTION, {"target_modules": ["embed_tokens"]})
    base = open_base(folder)
    work = plan(base, [open_expert(path, base) for path in paths])

    for name in work.merged:
        entry = base.entries[name]
        if len(entry.shape) == 2:
            found = spectrum(work, name)
            for index, expert in enumerate(work.experts):
                tau = (expert.tensor(name).float() - base.tensor(name).float()).double()
                values = torch.linalg.svdvals(tau)
                few = min(len(found[index].values), len(values))
                torch.testing.assert_close(found[index].values[:few], values[:few], rtol=1e-4, atol=1e-5)
                assert values[few:].max() < 1e-5 if few < len(values) else True


def test_they_are_of_the_experts_that_have_the_tensor(tmp_path: Path) -> None:
    base, experts = opened(*lacking(tmp_path, "layers.1.q.weight"))

    assert sorted(spectrum(plan(base, experts), "layers.1.q.weight")) == [0, 2]


def test_a_tensor_that_is_not_merged_is_refused(tmp_path: Path) -> None:
    work, _ = model(tmp_path, 2, 2)

    with pytest.raises(MergeError, match="`nothing` is no tensor that is merged here"):
        spectrum(work, "nothing")
