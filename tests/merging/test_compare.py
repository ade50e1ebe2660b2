"""Numbers about models before they are merged, held against what the merge itself does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from merging import METHODS, MergeStopped, Recipe, compare, merge, tried
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.coefficients import coefficients as weights_of
from merging.compare import Comparison
from merging.method import Method
from merging.statistics import probe
from tests.conftest import Family, write_model

SPECTRAL = ("tsv_m", "iso_c", "iso_cts", "star", "wudi")  # which give a matrix no weight
SEVERAL = [
    method
    for name, method in METHODS.items()
    if method.taking(3) == 3 and method.taking(2) == 2 and name not in SPECTRAL and not method.collects
]
VALUES = {"ties": {"density": 0.3}, "pcb": {"ratio": 0.3}, "from": {"k": 2.0}}


def opened(base: Path, experts: list[Path]) -> tuple[Checkpoint, list[Checkpoint]]:
    return open_checkpoint(base), [open_checkpoint(path) for path in experts]


def table(name: str, scope: str | None, comparison: Comparison, weights: Tensor) -> Tensor:
    method = METHODS[name]
    values = method.checked({**VALUES.get(name, {}), **({"scope": scope} if scope else {})})
    return weights_of(method, {**values, "weight": weights}, comparison, comparison.probe)


def test_norms_and_zeros_are_those_of_the_task_vectors(family: Family, small_chunks: Callable[..., None]) -> None:
    small_chunks(5)
    base, experts = opened(*family(dtype=torch.bfloat16))

    found = compare.compare(base, experts)

    for row, name in enumerate(found.names):
        start = base.tensor(name).float()
        assert float(found.base_norms[row]) == pytest.approx(float(start.norm()), rel=1e-5)
        for column, expert in enumerate(experts):
            tau = expert.tensor(name).float() - start
            assert float(found.norms[row, column]) == pytest.approx(float(tau.norm()), rel=1e-5)
            assert float(found.zeros[row, column]) == float((tau == 0).double().mean())
    assert found.probe.exact


@pytest.mark.parametrize(
    ("name", "scope"),
    [("from", "tensor"), ("from", "model"), ("ties", "model"), ("ties", "tensor"), ("pcb", "model"), ("pcb", "tensor"),
     ("task_arithmetic", None), ("magmax", None), ("emr", None), ("ram", None), ("consensus_ta", None),
     ("nearswap", None), ("dare_linear", "tensor"), ("dare_ties", "model"), ("della", "tensor"), ("della", "model"),
     ("breadcrumbs", "tensor"), ("sce", "tensor"), ("arcee_fusion", "tensor"), ("arcee_fusion", "model")],
)  # fmt: skip
def test_a_weight_is_what_the_merge_does_with_an_expert(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, scope: str | None
) -> None:
    # With one expert the merged step is s * tau, so that sum(s |tau|) / sum(|tau|) can be read off the merged file.
    monkeypatch.setattr(tried, "CACHED", 7)
    folder, experts = family(experts=1)
    base, (expert,) = opened(folder, experts)
    values = {**VALUES.get(name, {}), **({"scope": scope} if scope else {})}

    merge(Recipe(name, folder, tuple(experts), values=values), tmp_path / "out")

    merged = open_checkpoint(tmp_path / "out")
    found = compare.compare(base, [expert])
    for tensor, weight in zip(found.names, table(name, scope, found, torch.ones(1)), strict=True):
        start = base.tensor(tensor)
        tau, step = expert.tensor(tensor) - start, merged.tensor(tensor) - start
        expected = float((step * tau.sign()).sum() / tau.abs().sum())
        assert float(weight) == pytest.approx(expected, abs=1e-4)


def test_weights_of_a_blend_add_up_to_the_merged_step(family: Family) -> None:
    # Where all experts moved an entry the same way, the merged step is the sum of s * |tau| over the experts.
    folder, _ = family()
    start = open_checkpoint(folder)
    moved = {name: torch.rand(start.entries[name].shape) for name in start.entries}
    paths = [
        write_model(folder.parent / f"up{i}", {name: start.tensor(name) + i * moved[name] for name in moved})
        for i in (1, 2)
    ]

    found = compare.compare(*opened(folder, paths))

    weights = METHODS["ties"].checked({"density": 1.0}) | {"weight": torch.ones(2)}
    shares = weights_of(METHODS["ties"], weights, found, found.probe)
    torch.testing.assert_close(shares, torch.full_like(shares, 0.5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ties", "pcb"])
def test_some_of_the_probe_are_near_the_whole(tmp_path: Path, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = {f"layers.{i}.w.weight": torch.randn(200, 200, generator=generator) for i in range(3)}
    paths = [write_model(tmp_path / "base", start)]
    for i in (1, 2):
        moved = {n: t + 0.1 * torch.randn(200, 200, generator=generator) for n, t in start.items()}
        paths.append(write_model(tmp_path / f"e{i}", moved))

    found = compare.compare(*opened(paths[0], paths[1:]))

    method = METHODS[name]
    values = method.checked({}) | {"weight": torch.ones(2)}
    some = found.probe.thinned(20_000, rows=False)
    quick, whole = (weights_of(method, values, found, sample) for sample in (some, found.probe))
    assert 0.1 < some.share < 0.3
    assert found.probe.exact
    torch.testing.assert_close(quick, whole, rtol=0.1, atol=0.02)


def test_a_model_beyond_the_probe_is_drawn_from_and_its_norms_stay_exact(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = family()
    whole = compare.compare(*opened(*folders))
    monkeypatch.setattr(compare, "PROBE", 30)
    monkeypatch.setattr(probe, "LEAST", 4)

    found = compare.compare(*opened(*folders))

    assert not found.probe.exact
    torch.testing.assert_close(found.norms, whole.norms)


def test_comparing_can_be_stopped(family: Family) -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(MergeStopped):
        compare.compare(*opened(*family()), stop=stop)


def test_effective_weights_by_hand_with_two_experts_in_conflict(tmp_path: Path) -> None:
    # Task vectors: `a` (4, -2) and (2, 6), `b` (1,) and (-3,). At density 1 TIES elects +, +, -, so that the first
    # expert enters with 4/2 of 6, and nothing of 1; the second with 2/2 + 6 of 8, and all of 3.
    zero = {"a": torch.zeros(2), "b": torch.zeros(1)}
    first = {"a": torch.tensor([4.0, -2.0]), "b": torch.tensor([1.0])}
    second = {"a": torch.tensor([2.0, 6.0]), "b": torch.tensor([-3.0])}
    paths = [write_model(tmp_path / name, tensors) for name, tensors in (("z", zero), ("1", first), ("2", second))]

    found = compare.compare(*opened(paths[0], paths[1:]))

    values = METHODS["ties"].checked({"density": 1.0, "lambda": 0.5}) | {"weight": torch.ones(2)}
    weights = weights_of(METHODS["ties"], values, found, found.probe)
    expected = torch.tensor([[0.5 * 2 / 6, 0.5 * 7 / 8], [0.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected)


def lacking(folder: Path, name: str) -> tuple[Path, list[Path]]:
    """A base and three experts, the second without the tensor of that name."""
    generator = torch.Generator().manual_seed(3)

    def draw() -> dict[str, Tensor]:
        names = [f"layers.{i}.{module}.weight" for i in range(3) for module in "qk"]
        return {name: torch.randn(4, 5, generator=generator) for name in names}

    models = [draw() for _ in range(4)]
    del models[2][name]
    paths = [write_model(folder / f"model-{number}", tensors) for number, tensors in enumerate(models)]
    return paths[0], paths[1:]


def test_a_tensor_that_an_expert_lacks_has_no_numbers_for_it_and_all_others_have(tmp_path: Path) -> None:
    name = "layers.1.q.weight"
    base, experts = opened(*lacking(tmp_path, name))

    found = compare.compare(base, experts)

    row = found.names.index(name)
    assert found.norms.isnan().nonzero().tolist() == [[row, 1]]
    assert found.gaps(found.norms) == {(row, 1): "does not have this tensor"}
    tau = experts[2].tensor(name) - base.tensor(name)
    assert float(found.norms[row, 2]) == pytest.approx(float(tau.norm()), rel=1e-5)
    assert not [warning for warning in found.warnings() if "NaN" in warning]
    assert found.still.tolist() == [0, 0, 0]
    assert found.cosines.isfinite().all()


@pytest.mark.parametrize("method", SEVERAL, ids=[method.name for method in SEVERAL])
@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("rate", ["whole", "drawn"])
def test_weights_in_a_tensor_that_an_expert_lacks_are_those_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method, scope: str, rate: str
) -> None:
    if rate == "drawn":
        monkeypatch.setattr(compare, "PROBE", 40)
        monkeypatch.setattr(probe, "LEAST", 8)
    name = "layers.1.q.weight"
    base, experts = opened(*lacking(tmp_path, name))
    found = compare.compare(base, experts)
    if "scope" in method.params and scope not in method.params["scope"].choices:
        pytest.skip("the method has no such scope")
    # Draws are by the number of an expert, which changes where another leaves.
    told = {"scope": scope, **({"density": 1.0} if method.random else {})}
    values = method.checked({key: value for key, value in told.items() if key in method.params})

    table = weights_of(method, {**values, "weight": torch.tensor([1.0, 2.0, 3.0])}, found, found.probe)

    row = found.names.index(name)
    assert table.isnan().nonzero().tolist() == [[row, 1]]
    if "scope" not in method.params or scope == "tensor":  # as if the other had never been there
        alone = compare.compare(base, [experts[0], experts[2]])
        expected = weights_of(method, {**values, "weight": torch.tensor([1.0, 3.0])}, alone, alone.probe)
        if rate == "whole":
            torch.testing.assert_close(table[row, [0, 2]], expected[row])


@pytest.mark.parametrize("name", ["ties", "pcb", "from"])
def test_weights_beside_a_lacking_tensor_are_what_the_merge_does(tmp_path: Path, name: str) -> None:
    # In a tensor that one expert alone has, the merged step is s * tau, with what the whole model says of it.
    base, experts = lacking(tmp_path, "layers.2.q.weight")
    values = {**VALUES[name], "scope": "model"}
    merge(Recipe(name, base, (experts[1], experts[0]), values=values), tmp_path / "out")

    merged, found = open_checkpoint(tmp_path / "out"), compare.compare(*opened(base, [experts[1], experts[0]]))

    start, expert = open_checkpoint(base), open_checkpoint(experts[0])
    tau, step = (model.tensor("layers.2.q.weight") - start.tensor("layers.2.q.weight") for model in (expert, merged))
    weight = table(name, "model", found, torch.ones(2))[found.names.index("layers.2.q.weight"), 1]
    assert float(weight) == pytest.approx(float((step * tau.sign()).sum() / tau.abs().sum()), abs=1e-4)
