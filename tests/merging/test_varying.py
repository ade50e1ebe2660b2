"""What differs between tensors reaches the merge: values by layer and name, experts that lack a tensor, dtypes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from merging import groups, passes
from merging.engine import merge, merge_groups
from merging.errors import MergeError
from merging.groups import of_some
from merging.method import METHODS, Group
from merging.methods import pcb
from merging.methods.frobenius import norm_weights
from merging.methods.ties import Trim, _elect, _trimmed
from merging.recipe import Recipe, load_recipe
from tests.conftest import DATA_FREE, write_model

LAYERS = 5
GOLDEN = Path(__file__).parent.parent / "golden"
KIT = [
    case for case in json.loads((GOLDEN / "cases.json").read_text())["cases"] if case["method"].startswith("mergekit")
]


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    start, moved = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    names = ["model.embed_tokens.weight"]
    names += [f"model.layers.{layer}.{part}.weight" for layer in range(LAYERS) for part in ("mlp", "attn")]
    made = {name: torch.randn(5, 4, generator=start) for name in [*names, "model.norm.weight"]}
    if seed:
        made = {name: tensor + 0.1 * torch.randn(5, 4, generator=moved) for name, tensor in made.items()}
    return {name: tensor.to(dtype) for name, tensor in made.items()}


@pytest.fixture
def models(tmp_path: Path, small_chunks: Callable[..., None]) -> list[Path]:
    """A base and two experts, read in chunks of 7 entries."""
    small_chunks(7)
    return [write_model(tmp_path / f"model-{seed}", tensors(seed)) for seed in range(3)]


def merged(recipe: Recipe, out: Path, **settings: Any) -> dict[str, Tensor]:
    merge(recipe, out, **settings)
    return load_file(out / "model.safetensors")


def one(method: str, name: str, *, seeds: tuple[int, ...] = (1, 2), **values: Any) -> Tensor:
    """One tensor merged on its own, in memory."""
    group = Group(name, tensors(0)[name], torch.stack([tensors(seed)[name] for seed in seeds]))
    return dict(merge_groups(METHODS[method], [group], **values))[name]


def between(anchors: list[float], t: float) -> float:
    """A gradient's value at depth t, by the rule of users: straight lines between evenly spaced anchors."""
    place = t * (len(anchors) - 1)
    left = min(int(place), len(anchors) - 2)
    return anchors[left] + (place - left) * (anchors[left + 1] - anchors[left])


def depth(name: str) -> float:
    return int(name.split(".")[2]) / (LAYERS - 1) if "layers" in name else 0.0


def test_a_gradient_reaches_every_layer(models: list[Path], tmp_path: Path) -> None:
    recipe = Recipe("task_arithmetic", models[0], tuple(models[1:]), ([0.0, 1.0], 0.5), {"lambda": [0.4, 1.0, 0.2]})

    found = merged(recipe, tmp_path / "out")

    for name, tensor in found.items():
        weight = [between([0.0, 1.0], depth(name)), 0.5]
        expected = one("task_arithmetic", name, weight=weight, scaling=between([0.4, 1.0, 0.2], depth(name)))
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(found["model.norm.weight"], one("task_arithmetic", "model.norm.weight", weight=[0.0, 0.5]))


def test_a_filter_reaches_the_tensors_that_it_names(models: list[Path], tmp_path: Path) -> None:
    filters = [{"filter": "mlp", "value": 2.0}, {"filter": "layers.3.", "value": [0.0, 1.0]}, {"value": 0.25}]
    recipe = Recipe("linear", models[0], tuple(models[1:]), (filters, 1.0))

    found = merged(recipe, tmp_path / "out")

    for name, tensor in found.items():
        weight = 2.0 if "mlp" in name else 0.75 if "layers.3." in name else 0.25
        assert torch.equal(tensor, one("linear", name, weight=[weight, 1.0])), name


@pytest.mark.parametrize("workers", [1, 3])
def test_each_expert_has_its_own_density_in_each_layer(workers: int, models: list[Path], tmp_path: Path) -> None:
    own = ({"density": [0.2, 0.8]}, {"density": [{"filter": "attn", "value": 0.5}, {"value": 1.0}]})
    values = {"scope": "tensor", "lambda": [{"filter": "mlp", "value": 2.0}, {"value": 1.0}], "merge": "sum"}
    recipe = Recipe("ties", models[0], tuple(models[1:]), (1.0, -0.5), values, own)

    found = merged(recipe, tmp_path / "out", workers=workers)

    for name, tensor in found.items():
        density = [between([0.2, 0.8], depth(name)), 0.5 if "attn" in name else 1.0]
        scaling = 2.0 if "mlp" in name else 1.0
        given = {"density": density, "scaling": scaling, "merge": "sum", "scope": "tensor"}
        assert torch.equal(tensor, one("ties", name, weight=[1.0, -0.5], **given)), name


