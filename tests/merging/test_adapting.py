"""Adapters merged into an adapter: what PEFT makes of it is the merge of the models that they are."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import MergeError, MergeStopped, Recipe, load_recipe, merge
from merging.adapter import open_expert
from merging.checkpoint import open_checkpoint
from merging.findings import PROGRAM
from merging.low_rank import of_matrix
from merging.method import ADAPTERS, METHODS
from merging.preflight import check
from merging.publish import beside
from merging.verify import verify
from tests.adapters import gpt2, loaded, random_adapter, trained, written

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
ZOO = Path(__file__).parents[2] / "zoo"
ATTENTION: dict[str, Any] = {"target_modules": ["q_proj", "v_proj", "up_proj"]}
WIDER: dict[str, Any] = {"target_modules": ["q_proj", "v_proj", "down_proj", "embed_tokens"], "r": 3}
SUMS: list[tuple[str, dict[str, Any], tuple[float, ...]]] = [
    ("task_arithmetic", {"lambda": 0.7}, (1.0, -0.5)),
    ("task_arithmetic", {"lambda": [0.2, 0.9]}, (1.0, 2.0)),
    ("linear", {}, (0.3, 0.9)),
    ("from", {"k": 2.0}, ()),
    ("from", {"k": 2.0, "scope": "model", "lambda": 0.5}, ()),
]


def assert_merged_alike(recipe: Recipe, folder: Path, rtol: float = 1e-4) -> Path:
    """That the adapter, put into its base by PEFT, is the model which the same recipe makes; the adapter's folder."""
    given = {"method": recipe.method, "base": recipe.base, "experts": recipe.experts}
    rest = {"weights": recipe.weights, "values": recipe.values, "seed": recipe.seed}
    assert recipe.base

    out = merge(recipe, folder / "merged").out
    merge(Recipe(**given, **rest), folder / "dense")  # type: ignore[arg-type]

    found, expected = loaded(recipe.base, out), load_file(folder / "dense" / "model.safetensors")
    assert len(expected) > 20
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=rtol, atol=1e-5)
    return out


@pytest.mark.parametrize(("method", "values", "weights"), SUMS)
def test_sums_are_exact(tmp_path: Path, method: str, values: dict[str, Any], weights: tuple[float, ...]) -> None:
    base, adapters = written(tmp_path, ATTENTION, WIDER)

    out = assert_merged_alike(Recipe(method, base, adapters, weights, values, result="adapter"), tmp_path)

    config = json.loads((out / "adapter_config.json").read_text())
    ranks = {name: len(tensor) for name, tensor in load_file(out / "adapter_model.safetensors").items() if "_A" in name}
    assert {rank for name, rank in ranks.items() if "q_proj" in name} == {7}
    assert {rank for name, rank in ranks.items() if "up_proj" in name} == {4}
    assert {rank for name, rank in ranks.items() if "embed" in name} == {3}
    assert config["alpha_pattern"] == config["rank_pattern"]
    assert config["lora_alpha"] == config["r"]


