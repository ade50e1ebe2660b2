"""Singular values of task vectors, against a decomposition of the whole matrix."""

import threading
from pathlib import Path

import pytest
import torch

from merging import spectra as spectra_module
from merging.adapter import open_base, open_expert
from merging.errors import MergeError, MergeStopped
from merging.plan import plan
from merging.spectra import spectra
from tests.adapters import written
from tests.merging.test_compare import lacking, opened
from tests.merging.test_factored import ATTENTION
from tests.merging.test_microscope import NAME, planned, task_vectors


def test_singular_values_and_stable_ranks(tmp_path: Path) -> None:
    tau = task_vectors((30, 50), 3)
    tau[1] = torch.outer(tau[1, :, 0], tau[1, 0])
    tau[2] = 0

    found = spectra(planned(tmp_path, tau), NAME)

    direct = torch.linalg.svdvals(tau.double())
    torch.testing.assert_close(found.values, direct, rtol=1e-6, atol=1e-6 * float(direct.max()))
    torch.testing.assert_close(found.stable_ranks[:2], direct.square().sum(1)[:2] / direct[:2, 0].square())
    assert float(found.stable_ranks[1]) == pytest.approx(1.0)
    assert found.stable_ranks[2].isnan()
    assert found.exact


def test_singular_values_of_large_matrices_are_sketched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra_module, "SIDE", 64)
    monkeypatch.setattr(spectra_module, "VALUES", 8)
    random = torch.Generator().manual_seed(1)
    directions = torch.randn(100, 8, generator=random) * 2.0 ** -torch.arange(8)
    tau = (directions @ torch.randn(8, 300, generator=random) + 0.001 * torch.randn(100, 300, generator=random))[None]

    found = spectra(planned(tmp_path, tau), NAME)

    torch.testing.assert_close(found.values[0], torch.linalg.svdvals(tau[0].double())[:8], rtol=1e-3, atol=0)
    assert not found.exact


@pytest.mark.parametrize("tall", [True, False])
def test_singular_values_of_very_large_matrices_are_those_of_some_lines(
    tall: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectra_module, "READ", {True: 1 << 14, False: 1 << 14})
    monkeypatch.setattr(spectra_module, "BLOCK", 1 << 10)  # read in many blocks
    random = torch.Generator().manual_seed(1)
    low = torch.randn(20_000, 3, generator=random) @ (
        torch.randn(3, 8, generator=random) * torch.tensor([[4], [2], [1]])
    )
    tau = (low if tall else low.T.contiguous())[None]

    found = spectra(planned(tmp_path, tau), NAME)

    direct = torch.linalg.svdvals(tau[0].double())
    torch.testing.assert_close(found.values[0, :3], direct[:3], rtol=0.1, atol=0)
    assert float(found.values[0, 3]) < 1e-3 * float(direct[0])
    torch.testing.assert_close(
        found.stable_ranks[0], direct.square().sum() / direct[0].square(), rtol=0.1, atol=0
    )  # fmt: skip
    assert not found.exact


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft with this transformers
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_singular_values_of_adapters_are_those_of_their_products(tmp_path: Path) -> None:
    folder, paths = written(tmp_path, ATTENTION, {"target_modules": ["embed_tokens"]})
    base = open_base(folder)
    work = plan(base, [open_expert(path, base) for path in paths])

    for name in (name for name in work.merged if len(base.entries[name].shape) == 2):
        found = spectra(work, name)
        for values, expert in zip(found.values, work.experts, strict=True):
            direct = torch.linalg.svdvals((expert.tensor(name).float() - base.tensor(name).float()).double())
            torch.testing.assert_close(values, direct, rtol=1e-4, atol=1e-5)


def test_singular_values_are_of_the_experts_that_have_the_tensor(tmp_path: Path) -> None:
    base, experts = opened(*lacking(tmp_path, "layers.1.q.weight"))

    found = spectra(plan(base, experts), "layers.1.q.weight")

    assert found.experts == (experts[0].name, experts[2].name)
    assert len(found.values) == 2


def test_singular_values_of_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tau = task_vectors((6, 4))
    tau[0, 1, 1] = torch.inf

    with pytest.raises(MergeError, match=f"^`{NAME}` holds NaN or infinity. Choose another"):
        spectra(planned(tmp_path, tau), NAME)


def test_a_tensor_that_is_not_merged_has_no_singular_values(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match=r"^`nothing` is not merged. Choose a tensor that is."):
        spectra(planned(tmp_path, task_vectors((6, 4))), "nothing")


def test_what_has_no_singular_values(tmp_path: Path) -> None:
    with pytest.raises(MergeError) as error:
        spectra(planned(tmp_path, task_vectors((6, 4))), "norm")

    assert str(error.value) == "`norm` (4) is no matrix, and has no singular values. Choose one with two axes."


def test_decompositions_stop_when_asked(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(MergeStopped):
        spectra(planned(tmp_path, task_vectors((6, 4))), NAME, stop)