def test_choices_can_vary(models: list[Path], tmp_path: Path) -> None:
    rules = [{"filter": "mlp", "value": "max"}, {"value": "sum"}]
    recipe = Recipe("ties", models[0], tuple(models[1:]), values={"scope": "tensor", "merge": rules})

    found = merged(recipe, tmp_path / "out")

    for name, tensor in found.items():
        merge = "max" if "mlp" in name else "sum"
        assert torch.equal(tensor, one("ties", name, merge=merge, scope="tensor")), name


def of_mlp(one: Any, other: Any) -> list[dict[str, Any]]:
    return [{"filter": "mlp", "value": one}, {"value": other}]


# Each with a gradient from the one value to the other, and with filters.
VARIED: list[tuple[str, str, float, float]] = [
    ("magmax", "lambda", 0.5, 2.0),
    ("dare_linear", "density", 0.3, 0.9),
    ("dare_ties", "lambda", 0.5, 2.0),
    ("della", "epsilon", 0.01, 0.3),
    ("della_linear", "density", 0.2, 0.8),
    ("breadcrumbs", "gamma", 0.0, 0.4),
    ("breadcrumbs_ties", "density", 0.3, 0.9),
    ("consensus_ta", "tall_lambda", 0.1, 3.0),
    ("consensus_ta", "threshold", 0.0, 2.0),
    ("emr", "lambda", 0.5, 2.0),
    ("sce", "select_topk", 0.2, 1.0),
    ("ram", "epsilon", 0.0, 0.1),
    ("nearswap", "t", 0.0, 0.2),
]


@pytest.mark.parametrize(("method", "key", "low", "high"), VARIED, ids=[f"{name}-{key}" for name, key, *_ in VARIED])
@pytest.mark.parametrize("filtered", [False, True])
def test_every_parameter_may_be_another_in_each_tensor(
    method: str, key: str, low: float, high: float, filtered: bool, models: list[Path], tmp_path: Path
) -> None:
    experts = models[1 : 1 + METHODS[method].taking(2)]
    recipe = Recipe(method, models[0], tuple(experts), values={key: of_mlp(low, high) if filtered else [low, high]})

    found = merged(recipe, tmp_path / "out")

    name_of = {"lambda": "scaling"}.get(key, key)
    seeds = tuple(range(1, 1 + len(experts)))
    for name, tensor in found.items():
        value = (low if "mlp" in name else high) if filtered else between([low, high], depth(name))
        expected = one(method, name, seeds=seeds, **{name_of: value})
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["dare_linear", "della", "breadcrumbs_ties"])
def test_what_makes_up_for_dropped_entries_may_be_another_in_each_tensor(
    method: str, models: list[Path], tmp_path: Path
) -> None:
    own = ({"density": 0.4}, {"density": of_mlp(0.8, 0.6)})
    recipe = Recipe(method, models[0], tuple(models[1:]), values={"rescale": of_mlp("l1", "none")}, own=own, seed=3)

    found = merged(recipe, tmp_path / "out")

    for name, tensor in found.items():
        density, rule = ([0.4, 0.8], "l1") if "mlp" in name else ([0.4, 0.6], "none")
        expected = one(method, name, density=density, rescale=rule, seed=3)
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7)  # sums are taken tile by tile


def test_what_a_survey_of_the_model_does_not_take_may_vary(models: list[Path], tmp_path: Path) -> None:
    recipe = Recipe("ties", models[0], tuple(models[1:]), ([0.2, 1.0], 1.0), {"lambda": [{"value": [1.0, 2.0]}]})

    found = merged(recipe, tmp_path / "out")

    weights = {name: [between([0.2, 1.0], depth(name)), 1.0] for name in found}
    trim = surveyed(dict.fromkeys(found, (0, 1)), weights, 0.2)
    for name, tensor in found.items():
        group = Group(name, tensors(0)[name], torch.stack([tensors(seed)[name] for seed in (1, 2)])).cut(0, 20)
        known = {"scaling": between([1.0, 2.0], depth(name)), "weight": torch.tensor(weights[name])}
        expected = METHODS["ties"].outcome(group, trim, METHODS["ties"].filled(known, 2)).merged(group)
        torch.testing.assert_close(tensor.flatten(), expected, rtol=1e-6, atol=1e-7)