def test_peft_runs_the_merged_adapter_as_the_sum_of_all(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base, adapters = written(tmp_path, ATTENTION, {**WIDER, "use_rslora": True, "alpha_pattern": {"q_proj": 3}})
    recipe = Recipe("task_arithmetic", base, adapters, (1.0, -0.5), {"lambda": 1.0}, result="adapter")
    out = merge(recipe, tmp_path / "out").out
    start, tokens = load_file(base / "model.safetensors"), torch.arange(12).reshape(2, 6)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()

    with torch.no_grad():
        found = peft.PeftModel.from_pretrained(model, out).eval()(tokens).logits
        summed = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        parts = [loaded(base, adapter) for adapter in adapters]
        weights = {name: t + (parts[0][name] - t) - 0.5 * (parts[1][name] - t) for name, t in start.items()}
        summed.load_state_dict(weights)
        expected = summed(tokens).logits

    assert (expected - AutoModelForCausalLM.from_pretrained(base).eval()(tokens).logits).abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


BY_BASE = ["slerp", "karcher", "arcee_fusion"]  # and not by what the adapters change of it alone
MAKING = {name: told for name, told in (METHODS | ADAPTERS).items() if name not in BY_BASE and not told.collects}


def adapters_for(method: str) -> tuple[Path, ...]:
    """As many of the zoo's adapters as the method takes."""
    every = [ZOO / f"{name}-lora" for name in ("shakespeare", "bible", "python")]
    return tuple(every[: (METHODS | ADAPTERS)[method].taking(3)])


@pytest.mark.parametrize("method", MAKING)
def test_what_any_method_makes_of_the_zoos_adapters_is_loaded_by_peft(tmp_path: Path, method: str) -> None:
    base, values = ZOO / "base", {"alpha": 0.5} if method == "lines" else {}

    recipe = Recipe(method, base, adapters_for(method), values=values, result="adapter", rank=6)
    report = merge(recipe, tmp_path / "out")

    found, read = loaded(base, report.out), open_expert(report.out, open_checkpoint(base))
    changed = [name for name in read.made if "proj" in name]
    assert changed
    for name in changed:
        ours, start = read.tensor(name).float(), open_checkpoint(base).tensor(name).float()
        assert not torch.equal(ours, start)
        torch.testing.assert_close(found[name], ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [*BY_BASE, *(name for name, method in METHODS.items() if method.collects)])
def test_what_no_adapter_can_hold_is_refused(method: str, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match=r"Leave `result` out\.$"):
        merge(Recipe(method, ZOO / "base", adapters_for(method), result="adapter", rank=6), tmp_path / "out")


@pytest.mark.parametrize("method", ["dare_linear", "della"])
def test_draws_are_those_of_a_merge_into_a_model(
    method: str, tmp_path: Path, small_chunks: Callable[..., None]
) -> None:
    small_chunks(7, 3)  # which is no multiple of a row
    base, adapters = written(tmp_path, ATTENTION, WIDER)
    recipe = Recipe(method, base, adapters, out_dtype="float32", seed=5)

    model = open_checkpoint(merge(recipe, tmp_path / "model").out)
    adapter = merge(replace(recipe, result="adapter", rank=1000), tmp_path / "adapter").out
    other = merge(replace(recipe, result="adapter", rank=1000, seed=6), tmp_path / "other").out

    found, another = (open_expert(out, open_checkpoint(base)) for out in (adapter, other))
    for name in found.made:
        torch.testing.assert_close(found.tensor(name), model.tensor(name), rtol=1e-4, atol=1e-4)
    assert not all(torch.equal(found.tensor(name), another.tensor(name)) for name in found.made)


@pytest.mark.parametrize("method", ["tsv_m", "star", "model_stock"])
def test_whole_matrices_merge_into_an_adapter_as_into_a_model(method: str, tmp_path: Path) -> None:
    values = {"filter_wise": True} if method == "model_stock" else {}
    recipe = Recipe(method, ZOO / "base", adapters_for(method), values=values, out_dtype="float32")

    model = merge(recipe, tmp_path / "model").out
    adapter = merge(replace(recipe, result="adapter", rank=1000), tmp_path / "adapter").out

    expected, base = open_checkpoint(model), open_checkpoint(ZOO / "base")
    found = open_expert(adapter, base)
    for name in found.made:
        torch.testing.assert_close(found.tensor(name).float(), expected.tensor(name), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("reading", ["factors", "weights"])
def test_averaged_factors_keep_the_rank(tmp_path: Path, reading: str) -> None:
    base, adapters = written(tmp_path, ATTENTION, {**WIDER, "r": 4})
    values = {"lora": reading, "lambda": 0.8}

    out = assert_merged_alike(Recipe("from", base, adapters, values=values, result="adapter"), tmp_path)

    assert json.loads((out / "adapter_config.json").read_text())["r"] == 4
    assert json.loads((out / "adapter_config.json").read_text())["rank_pattern"] == {}


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_what_is_chosen_entry_by_entry_is_the_nearest_of_its_rank(tmp_path: Path, scope: str) -> None:
    base, adapters = written(tmp_path, ATTENTION, ATTENTION)
    recipe = Recipe("ties", base, adapters, values={"density": 0.4, "scope": scope}, result="adapter", rank=8)

    report = merge(recipe, tmp_path / "whole")
    if scope == "tensor":  # of the whole model other tensors count, too
        merge(Recipe("ties", base, adapters, values={"density": 0.4, "scope": scope}), tmp_path / "dense")
        expected = load_file(tmp_path / "dense" / "model.safetensors")
        for name, tensor in loaded(base, tmp_path / "whole").items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
    assert report.warnings == ()

    less = merge(
        Recipe("ties", base, adapters, values={"density": 0.4, "scope": scope}, result="adapter", rank=2),
        tmp_path / "cut",
    )

    whole, cut = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut"))
    lost = total = 0.0
    for name in [name for name in whole if ".lora_A." in name]:
        up = name.replace("lora_A", "lora_B")
        matrix, near = (tensors[up].double() @ tensors[name].double() for tensors in (whole, cut))
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        torch.testing.assert_close(near, (left[:, :2] * sizes[:2]) @ right[:2], rtol=1e-4, atol=1e-5)
        lost, total = lost + float(sizes[2:].square().sum()), total + float(sizes.square().sum())
    [words] = less.warnings
    assert words.startswith(f"The rank leaves out {lost / total:.2%} of the squared norm of all updates, and most of `")


def test_sums_are_cut_to_the_nearest_of_a_rank(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, ATTENTION, WIDER)
    kind: dict[str, Any] = {"values": {"lambda": 1.0}, "result": "adapter"}
    whole = load_file(
        merge(Recipe("task_arithmetic", base, adapters, **kind), tmp_path / "a").out / "adapter_model.safetensors"
    )

    report = merge(Recipe("task_arithmetic", base, adapters, **kind, rank=4), tmp_path / "b")

    cut = load_file(report.out / "adapter_model.safetensors")
    story = json.loads((report.out / "mergescope.json").read_text())
    for name in [name for name in whole if name.endswith("q_proj.lora_A.weight")]:
        up = name.replace("lora_A", "lora_B")
        matrix, near = (tensors[up].double() @ tensors[name].double() for tensors in (whole, cut))
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        torch.testing.assert_close(near, (left[:, :4] * sizes[:4]) @ right[:4], rtol=1e-5, atol=1e-6)
        share = float(sizes[4:].square().sum() / sizes.square().sum())
        key = name.removeprefix("base_model.model.").replace("lora_A.", "")
        assert story["lost"][key] == pytest.approx(share, rel=1e-4)
        assert f"{max(story['lost'].values()):.2%}" in report.warnings[0]
    assert story["warnings"] == list(report.warnings)


FULL: list[tuple[dict[str, Any], dict[str, Any], str, list[str] | None]] = [
    ({"bias": "lora_only"}, {"bias": "lora_only"}, "lora_only", None),
    ({"bias": "all"}, {}, "all", None),
    (
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["norm"], "bias": "lora_only"},
        "lora_only",
        ["lm_head", "norm"],
    ),
]


@pytest.mark.parametrize(("first", "second", "bias", "saved"), FULL)
@pytest.mark.parametrize("method", ["from", "task_arithmetic"])
def test_what_was_trained_in_full_is_merged_as_in_any_model(
    tmp_path: Path, method: str, first: dict[str, Any], second: dict[str, Any], bias: str, saved: list[str] | None
) -> None:
    base, adapters = written(tmp_path, {**ATTENTION, **first}, {"target_modules": ["q_proj", "k_proj"], **second})

    out = assert_merged_alike(Recipe(method, base, adapters, result="adapter"), tmp_path)

    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["bias"], config["modules_to_save"]) == (bias, saved)
    again = open_expert(out, open_checkpoint(base))
    for name, tensor in load_file(tmp_path / "dense" / "model.safetensors").items():
        torch.testing.assert_close(again.tensor(name).float(), tensor, rtol=1e-4, atol=1e-5)


