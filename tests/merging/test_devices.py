"""Where the arithmetic is done: here by kernels, and on every other device by the torch definitions alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merging import engine
from merging.engine import merge
from merging.errors import MergeError
from merging.kernels import della, draws, entries, gram, pcb, ranks, sce, sparse, sums, ties
from merging.method import METHODS, Group, Groups
from merging.preflight import check
from merging.recipe import Recipe
from merging.writer import writer
from tests.conftest import DATA_FREE, Family

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("task_arithmetic", {}),
    ("from", {"k": 2.0}),
    ("from", {"scope": "model"}),
    ("ties", {}),
    ("ties", {"sign": "normfrac", "merge": "max"}),
    ("ties", {"sign": "normmass", "merge": "sum", "scope": "tensor"}),
    ("pcb", {}),
    ("pcb", {"variant": "pairwise"}),
    ("pcb", {"variant": "vision", "scope": "tensor"}),
    ("sce", {"select_topk": 0.5}),
    ("dare_linear", {"rescale": "l1"}),
    ("della", {"rescale": "l1"}),
    ("breadcrumbs_ties", {"rescale": "l1"}),
    ("slerp", {"t": 0.3}),
    ("nuslerp", {"nuslerp_flatten": False}),
    ("model_stock", {"filter_wise": True}),
]
SETTINGS += [(name, {}) for name in DATA_FREE if name not in [known for known, _ in SETTINGS]]
KERNELS = [
    (sums, "weighted_sum"),
    (sums, "squares"),
    (ranks, "magnitudes"),
    (ties, "merge"),
    (ties, "balance"),
    (pcb, "merge"),
    (pcb, "score"),
    (draws, "uniforms"),
    (della, "sampled"),
    *((sparse, name) for name in ("dropped", "trimmed", "sums", "blend")),
    *((entries, name) for name in ("magmax", "emr", "ram", "consensus", "nearswap", "chosen")),
    *((sce, name) for name in ("variances", "squares", "sce")),
    (gram, "products"),
]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("device", ["cuda", "mps", "cuda:7"])
def test_a_device_that_is_not_there_is_said_before_any_work(
    device: str, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    with pytest.raises(MergeError) as caught:
        merge(Recipe("ties", base, tuple(experts)), tmp_path / "deep" / "out", device=device)

    assert str(caught.value) == f"This machine has no device `{device}` that torch can use. Choose `cpu`."
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize(("device", "hint"), [("cudda", "Did you mean `cuda`?"), ("tpu", ""), ("", "Known are cpu")])
def test_a_device_that_nobody_knows_is_said(device: str, hint: str, family: Family, tmp_path: Path) -> None:
    base, experts = family()

    with pytest.raises(MergeError) as caught:
        merge(Recipe("ties", base, tuple(experts)), tmp_path / "out", device=device)

    assert str(caught.value).startswith(f"There is no device `{device}`. {hint}")


def test_only_so_many_devices_are_there(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    base, experts = family()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    recipe = Recipe("ties", base, tuple(experts))

    found = {device: check(recipe, device=device).problems for device in ["cuda", "cuda:1", "cuda:2", "cuda:x"]}

    assert [len(problems) for problems in found.values()] == [0, 0, 1, 1]


def test_a_device_is_one_problem_among_the_others(family: Family) -> None:
    base, experts = family()

    found = check(Recipe("ties", base, tuple(experts), values={"density": 7}), workers=0, device="nowhere")

    assert [problem.partition(" ")[0] for problem in found.problems] == ["`density`", "There", "There"]


@pytest.mark.parametrize(("method", "values"), SETTINGS)
def test_without_kernels_nothing_but_torch_is_used(
    method: str, values: dict[str, Any], family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family(METHODS[method].taking(3), torch.bfloat16)
    recipe = Recipe(method, base, tuple(experts), values=values)
    merge(recipe, tmp_path / "fast")
    monkeypatch.setattr(Group, "fused", False)
    for module, name in KERNELS:
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("a kernel was used"))

    merge(recipe, tmp_path / "plain")

    if method != "pcb":
        assert files_of(tmp_path / "fast") == files_of(tmp_path / "plain")


def but_for_a_trial(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that may be used on two entries only, as before the work when passes are counted."""

    draws_only = kernel is draws.uniforms

    def used(bits: Any, *given: Any) -> Any:
        chunk = given[-1] if draws_only else bits
        assert chunk.shape[1] == 2, "a kernel was used"
        return kernel(bits, *given)

    return used


@pytest.mark.parametrize(("method", "values"), SETTINGS)
def test_the_engine_hands_its_device_to_every_group(
    method: str, values: dict[str, Any], family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cpu:0` is the processor by another name, which no kernel knows."""
    base, experts = family(METHODS[method].taking(3), torch.bfloat16)
    recipe = Recipe(method, base, tuple(experts), values=values)
    merge(recipe, tmp_path / "fast")
    plain = engine.check
    monkeypatch.setattr(engine, "check", lambda *given, **more: plain(*given[:-1], **more))
    devices: set[str] = set()

    def fused(group: Group) -> bool:
        devices.add(group.device)
        return group.device == "cpu"

    monkeypatch.setattr(Group, "fused", property(fused))
    for module, name in KERNELS:
        monkeypatch.setattr(module, name, but_for_a_trial(getattr(module, name)))

    merge(recipe, tmp_path / "plain", device="cpu:0")

    assert "cpu:0" in devices or METHODS[method].whole  # where no kernel is asked for
    if method != "pcb":
        assert files_of(tmp_path / "fast") == files_of(tmp_path / "plain")


IN_CHUNKS = [(name, values) for name, values in SETTINGS if not METHODS[name].whole]  # the others are not cut


@pytest.mark.parametrize(("method", "values"), IN_CHUNKS)
def test_every_definition_can_run_on_another_device(
    method: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's `meta` device has shapes and no numbers, and like every other it refuses to be mixed with the cpu."""
    found, cpu = METHODS[method], torch.Tensor.cpu
    experts = found.taking(3)
    known = found.filled(values, experts)
    groups = [
        Group(name, torch.zeros(4, 2), torch.ones(experts, 4, 2)).cut(0, 8).weighed(known["weight"])
        for name in ("a", "b")
    ]
    for group in groups:
        group.device = "meta"
    monkeypatch.setattr(
        torch.Tensor,
        "cpu",
        lambda tensor: torch.ones(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else cpu(tensor),
    )
    copied: list[str] = []
    copy = torch.Tensor.copy_
    monkeypatch.setattr(
        torch.Tensor,
        "copy_",
        lambda to, source: copied.append(source.device.type) if source.is_meta else copy(to, source),
    )
    monkeypatch.setattr("merging.writer._finite", lambda _: True)

    survey = found.look(Groups.of(groups), known)
    for group in groups:
        assert writer(found, survey, known, group)(group, np.empty(8, np.uint32))

    assert copied == ["meta", "meta"]