def taus(seed: int, names: list[str]) -> Tensor:
    return torch.cat([(tensors(seed)[name] - tensors(0)[name]).flatten() for name in names])


def surveyed(has: dict[str, tuple[int, ...]], weights: dict[str, list[float]], density: float) -> Trim:
    """The survey of TIES over a model, from sorted whole task vectors of what each expert has."""
    thresholds = []
    for expert in (0, 1):
        sizes = taus(expert + 1, [name for name in has if expert in has[name]]).abs().sort().values
        thresholds.append(sizes[len(sizes) - int(len(sizes) * density) - 1])
    trim = Trim(torch.stack(thresholds), torch.zeros(2), torch.ones(()))
    balance = 0.0
    for name, which in has.items():
        some = of_some(trim, which)
        tau = torch.stack([taus(expert + 1, [name]) for expert in which])
        balance += _elect(_trimmed(tau, some.thresholds), some, "mass", torch.tensor(weights[name])).sum().item()
    return trim._replace(majority=torch.tensor(balance).sign())


@pytest.fixture(params=["sorted", "counted"])
def lacking(
    models: list[Path], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[int, ...]]:
    """Which experts have each tensor: the first lacks one, the second the embedding, and both lack another one."""
    has: dict[str, tuple[int, ...]] = dict.fromkeys(tensors(0), (0, 1))
    has |= {"model.layers.2.mlp.weight": (1,), "model.embed_tokens.weight": (0,), "model.layers.4.mlp.weight": ()}
    for module in (groups, passes) if request.param == "counted" else ():  # as ranks of large models are found
        monkeypatch.setattr(module, "FEW", 0)
    for expert in (0, 1):
        left = {name: tensor for name, tensor in tensors(expert + 1).items() if expert in has[name]}
        write_model(models[expert + 1], left)
    return has


def groups_of(has: dict[str, tuple[int, ...]]) -> dict[str, Group]:
    """The tensors of those experts that have them."""
    return {
        name: Group(name, tensors(0)[name], torch.stack([tensors(expert + 1)[name] for expert in which])).cut(0, 20)
        for name, which in has.items()
        if which
    }


def test_weights_of_an_average_are_those_of_who_has_the_tensor(
    lacking: dict[str, tuple[int, ...]], models: list[Path], tmp_path: Path
) -> None:
    recipe = Recipe("linear", models[0], tuple(models[1:]), (3.0, 1.0))

    found = merged(recipe, tmp_path / "out")

    assert torch.equal(found["model.layers.2.mlp.weight"], tensors(2)["model.layers.2.mlp.weight"])
    assert torch.equal(found["model.embed_tokens.weight"], tensors(1)["model.embed_tokens.weight"])
    assert torch.equal(found["model.layers.4.mlp.weight"], tensors(0)["model.layers.4.mlp.weight"])
    name = "model.layers.0.mlp.weight"
    assert torch.equal(found[name], 0.75 * tensors(1)[name] + 0.25 * tensors(2)[name])


@pytest.mark.parametrize("method", ["task_arithmetic", "from", "ties", "pcb"])
def test_each_tensor_alone_is_merged_of_who_has_it(
    method: str, lacking: dict[str, tuple[int, ...]], models: list[Path], tmp_path: Path
) -> None:
    scope = {"scope": "tensor"} if METHODS[method].survey else {}
    weights = (2.0, -0.5) if "weight" in METHODS[method].params else ()
    own = ({"density": 0.3}, {"density": 0.9}) if method == "ties" else ()
    recipe = Recipe(method, models[0], tuple(models[1:]), weights, scope, own)

    found = merged(recipe, tmp_path / "out")

    for name, which in lacking.items():
        if not which:
            assert torch.equal(found[name], tensors(0)[name])
            continue
        given: dict[str, Any] = {"weight": [weights[expert] for expert in which]} if weights else {}
        given |= {"density": [(0.3, 0.9)[expert] for expert in which]} if own else {}
        assert torch.equal(found[name], one(method, name, seeds=tuple(e + 1 for e in which), **given, **scope)), name