def test_layers_that_are_stored_transposed(tmp_path: Path) -> None:
    for number in range(2):
        torch.manual_seed(0)
        model = gpt2()
        torch.manual_seed(number + 1)
        trained(
            model, tmp_path / str(number), r=2, lora_alpha=3, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True
        )
    adapters = tuple(tmp_path / str(number) / "adapter" for number in range(2))

    assert_merged_alike(Recipe("from", tmp_path / "0" / "base", adapters, result="adapter"), tmp_path)
    alone = merge(Recipe("from", None, adapters, result="adapter"), tmp_path / "alone").out

    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "merged", alone))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    ties: dict[str, Any] = {"values": {"density": 0.5, "scope": "tensor"}, "result": "adapter", "rank": 8}
    (tmp_path / "t").mkdir()
    assert_merged_alike(Recipe("ties", tmp_path / "0" / "base", adapters, **ties), tmp_path / "t")


def test_without_the_base_the_adapter_is_the_same_to_the_byte(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, ATTENTION, {**ATTENTION, "r": 2})

    outs = [
        merge(Recipe("from", start, adapters, result="adapter"), tmp_path / str(start is None)).out
        for start in (base, None)
    ]

    ours, theirs = (load_file(out / "adapter_model.safetensors") for out in outs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("method", ["from", "ties", "peft", "knots"])
def test_workers_change_no_byte(tmp_path: Path, method: str) -> None:
    base, adapters = written(tmp_path, ATTENTION, WIDER)
    values = {"peft": {"combination_type": "ties_svd", "density": 0.3}}.get(method, {})
    recipe = Recipe(method, base, adapters, values=values, result="adapter", rank=4)

    outs = [merge(recipe, tmp_path / f"out-{workers}", workers=workers).out for workers in (1, 3)]

    assert all((outs[0] / file.name).read_bytes() == file.read_bytes() for file in outs[1].iterdir())
    assert verify(outs[0]).problems == []


def test_a_merged_adapter_is_its_own_recipe_and_an_expert_like_any_other(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, ATTENTION, WIDER)
    recipe = Recipe("from", base, adapters, values={"k": 3.0}, result="adapter", rank=5)

    first = merge(recipe, tmp_path / "first").out
    second = merge(load_recipe(first), tmp_path / "second").out
    third = merge(load_recipe(first / "adapter_model.safetensors"), tmp_path / "third").out

    for again in (second, third):
        assert (again / "adapter_model.safetensors").read_bytes() == (first / "adapter_model.safetensors").read_bytes()
    merge(Recipe("task_arithmetic", base, (first,), values={"lambda": 1.0}), tmp_path / "dense")
    expected = loaded(base, first)
    for name, tensor in load_file(tmp_path / "dense" / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


def test_a_merge_that_was_stopped_goes_on_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapters = written(tmp_path, ATTENTION, WIDER)
    recipe = Recipe("ties", base, adapters, values={"scope": "tensor"}, result="adapter", rank=2)
    expected = merge(recipe, tmp_path / "whole").out
    stop, place = threading.Event(), tmp_path / "out"

    def half(step: Any) -> None:
        if step.done >= step.total // 2:
            stop.set()

    with pytest.raises(MergeStopped):
        merge(recipe, place, on_step=half, stop=stop, workers=1)
    assert not place.exists()
    left = [json.loads(line) for line in (beside(place) / "journal.jsonl").read_text().splitlines()]
    assert 1 < len(left) < 2 * 9

    done: list[str] = []
    monkeypatch.setattr("merging.adapting.of_matrix", lambda *given: (done.append("again"), of_matrix(*given))[1])
    report = merge(recipe, place)

    assert len(done) == 9 - (len(left) - 1) // 2
    for file in expected.iterdir():
        told = (place / file.name).read_text(errors="replace").replace("/out", "/whole")
        assert told == file.read_text(errors="replace")
    assert len(report.warnings) == 1
    assert report.kept == (len(left) - 1) // 2


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"method": "ties"}, {}, "What TIES-Merging makes of adapters has no low rank by itself. Say which: `rank: 16`."),
    ({"method": "linear", "values": {"normalize": False}}, {}, "Linear with these values depends on more than what"),
    (
        {"method": "from"},
        {"modules_to_save": ["v_proj"], "target_modules": ["q_proj"]},
        "was trained in full in adapter-1",
    ),
    (
        {"method": "from", "values": {"lora": "factors"}},
        {"r": 2},
        "their ranks differ, 4 in adapter-0 and 2 in adapter-1",
    ),
    ({"method": "from", "tokenizer_source": "union"}, {}, "`tokenizer_source` has no meaning for an adapter"),
    ({"method": "from", "result": "adaptor"}, {}, "`result` must be one of model, adapter, but it is 'adaptor'."),
    ({"method": "from", "result": "model", "rank": 4}, {}, "`rank` is that of an adapter."),
    (
        {"method": "from"},
        {"use_dora": True},
        "adapter-1 is a DoRA, whose change of the base is more than a product of factors. Merge into a model.",
    ),
]


