"""What is predicted of a merge, held against the merge that is then made."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor

from merging import METHODS, MergeError, Recipe, merge, pace, predictor, tried, wholes
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.compare import Comparison, compare
from merging.crew import listening
from merging.errors import MergeStopped
from merging.groups import Group
from merging.places import place
from merging.predictions import Prediction, difference
from merging.predictor import Predictor, predict
from tests.conftest import write_model

SHAPES = {
    "model.embed_tokens.weight": (11, 8),
    **{f"model.layers.{i}.self_attn.q_proj.weight": (8, 8) for i in range(3)},
    **{f"model.layers.{i}.mlp.up_proj.weight": (12, 8) for i in range(3)},
    **{f"model.layers.{i}.input_layernorm.weight": (8,) for i in range(3)},
    "model.norm.weight": (8,),
}
KNOWN = [method for method in METHODS.values() if not method.collects]
ENTRYWISE = [method.name for method in KNOWN if method.entrywise]
COEFFICIENTS = [method.name for method in KNOWN if not method.entrywise]
SPECTRAL = ("tsv_m", "iso_c", "iso_cts", "star", "wudi")  # which make a matrix as a whole


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets whole matrices take as long as they will: a machine may be busy."""
    monkeypatch.setattr(wholes, "PATIENCE", float("inf"))


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A base and three experts, each of which moved two thirds of the entries; the last has no final norm."""
    generator = torch.Generator().manual_seed(1)
    start = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    paths = [write_model(tmp_path / "base", start)]
    for number in (1, 2, 3):
        expert = {}
        for name, tensor in start.items():
            moves = torch.rand(tensor.shape, generator=generator) < 2 / 3
            expert[name] = tensor + 0.1 * number * moves * torch.randn(tensor.shape, generator=generator)
        if number == 3:
            del expert["model.norm.weight"]
        paths.append(write_model(tmp_path / f"e{number}", expert))
    return paths


def compared(models: list[Path]) -> Comparison:
    return compare(open_checkpoint(models[0]), [open_checkpoint(path) for path in models[1:]])


def recipe(name: str, models: list[Path], values: dict[str, Any] | None = None, weights: Any = None) -> Recipe:
    """A recipe of as many experts as the method takes, weighed differently where it has weights."""
    method = METHODS[name]
    count = method.taking(3)
    usual = (1.0, 0.7, 1.3)[:count] if "weight" in method.params else (1.0,) * count
    return Recipe(name, models[0], tuple(models[1 : 1 + count]), weights or usual, values or {}, seed=5)


def both(some: Recipe, out: Path) -> tuple[Comparison, Prediction, dict[str, Tensor]]:
    """The comparison, what is predicted, and what the merge then adds to each tensor of the base."""
    assert some.base
    comparison = compared([some.base, *some.experts])
    found = predict(some.settings(), comparison)
    merge(some, out)
    base, merged = open_checkpoint(some.base), open_checkpoint(out)
    return comparison, found, {name: merged.tensor(name) - base.tensor(name) for name in comparison.names}


def taus(some: Recipe, name: str) -> list[Tensor]:
    """The task vectors of a tensor, of the experts that have it."""
    base = open_checkpoint(some.base).tensor(name)  # type: ignore[arg-type]
    models: list[Checkpoint] = [open_checkpoint(path) for path in some.experts]
    return [model.tensor(name) - base for model in models if name in model.entries]


def assert_norms(found: Prediction, steps: dict[str, Tensor]) -> None:
    for name, norm in zip(found.names, found.norms.tolist(), strict=True):
        assert norm == pytest.approx(float(steps[name].norm()), rel=1e-4, abs=1e-5), name


def gradients(name: str) -> dict[str, Any]:
    """Every number that may vary by tensor goes over the layers, where the scope lets it."""
    method, values = METHODS[name], dict[str, Any]()
    for param in method.params.values():
        if param.kind == "number" and not param.per_expert and isinstance(param.default, float):
            less = param.default - 1 if param.counts else 0.8 * param.default
            values[param.key] = [param.default, max(param.low, less)]
    return values | ({"scope": "tensor"} if "scope" in method.params else {})


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_norms_of_coefficient_methods_are_those_of_the_merge(models: list[Path], tmp_path: Path, name: str) -> None:
    some = recipe(name, models)

    comparison, found, steps = both(some, tmp_path / "out")

    assert_norms(found, steps)
    assert not found.entrywise
    assert {"weights", "kept", "norms", "decided"} <= found.exact
    expected = torch.stack([step.norm().double() for step in steps.values()]) / comparison.base_norms
    torch.testing.assert_close(found.relative, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["from", "task_arithmetic", "linear", "lines", "metagpt", "multislerp"])
@pytest.mark.parametrize("vary", [False, True], ids=["constant", "by tensor"])
def test_coefficients_are_those_that_the_merge_uses(models: list[Path], tmp_path: Path, name: str, vary: bool) -> None:
    weights = ([0.2, 1.0, 0.4], [{"filter": "mlp", "value": 0.3}, {"value": 1.0}], 0.5) if vary else None
    has = "weight" in METHODS[name].params
    some = recipe(name, models, gradients(name) if vary else None, weights if has else None)

    _, found, steps = both(some, tmp_path / "out")

    for row, (tensor, step) in enumerate(steps.items()):
        mine = found.weights[row, ~found.weights[row].isnan()].float()
        expected = sum(weight * tau for weight, tau in zip(mine, taus(some, tensor), strict=True))
        torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-5)
    assert_norms(found, steps)


@pytest.mark.parametrize("vary", [False, True], ids=["constant", "by tensor"])
@pytest.mark.parametrize("name", ENTRYWISE)
def test_norms_and_untouched_entries_of_entrywise_methods_are_those_of_the_merge(
    models: list[Path], tmp_path: Path, both_paths: str, name: str, vary: bool
) -> None:
    weights = ([0.5, 1.0, 0.4], [{"filter": "mlp", "value": 0.3}, {"value": 1.0}], 0.5)
    has = vary and "weight" in METHODS[name].params
    some = recipe(name, models, gradients(name) if vary else None, weights if has else None)

    _, found, steps = both(some, tmp_path / "out")

    assert_norms(found, steps)
    assert found.entrywise
    assert found.exact >= {"kept", "decided"}
    for row, step in enumerate(steps.values()):
        assert float(found.decided[row, 0]) == pytest.approx(float((step == 0).double().mean())), found.names[row]
        assert float(found.decided[row].sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["ties", "pcb", "dare_linear", "della", "sce", "breadcrumbs_ties"])
def test_weights_by_tensor_enter_where_the_whole_model_is_ranked(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tried, "CACHED", 7)
    weights = ([0.5, 1.0, 0.4], 0.7, {"value": [1.0, 0.2]}) if "weight" in METHODS[name].params else None
    some = recipe(name, models, {"scope": "model"}, weights)

    _, found, steps = both(some, tmp_path / "out")

    assert_norms(found, steps)


@pytest.mark.parametrize(
    ("name", "values", "averaged"),
    [
        ("ties", {"density": 0.6, "merge": "sum"}, False),
        ("ties", {"density": 0.6}, True),
        ("ties", {"density": 0.5, "scope": "tensor"}, True),
        ("ties", {"density": 0.5, "merge": "sum", "scope": "tensor", "lambda": [0.3, 1.0]}, False),
        ("magmax", {}, False),
        ("emr", {}, False),
        ("ram", {}, True),
        ("consensus_ta", {"lambda": 1.0}, False),
        ("breadcrumbs", {"gamma": 0.05}, False),
        ("dare_linear", {"rescale": "none"}, False),
        ("dare_ties", {"rescale": "none"}, True),
        ("della_linear", {"rescale": "none", "density": 0.6}, False),
    ],
)
def test_who_decides_an_entry_can_be_read_off_the_merged_weights(
    models: list[Path], tmp_path: Path, name: str, values: dict[str, Any], averaged: bool
) -> None:
    # The step at an entry is the sum, or the mean, of those experts' changes that enter: only one set of them fits.
    some = recipe(name, models, values)

    _, found, steps = both(some, tmp_path / "out")

    settings = some.settings()
    for row, (tensor, step) in enumerate(steps.items()):
        depth = predictor.depths(found.names)[tensor]
        told, vectors = settings.of(tensor, depth), torch.stack(taus(some, tensor)).double()
        weight = torch.tensor(told.get("weight", [1.0] * 3)[: len(vectors)], dtype=torch.float64)
        sets = [*chain.from_iterable(combinations(range(len(vectors)), size) for size in range(len(vectors) + 1))]
        sums = []
        for chosen in map(list, sets):
            total = (weight[chosen, None] * vectors[chosen].flatten(1)).sum(0)
            sums.append(total / weight[chosen].sum() if averaged and chosen else total)
        fits = (torch.stack(sums) * told.get("scaling", 1.0) - step.flatten().double()).abs().argmin(0)
        moved = vectors.flatten(1) != 0
        enters = torch.tensor([[index in chosen for chosen in sets] for index in range(len(vectors))])[:, fits] & moved
        counts = enters.sum(0)
        expected = torch.stack([(counts == 0).double(), (counts == 1).double(), (counts > 1).double()]).mean(1)
        torch.testing.assert_close(found.decided[row], expected, rtol=0, atol=1e-9, msg=tensor)
        kept = enters.sum(1) / moved.sum(1)
        torch.testing.assert_close(found.kept[row, : len(kept)], kept.double(), rtol=1e-6, atol=1e-9, msg=tensor)


def test_a_tensor_that_an_expert_lacks_has_no_numbers_of_that_expert(models: list[Path]) -> None:
    comparison = compared(models)

    for name in ("ties", "task_arithmetic"):
        found = predict(recipe(name, models).settings(), comparison)

        assert found.weights[-1].isnan().tolist() == found.kept[-1].isnan().tolist() == [False, False, True]
        assert not found.norms.isnan().any()


def test_a_coefficient_of_zero_keeps_an_expert_out(models: list[Path]) -> None:
    some = recipe("task_arithmetic", models, weights=([1.0, 0.0], 1.0, 0.0))

    found = predict(some.settings(), compared(models))

    last = found.names.index("model.layers.2.mlp.up_proj.weight")
    moved = [tau != 0 for tau in taus(some, found.names[last])]
    assert found.kept[last].tolist() == [0, 1, 0]
    assert float(found.decided[last, 1]) == pytest.approx(float(moved[1].double().mean()))
    assert float(found.decided[last, 2]) == 0
    first = found.names.index("model.layers.0.mlp.up_proj.weight")
    moved = [tau != 0 for tau in taus(some, found.names[first])]
    assert float(found.decided[first, 2]) == pytest.approx(float((moved[0] & moved[1]).double().mean()))


@pytest.mark.parametrize("name", SPECTRAL)
def test_whole_matrices_are_not_worked_out_while_a_slider_moves(models: list[Path], name: str) -> None:
    row = list(SHAPES).index("model.layers.1.mlp.up_proj.weight")
    worker = Predictor(compared(models))

    quick, found = (worker.predict(recipe(name, models).settings(), quick=quick) for quick in (True, False))

    assert quick.norms[row].isnan()
    assert quick.why[row] == wholes.LATER
    assert not found.norms[row].isnan()
    assert found.why[row] == wholes.MIXED
    assert found.weights[row].isnan().all()


def test_whole_matrices_that_would_take_longer_than_anyone_waits_are_left_out(
    models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wholes, "PATIENCE", 0.0)

    found = predict(recipe("iso_c", models).settings(), compared(models))

    left = {name for index, name in enumerate(found.names) if found.why.get(index) == wholes.SLOW}
    assert left == {name for name, shape in SHAPES.items() if len(shape) == 2 and "layers.0.self_attn" not in name}
    assert found.norms[[found.names.index(name) for name in left]].isnan().all()


def test_a_matrix_that_is_not_in_memory_as_a_whole_has_no_norm(models: list[Path]) -> None:
    comparison = compared(models)
    some = [
        predictor.thinned({0: group}, 1.0, group.size // 2).stacks[0].groups[0] for group in comparison.probe.groups
    ]
    partly = replace(comparison, probe=replace(comparison.probe, groups=tuple(some), share=0.5))

    found = predict(recipe("iso_c", models).settings(), partly)

    assert found.why[0] == wholes.LARGE
    assert found.norms[0].isnan()
    assert not found.norms[-1].isnan()  # not a matrix: its coefficients are known


def large(tmp_path: Path) -> list[Path]:
    generator = torch.Generator().manual_seed(0)
    start = {f"model.layers.{i}.w.weight": torch.randn(300, 300, generator=generator) for i in range(3)}
    paths = [write_model(tmp_path / "base", start)]
    for number in (1, 2, 3):
        moved = {n: t + 0.1 * number * torch.randn(300, 300, generator=generator) for n, t in start.items()}
        paths.append(write_model(tmp_path / f"e{number}", moved))
    return paths


@pytest.mark.parametrize("name", ["ties", "pcb", "dare_ties", "breadcrumbs", "sce", "consensus_ta"])
def test_an_estimate_is_near_and_says_from_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(predictor, "QUICK", 100_000)
    paths = large(tmp_path)
    worker = Predictor(compared(paths))

    quick, whole = (worker.predict(recipe(name, paths).settings(), quick=quick) for quick in (True, False))

    assert 0.05 < quick.share < 0.2
    assert not quick.exact
    assert whole.share == 1
    for table in ("weights", "kept", "decided", "norms"):
        torch.testing.assert_close(getattr(quick, table), getattr(whole, table), rtol=0.1, atol=0.02)


def test_more_entries_are_looked_at_where_there_is_time_and_fewer_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "QUICK", 80_000)
    paths = large(tmp_path)
    some, worker = recipe("ties", paths).settings(), Predictor(compared(paths))

    monkeypatch.setattr(pace, "SOON", 1e9)
    shares = [worker.predict(some, quick=True).share for _ in range(6)]
    monkeypatch.setattr(pace, "SOON", 0.0)
    worker.predict(some, quick=True)
    fewer = worker.predict(some, quick=True).share
    monkeypatch.setattr(pace, "SOON", 1e9)
    settled = [worker.predict(some, quick=True).share for _ in range(3)]

    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[-1] == 1
    assert fewer < shares[-1]
    assert len(set(settled)) == 1


@pytest.mark.parametrize("name", ["ties", "iso_c"])
def test_a_prediction_that_nobody_waits_for_ends(models: list[Path], name: str) -> None:
    worker, stop = Predictor(compared(models)), Event()
    stop.set()

    with pytest.raises(MergeStopped), listening(stop):
        worker.predict(recipe(name, models).settings())

    assert worker.predict(recipe(name, models).settings()).exact


def test_a_coefficient_that_moves_does_not_count_all_entries_anew(
    models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Predictor(compared(models))
    first = worker.predict(recipe("task_arithmetic", models, {"lambda": 1.0}).settings())
    monkeypatch.setattr(predictor, "thinned", lambda *_: pytest.fail("all entries are looked at again"))
    worker._samples.clear()

    then = worker.predict(recipe("task_arithmetic", models, {"lambda": 0.5}).settings())

    assert then.exact == first.exact
    torch.testing.assert_close(then.decided, first.decided, equal_nan=True)


def test_surveys_of_tensors_are_kept_for_some_settings_and_no_more(
    models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "SURVEYS", 2)
    comparison = compared(models)
    worker, many = Predictor(comparison), ("from", "metagpt", "model_stock", "karcher")
    some = [recipe(name, models, {"scope": "tensor"} if "scope" in METHODS[name].params else {}) for name in many]

    again = [worker.predict(one.settings()) for one in (*some, *some)]

    assert 0 < len(worker._surveys) <= 2 * len(comparison.names)
    for one, found in zip((*some, *some), again, strict=True):
        assert torch.equal(found.norms, predict(one.settings(), comparison).norms)


def test_layers_and_the_whole_model_are_their_tensors_together(models: list[Path], tmp_path: Path) -> None:
    some = recipe("ties", models, {"density": 0.5})
    _, found, steps = both(some, tmp_path / "out")

    layers, modules, model = found.by_layer(), found.grouped(lambda name: place(name).module), found.total()

    assert layers.names == ("0", "1", "2")
    assert modules.names == ("embed", "q", "up", "attn norm", "final norm")
    of_first = [step.flatten() for name, step in steps.items() if ".layers.0." in name]
    everything = torch.cat([step.flatten() for step in steps.values()])
    assert float(layers.norms[0]) == pytest.approx(float(torch.cat(of_first).norm()), rel=1e-4)
    assert float(layers.decided[0, 0]) == pytest.approx(float((torch.cat(of_first) == 0).double().mean()))
    assert float(model.norms[0]) == pytest.approx(float(everything.norm()), rel=1e-4)
    assert float(model.decided[0, 0]) == pytest.approx(float((everything == 0).double().mean()))
    moved = torch.cat([tau.flatten() for name in steps for tau in taus(some, name)]) != 0
    entered = float((model.kept * model.moved).sum() / model.moved.sum())
    assert entered == pytest.approx(float((found.kept * found.moved).nansum()) / int(moved.sum()))
    assert not model.weights.isnan().any()


def test_a_layers_weight_is_the_mean_by_squared_norms(models: list[Path]) -> None:
    comparison = compared(models)
    found = predict(recipe("from", models).settings(), comparison)

    layer = found.by_layer()

    rows = [index for index, name in enumerate(found.names) if ".layers.1." in name]
    by = comparison.norms[rows].square()
    torch.testing.assert_close(layer.weights[1], (found.weights[rows] * by).sum(0) / by.sum(0))


def test_two_settings_differ_by_their_tables(models: list[Path]) -> None:
    worker = Predictor(compared(models))
    one, other = (worker.predict(recipe("ties", models, {"density": share}).settings()) for share in (0.8, 0.2))
    from_ = worker.predict(recipe("from", models).settings())

    apart, methods = difference(one, other), difference(one.by_layer(), from_.by_layer())

    assert (apart.tables["kept"].nan_to_num() >= 0).all()
    assert (apart.tables["kept"] > 0).any()
    torch.testing.assert_close(apart.tables["norms"][:, 0], one.norms - other.norms)
    assert apart.columns["decided"] == ("none", "one", "several")
    assert apart.columns["weights"] == one.experts
    assert methods.label == "TIES-Merging − FroM"
    assert methods.names == ("0", "1", "2")
    assert not difference(one, one).tables["decided"].any()
    with pytest.raises(MergeError, match="the same models"):
        difference(one, one.by_layer())


def test_a_method_of_rows_is_tried_on_whole_rows(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.compare.PROBE", 1 << 10)
    comparison = compared(models)
    tried_on: list[Group] = []
    real = predictor.tried.tried
    monkeypatch.setattr(
        predictor.tried,
        "tried",
        lambda *given: tried_on.extend(group for stack in given[4].stacks for group in stack.groups) or real(*given),
    )

    found = Predictor(comparison).predict(recipe("della", models).settings(), quick=True)

    shapes = dict(zip(comparison.names, comparison.shapes, strict=True))
    assert 0 < found.share < 1
    assert tried_on
    for group in tried_on:
        assert group.row == shapes[group.name][-1]
        rows = open_checkpoint(models[0]).tensor(group.name).reshape(-1, group.row)
        for row in group.base.reshape(-1, group.row):
            assert (rows == row).all(1).any()


@pytest.mark.parametrize("name", ["della", "arcee_fusion", "ties"])
def test_a_sample_is_kept_by_the_numbers_that_it_has(
    models: list[Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("merging.compare.PROBE", 1 << 10)
    worker = Predictor(compared(models[: 1 + METHODS[name].taking(3)]))
    rows, experts = METHODS[name].unit(2) > 1, METHODS[name].taking(3)
    wanted = worker.at_hand // 4
    sample = worker._sample(wanted, rows)
    numbers = sum(stack.rows.numel() for stack in sample.stacks)
    assert sample.numbers == numbers
    assert not rows or numbers > wanted * (1 + experts)  # at least two rows of every tensor

    for limit, kept in ((numbers, True), (numbers - 1, False)):
        monkeypatch.setattr(predictor, "KEPT", limit)
        worker._samples.clear()
        first = worker._sample(wanted, rows)
        assert (worker._sample(wanted, rows) is first) == kept
        assert sum(sample.numbers for sample in worker._samples.values()) == kept * numbers


def test_a_tensor_that_is_not_finite_is_said_to_be_refused(models: list[Path], tmp_path: Path) -> None:
    broken = {name: open_checkpoint(models[1]).tensor(name) for name in SHAPES}
    broken["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    paths = [models[0], write_model(tmp_path / "broken", broken), *models[2:]]
    comparison = compared(paths)

    for name in ("ties", "task_arithmetic"):
        found = predict(recipe(name, paths).settings(), comparison)

        row = found.names.index("model.layers.0.mlp.up_proj.weight")
        assert found.why == {row: predictor.BROKEN}
        assert found.norms.isnan().nonzero().flatten().tolist() == [row]
        assert found.decided.isnan().any(1).nonzero().flatten().tolist() == [row]


def test_settings_for_other_experts_are_refused(models: list[Path]) -> None:
    with pytest.raises(MergeError, match="2 experts, and settings for 3"):
        predict(recipe("ties", models).settings(), compared(models[:3]))


def test_an_expert_that_did_not_move_adds_nothing(models: list[Path]) -> None:
    paths = [models[0], models[1], models[0]]
    comparison = compared(paths)

    for name in ("ties", "from"):
        found = predict(Recipe(name, paths[0], tuple(paths[1:])).settings(), comparison)

        assert found.kept[:, 1].isnan().all()
        assert not found.norms.isnan().any()
        assert not found.total().norms.isnan().any()
        torch.testing.assert_close(found.against.nan_to_num(), (found.norms / comparison.norms[:, 0]).nan_to_num())