def test_a_survey_of_the_model_by_ties_counts_what_an_expert_has(
    lacking: dict[str, tuple[int, ...]], models: list[Path], tmp_path: Path, both_paths: str
) -> None:
    recipe = Recipe("ties", models[0], tuple(models[1:]), (1.0, 0.5), {"density": 0.4})

    found = merged(recipe, tmp_path / "out")

    some = {name: which for name, which in lacking.items() if which}
    weights = {name: [(1.0, 0.5)[expert] for expert in which] for name, which in some.items()}
    trim = surveyed(some, weights, 0.4)
    for name, group in groups_of(lacking).items():
        known = METHODS["ties"].filled({"weight": weights[name]}, len(some[name]))
        expected = METHODS["ties"].outcome(group, of_some(trim, some[name]), known).merged(group)
        assert torch.equal(found[name].flatten(), expected), name


def test_a_survey_of_the_model_by_norms_counts_what_an_expert_has(
    lacking: dict[str, tuple[int, ...]], models: list[Path], tmp_path: Path, both_paths: str
) -> None:
    recipe = Recipe("from", models[0], tuple(models[1:]), values={"scope": "model", "k": 2.0})

    found = merged(recipe, tmp_path / "out")

    have = [[name for name, which in lacking.items() if expert in which] for expert in (0, 1)]
    norms = torch.stack([taus(expert + 1, have[expert]).double().norm() for expert in (0, 1)])
    for name, group in groups_of(lacking).items():
        shares = norm_weights(norms[list(lacking[name])], 2.0).float()
        expected = group.base + (shares[:, None] * group.tau).sum(0)
        torch.testing.assert_close(found[name].flatten(), expected, rtol=1e-6, atol=1e-7)