@pytest.mark.parametrize(("given", "settings", "words"), REFUSED)
def test_what_no_adapter_can_hold_is_told_before_the_merge(
    tmp_path: Path, given: dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    base, adapters = written(tmp_path, ATTENTION, {**ATTENTION, **settings})

    found = check(Recipe(base=base, experts=adapters, **{"result": "adapter", **given}), tmp_path / "out")

    [problem] = found.problems
    assert words in problem
    with pytest.raises(MergeError):
        merge(Recipe(base=base, experts=adapters, **{"result": "adapter", **given}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_that_differ_by_little_are_told_apart(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.mlp.up_proj" for layer in range(2)]
    adapters = tuple(random_adapter(tmp_path / str(seed), seed, dict.fromkeys(names, (6, 4))) for seed in range(4))
    near = [{"filter": "layers.0.", "value": 0.25}, {"value": 0.24996}]  # of which four are no 1
    recipe = Recipe("linear", None, adapters, (near,) * 4, {"normalize": False}, result="adapter")

    [problem] = check(recipe).problems

    assert problem.startswith("Linear with these values depends on more than what the adapters change")
    assert check(replace(recipe, weights=(0.25,) * 4)).problems == ()


@pytest.mark.parametrize(
    ("method", "otherwise"),
    [("knots", "or choose a method that merges into a model"), ("linear", "or merge into a model")],
)
def test_a_full_model_is_refused_with_a_way_that_there_is(method: str, otherwise: str, tmp_path: Path) -> None:
    base, (adapter,) = written(tmp_path, ATTENTION)

    problems = check(Recipe(method, None, (base, adapter), result="adapter")).problems

    assert problems == (
        "base is a full model, and only adapters are merged into an adapter. Extract an adapter from it first (`python "
        f"-m merging extract`), {otherwise}.",
    )


@pytest.mark.parametrize("based", [True, False])
def test_peft_finds_the_base_by_itself(based: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    base, adapters = written(tmp_path, ATTENTION, ATTENTION)
    for adapter in adapters:
        config = json.loads((adapter / "adapter_config.json").read_text())
        elsewhere = "../nowhere" if based else "../base"
        (adapter / "adapter_config.json").write_text(
            json.dumps({**config, "task_type": "CAUSAL_LM", "base_model_name_or_path": elsewhere})
        )
    monkeypatch.chdir(tmp_path)
    recipe = Recipe("task_arithmetic", Path("base") if based else None, adapters, result="adapter")

    out = merge(recipe, tmp_path / "deep" / "out").out

    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base.resolve())
    monkeypatch.chdir("/")
    found = peft.AutoPeftModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    expected = peft.PeftModel.from_pretrained(type(found.base_model.model).from_pretrained(base), out)
    for one, other in zip(found.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_name_on_the_hub_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, (adapter,) = written(tmp_path, ATTENTION)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "owner/name"}))
    cached = tmp_path / "hub" / "models--owner--name"
    commit = "0123456789" * 4
    shutil.copytree(base, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    told = [
        json.loads((merge(recipe, tmp_path / out).out / "adapter_config.json").read_text())["base_model_name_or_path"]
        for out, recipe in (
            ("unnamed", Recipe("task_arithmetic", None, (adapter,), result="adapter")),
            ("named", Recipe("task_arithmetic", cached / "snapshots" / commit, (adapter,), result="adapter")),
            ("here", Recipe("task_arithmetic", base, (adapter,), result="adapter")),
        )
    ]

    assert told == ["owner/name", "owner/name", str(base.resolve())]


def test_what_is_wrong_with_each_of_several_adapters_is_told_at_once(tmp_path: Path) -> None:
    first, second, third = (
        random_adapter(tmp_path / str(number), number, {"model.layers.0.up_proj": (6, 4)}, **config)
        for number, config in enumerate([{"use_qalora": True}, {}, {"lora_alpha": float("nan")}])
    )

    problems = check(Recipe("from", None, (first, second, third), result="adapter")).problems

    assert problems == (
        "0 is an adapter with QA-LoRA. Merge it into its base with PEFT first.",
        f"{third / 'adapter_config.json'} has no usable `lora_alpha`. Download it again.",
    )


def test_adapters_of_different_shapes_are_of_different_bases(tmp_path: Path) -> None:
    adapters = [random_adapter(tmp_path / str(side), side, {"layers.0.up_proj": (6, side)}) for side in (4, 5)]

    [problem] = check(Recipe("from", None, tuple(adapters), result="adapter")).problems

    words = "`layers.0.up_proj.weight` has another shape in 5 than in another adapter."
    assert problem == f"{words} Only adapters of one base can be merged."


def test_adapters_without_any_factors_make_no_adapter(tmp_path: Path) -> None:
    base, [adapter] = written(tmp_path, {**ATTENTION, "modules_to_save": ["lm_head"]})
    file = adapter / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "lora_" not in name}, file)

    [problem] = check(Recipe("from", base, (adapter,), result="adapter")).problems

    assert problem == "There are no factors in any of these adapters, so no LoRA to make. Leave `result` out."


def test_modules_whose_names_end_alike_have_their_own_ranks(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    sides = {"proj": (5, 6), "block.proj": (7, 5), "block.last": (4, 7)}
    adapters = [random_adapter(tmp_path / "0", 0, sides, 2), random_adapter(tmp_path / "1", 1, {"proj": (5, 6)}, 3)]
    block = torch.nn.ModuleDict({"proj": torch.nn.Linear(5, 7, bias=False), "last": torch.nn.Linear(7, 4, bias=False)})
    model = torch.nn.ModuleDict({"proj": torch.nn.Linear(6, 5, bias=False), "block": block})
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    recipe = Recipe("task_arithmetic", None, tuple(adapters), values={"lambda": 1.0}, result="adapter")
    out = merge(recipe, tmp_path / "out").out

    assert json.loads((out / "adapter_config.json").read_text())["rank_pattern"] == {"^proj": 5}
    found = dict(peft.PeftModel.from_pretrained(model, out).merge_and_unload().state_dict())
    for name, tensor in start.items():
        for path in adapters:
            factors, key = load_file(path / "adapter_model.safetensors"), f"base_model.model.{name[:-7]}.lora"
            if f"{key}_A.weight" in factors:
                tensor = tensor + 2 * factors[f"{key}_B.weight"] @ factors[f"{key}_A.weight"]
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)


def test_without_the_base_what_was_trained_in_full_cannot_be_merged(tmp_path: Path) -> None:
    _, adapters = written(tmp_path, ATTENTION, {**ATTENTION, "modules_to_save": ["lm_head"]})

    [problem] = check(Recipe("from", None, adapters, result="adapter")).problems

    assert "which is no factor and goes with the base's own. Name the base as `base_model`." in problem


def test_an_existing_folder_is_never_written_to(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, ATTENTION, ATTENTION)
    out = tmp_path / "mine"
    out.mkdir()
    (out / "adapter_config.json").write_text("{}")

    with pytest.raises(MergeError, match="is there already, and nothing is ever overwritten"):
        merge(Recipe("from", base, adapters, result="adapter"), out)

    assert [file.name for file in out.iterdir()] == ["adapter_config.json"]


def test_a_factor_that_is_not_finite_is_named(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, ATTENTION, ATTENTION)
    file = adapters[1] / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "v_proj.lora_B" in name)
    tensors[name][0, 0] = torch.nan
    save_file(tensors, file, {"format": "pt"})

    for method in ("task_arithmetic", "from", "ties", "peft", "knots"):
        for rank in (None, 2) if method != "ties" else (2,):
            with pytest.raises(MergeError, match=f"`{name}` of adapter-1 holds NaN or infinity"):
                merge(Recipe(method, base, adapters, result="adapter", rank=rank), tmp_path / "out")
            assert not (tmp_path / "out").exists()
            assert not beside(tmp_path / "out").exists()


def test_a_base_that_is_not_finite_is_named(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, {**ATTENTION, "bias": "all"}, ATTENTION)
    file, name = base / "model.safetensors", "model.layers.1.self_attn.q_proj.bias"
    tensors = load_file(file)
    tensors[name][3] = torch.inf
    save_file(tensors, file, {"format": "pt"})

    with pytest.raises(MergeError, match=f"`{name}` of base holds NaN or infinity"):
        merge(Recipe("task_arithmetic", base, adapters, result="adapter"), tmp_path / "out")


@pytest.mark.parametrize("method", ["from", "ties", "knots"])
def test_what_is_surveyed_and_what_is_merged_is_shown(tmp_path: Path, method: str) -> None:
    names = [f"model.layers.{layer}.mlp.up_proj" for layer in range(5)]
    adapters = tuple(random_adapter(tmp_path / str(seed), seed, dict.fromkeys(names, (9, 8))) for seed in range(2))
    steps: list[Any] = []

    merge(Recipe(method, None, adapters, result="adapter", rank=3), tmp_path / "out", steps.append, workers=1)

    surveyed, merged = ([step.name for step in steps if step.stage == stage] for stage in ("Surveying", "Merging"))
    assert merged == [f"{name}.weight" for name in names]
    assert surveyed
    assert len(surveyed) % 5 == 0
    assert set(surveyed) == set(merged)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert (steps[-1].done, steps[-1].bytes_done) == (steps[-1].total, steps[-1].bytes_total)