def test_a_survey_of_the_model_by_pcb_counts_what_an_expert_has(
    lacking: dict[str, tuple[int, ...]], models: list[Path], tmp_path: Path, both_paths: str
) -> None:
    recipe = Recipe("pcb", models[0], tuple(models[1:]), values={"clamp": 0.05, "ratio": 0.3})

    found = merged(recipe, tmp_path / "out")

    groups, sizes = groups_of(lacking), []
    for expert in (0, 1):
        values = taus(expert + 1, [name for name, which in lacking.items() if expert in which]).abs().sort().values
        count = len(values)
        sizes.append(torch.stack([values[int(count * 0.05)], values[int(count * 0.95 - 1)]]))
    low, high = torch.stack(sizes).T
    bounds = pcb.Competition(torch.ones(2, dtype=torch.bool), low, high, torch.zeros(2), torch.zeros(2))
    scores: list[list[Tensor]] = [[], []]
    for name, group in groups.items():
        rows = pcb.scores(group.tau, of_some(bounds, lacking[name]), "release")
        for expert, row in zip(lacking[name], rows, strict=True):
            scores[expert].append(row)
    ranked = [torch.cat(rows).sort().values for rows in scores]
    thresholds = torch.stack([row[min(int(len(row) * 0.7), len(row) - 2)] for row in ranked])
    bounds = bounds._replace(threshold=thresholds, best=torch.stack([row[-1] for row in ranked]))
    for name, group in groups.items():
        known = METHODS["pcb"].filled({}, len(lacking[name]))
        expected = METHODS["pcb"].outcome(group, of_some(bounds, lacking[name]), known).merged(group)
        torch.testing.assert_close(found[name].flatten(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", DATA_FREE)
def test_an_expert_with_nothing_to_merge(method: str, models: list[Path], tmp_path: Path) -> None:
    """It takes no part, whatever the scope of the survey."""
    write_model(models[2], {"other": torch.ones(3)})
    scopes: list[dict[str, Any]] = [{"scope": "model"}, {"scope": "tensor"}] if METHODS[method].survey else [{}]

    for number, values in enumerate(scopes):
        both = Recipe(method, models[0], tuple(models[1:]), values=values)
        alone = Recipe(method, models[0], (models[1],), values=values)
        try:
            found = merged(both, tmp_path / f"both-{number}")
        except MergeError as error:
            assert "model-2" in str(error)  # noqa: PT017 - either is a clear answer
        else:
            expected = merged(alone, tmp_path / f"alone-{number}")
            assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("dtype", "both_paths"),
    [("float32", "numba"), ("bfloat16", "numba"), ("bfloat16", "torch"), ("float16", "torch")],
    indirect=["both_paths"],
)
@pytest.mark.parametrize("method", DATA_FREE)
def test_the_result_has_the_dtype_that_is_asked_for(
    dtype: str, method: str, tmp_path: Path, small_chunks: Callable[..., None], both_paths: str
) -> None:
    small_chunks(7)
    seeds = range(1, 1 + METHODS[method].taking(2))
    start = {seed: tensors(seed, torch.bfloat16) for seed in (0, *seeds)}
    folders = [write_model(tmp_path / f"m{seed}", made | {"ids": torch.arange(3)}) for seed, made in start.items()]

    found = merged(Recipe(method, folders[0], tuple(folders[1:]), out_dtype=dtype), tmp_path / "out")

    assert found.pop("ids").dtype == torch.int64
    groups = [
        Group(name, start[0][name].float(), torch.stack([start[seed][name].float() for seed in seeds]))
        for name in start[0]
    ]
    for name, tensor in merge_groups(METHODS[method], groups):
        assert found[name].dtype == getattr(torch, dtype)
        assert torch.equal(found[name], tensor.to(getattr(torch, dtype))), name
    assert json.loads((tmp_path / "out" / "config.json").read_text()).get("dtype", dtype) == dtype


def test_copies_have_the_dtype_that_is_asked_for(models: list[Path], tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", tensors(0) | {"lonely": torch.linspace(0, 1, 20)})

    found = merged(Recipe("linear", base, (models[1],), out_dtype="bfloat16"), tmp_path / "out")

    assert torch.equal(found["lonely"], torch.linspace(0, 1, 20).bfloat16())


@pytest.mark.parametrize("keep", ["keep", "drop"])
def test_tensors_that_only_experts_have(keep: Any, models: list[Path], tmp_path: Path) -> None:
    extra = {"extra.weight": torch.randn(4, 5), "extra.ids": torch.arange(9)}
    write_model(models[2], tensors(2) | extra)
    recipe = Recipe("task_arithmetic", models[0], tuple(models[1:]), extra_tensors=keep)

    report = merge(recipe, tmp_path / "out")

    found = load_file(tmp_path / "out" / "model.safetensors")
    assert set(found) == {*tensors(0), *(extra if keep == "keep" else ())}
    assert all(torch.equal(found[name], tensor) for name, tensor in extra.items() if keep == "keep")
    assert set(report.checksums) == set(found)
    assert set(report.fates) == {*tensors(0), *extra}


def test_without_a_base_the_first_expert_gives_the_shapes(models: list[Path], tmp_path: Path) -> None:
    write_model(models[1], tensors(1, torch.bfloat16))

    found = merged(Recipe("linear", None, tuple(models[1:]), (1.0, 3.0)), tmp_path / "out")

    for name, tensor in found.items():
        first = tensors(1, torch.bfloat16)[name].float()
        assert torch.equal(tensor, (0.25 * first + 0.75 * tensors(2)[name]).bfloat16())


def test_a_seed_is_part_of_the_recipe_and_of_its_result(models: list[Path], tmp_path: Path) -> None:
    found = merged(Recipe("ties", models[0], tuple(models[1:]), seed=12), tmp_path / "seeded")
    plain = merged(Recipe("ties", models[0], tuple(models[1:])), tmp_path / "plain")

    assert load_recipe(tmp_path / "seeded").seed == 12
    assert all(torch.equal(found[name], plain[name]) for name in plain)  # nothing is drawn at random here


@pytest.mark.parametrize("case", KIT, ids=[case["id"] for case in KIT])
def test_a_config_of_mergekit_gives_its_numbers(case: dict[str, Any], tmp_path: Path) -> None:
    stored = load_file(GOLDEN / case["file"])
    models = ["base", *(f"expert{number}" for number in range(case["num_experts"]))]
    for model in models:
        prefix = f"{model}."
        made = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
        write_model(tmp_path / model, made, {})
    method, params = case["method"].removeprefix("mergekit."), case["params"]
    singles = params.get("per_model", {})
    own = [{key: numbers[i] for key, numbers in singles.items()} for i in range(case["num_experts"])]
    config: dict[str, Any] = {
        "merge_method": method,
        "models": [
            {"model": str(tmp_path / model), "parameters": mine} for model, mine in zip(models[1:], own, strict=True)
        ],
        "parameters": params.get("global", {}),
        "dtype": "float32",
    }
    if params["use_base"]:
        config |= {"base_model": str(tmp_path / "base")}

    found = merged(load_recipe(yaml.safe_dump(config)), tmp_path / "out")

    expected = {name.removeprefix("merged."): tensor for name, tensor in stored.items() if name.startswith("merged.")}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=case["rtol"], atol=case["atol"])