def test_a_merge_that_is_too_large_for_its_dtype_is_told(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, ATTENTION, ATTENTION)
    recipe = Recipe("task_arithmetic", base, adapters, (100.0, 100.0), {"lambda": 100.0}, result="adapter")
    for path in adapters:
        tensors = load_file(path / "adapter_model.safetensors")
        save_file({k: t * 100 for k, t in tensors.items()}, path / "adapter_model.safetensors", {"format": "pt"})

    merge(recipe, tmp_path / "wide")
    with pytest.raises(MergeError, match=r"The merged `.*` is too large for its dtype\. Lower the scaling, or set"):
        merge(replace(recipe, out_dtype="float16"), tmp_path / "out")


def test_what_does_not_fit_the_memory_is_told(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, ATTENTION, ATTENTION)
    recipe = Recipe("from", base, adapters, result="adapter")
    found = check(recipe, memory=1 << 30)

    assert found.problems == ()
    assert 0 < found.memory < 1 << 31
    assert found.bytes_out == sum(
        entry.bytes for entry in open_checkpoint(merge(recipe, tmp_path / "out").out).entries.values()
    )
    [problem] = check(recipe, memory=1000).problems
    assert problem.startswith("To merge `")
    assert "of memory, and 1 kB are allowed. Allow more." in problem


def test_what_whole_matrices_take_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = {f"model.layers.{layer}.mlp.up_proj": (300, 200) for layer in range(4)}
    adapters = tuple(random_adapter(tmp_path / str(seed), seed, sides) for seed in range(2))
    recipe = Recipe("iso_c", None, adapters, result="adapter", rank=4)
    monkeypatch.setattr("merging.whole._measured", lambda *_: 7.0)  # seconds of each matrix

    one, two = (check(recipe, workers=workers) for workers in (1, 2))

    assert one.seconds == pytest.approx(4 * 7.0, rel=0.01)
    assert two.seconds == pytest.approx(2 * 7.0, rel=0.01)
    dense = 4 * 300 * 200 * (1 + 2 + 16)  # the task vectors and what an SVD of their sum works with
    assert two.memory - one.memory >= dense
    less = (one.memory - PROGRAM) - 1000
    [problem] = check(recipe, memory=less).problems
    assert problem.startswith("To merge `model.layers.0.mlp.up_proj.weight` takes ")
    assert check(recipe, memory=less + 1000, workers=2).seconds == pytest.approx(one.seconds)  # of which one fits


def test_the_time_of_whole_matrices_is_measured_for_adapters_too(tmp_path: Path) -> None:
    sides = {f"model.layers.{layer}.mlp.up_proj": (9, 8) for layer in range(3)}
    adapters = tuple(random_adapter(tmp_path / str(seed), seed, sides) for seed in range(2))

    for method in ("tsv_m", "iso_c", "star", "wudi"):
        found = check(Recipe(method, None, adapters, result="adapter", rank=4))

        assert found.problems == ()
        assert 0 < found.seconds < 60
