"""PEFT's combination types: its own numbers, from files that hold them and from PEFT itself beside us."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import MergeError, Recipe, merge
from merging.draws import Generator
from merging.methods import peft
from merging.preflight import check
from tests.adapters import loaded, weighted, written

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
GOLDEN = Path(__file__).parents[2] / "golden"
CASES = {case["id"]: case for case in json.loads((GOLDEN / "cases.json").read_text())["cases"]}
LORA = [case for case in CASES.values() if case["method"].startswith("peft.lora.")]
DENSE = [case for case in CASES.values() if case["method"].startswith("peft.") and case not in LORA]
ATTENTION = {"target_modules": ["q_proj", "v_proj", "up_proj"]}


def adapters_of(case: dict[str, Any], folder: Path) -> list[Path]:
    """The adapters of a case, as PEFT would have saved them."""
    tensors, paths = load_file(GOLDEN / case["file"]), []
    for number in range(case["num_experts"]):
        own = {k.removeprefix(f"expert{number}."): v for k, v in tensors.items() if k.startswith(f"expert{number}.")}
        path = folder / f"adapter-{number}"
        path.mkdir()
        save_file({f"base_model.model.{key}": value for key, value in own.items()}, path / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": case["params"]["ranks"][number], "target_modules": ["q_proj", "v_proj"]}
        (path / "adapter_config.json").write_text(
            json.dumps({**config, "lora_alpha": case["params"]["alphas"][number]})
        )
        paths.append(path)
    return paths


@pytest.mark.parametrize("case", LORA, ids=[case["id"] for case in LORA])
def test_pefts_combination_is_ours(case: dict[str, Any], tmp_path: Path) -> None:
    params, tensors = case["params"], load_file(GOLDEN / case["file"])
    paths = adapters_of(case, tmp_path)
    values = {"combination_type": params["combination_type"], "density": params.get("density")}
    recipe = Recipe("peft", None, tuple(paths), tuple(params["weights"]), values, rank=params.get("svd_rank"))

    out = merge(recipe, tmp_path / "out").out

    found = load_file(out / "adapter_model.safetensors")
    ours = {key.removeprefix("base_model.model."): tensor for key, tensor in found.items()}
    assert {json.loads((out / "adapter_config.json").read_text())[key] for key in ("r", "lora_alpha")} == {
        len(ours["q_proj.lora_A.weight"])
    }
    for module in ("q_proj", "v_proj"):
        delta = ours[f"{module}.lora_B.weight"] @ ours[f"{module}.lora_A.weight"]
        expected = {key: tensor for key, tensor in tensors.items() if key.startswith(f"merged.{module}.")}
        torch.testing.assert_close(delta, expected.pop(f"merged.{module}.delta"), rtol=case["rtol"], atol=case["atol"])
        for key, tensor in expected.items():
            torch.testing.assert_close(ours[key.removeprefix("merged.")], tensor, rtol=case["rtol"], atol=case["atol"])
            assert "svd" not in params["combination_type"]


def ruled(rule: str, tensors: Any, weights: list[float], density: float | None, election: str, draws: Any) -> Any:
    """What a rule makes of several tensors."""
    return peft.joined(rule, peft.thinned(rule, tensors, density, draws), weights, election)


@pytest.mark.parametrize("case", DENSE, ids=[case["id"] for case in DENSE])
def test_pefts_rules_are_ours(case: dict[str, Any]) -> None:
    params, tensors = case["params"], load_file(GOLDEN / case["file"])
    names = [name.removeprefix("base.") for name in tensors if name.startswith("base.")]
    rule, experts = case["method"].removeprefix("peft."), range(case["num_experts"])
    assert len(names) > 1

    for name in names:
        tau = torch.stack([tensors[f"expert{i}.{name}"] - tensors[f"base.{name}"] for i in experts])
        found = ruled(
            {"task_arithmetic": "linear"}.get(rule, rule),
            tau,
            params["weights"],
            params.get("density"),
            params.get("majority_sign_method", "total"),
            draws(0),
        )
        torch.testing.assert_close(
            tensors[f"base.{name}"] + found, tensors[f"merged.{name}"], rtol=case["rtol"], atol=case["atol"]
        )


def test_every_case_of_pefts_is_here() -> None:
    kinds = {"cat", "linear", "svd", "ties", "magnitude_prune", "ties_svd"}

    assert {case["method"].removeprefix("peft.lora.") for case in LORA} == kinds
    assert [case["method"].removeprefix("peft.") for case in DENSE] == [
        "task_arithmetic", "ties", "ties", "magnitude_prune"
    ]  # fmt: skip


EVERY = ["svd", "cat", "linear", "ties", "ties_svd", "magnitude_prune", "magnitude_prune_svd"]


@pytest.mark.parametrize("combination", EVERY)
@pytest.mark.parametrize("weights", [[0.7, -0.4, 1.2], [1.0, 0.5, 0.25]])
def test_beside_peft_itself(tmp_path: Path, combination: str, weights: list[float]) -> None:
    # Other modules than one another, an embedding, scalings of their own, and rsLoRA.
    kinds: list[dict[str, Any]] = [
        {**ATTENTION, "alpha_pattern": {"q_proj": 5}},
        {"target_modules": ["q_proj", "down_proj", "embed_tokens"], "use_rslora": True},
        {"target_modules": ["v_proj", "embed_tokens", "q_proj"], "lora_alpha": 2},
    ]
    base, adapters = written(tmp_path, *kinds)
    values: dict[str, Any] = {"combination_type": combination, "majority_sign_method": "frequency"}
    settings = {"majority_sign_method": "frequency"}
    if combination not in ("svd", "cat", "linear"):
        values["density"] = settings["density"] = 0.4  # type: ignore[assignment]

    merge(Recipe("peft", base, adapters, tuple(weights), values), tmp_path / "out")

    expected = weighted(base, adapters, weights, combination_type=combination, **settings)
    found = loaded(base, tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_largest_rank_is_that_of_the_configs_as_in_peft(tmp_path: Path) -> None:
    # All factors of the first have rank 2, and PEFT makes room for 6.
    patterned = {**ATTENTION, "r": 6, "rank_pattern": dict.fromkeys(ATTENTION["target_modules"], 2)}
    base, adapters = written(tmp_path, patterned, {**ATTENTION, "r": 3})

    out = merge(Recipe("peft", base, adapters, (1.0, 0.7)), tmp_path / "out").out

    assert json.loads((out / "adapter_config.json").read_text())["r"] == 5  # the sum of both, which is all there is
    expected = weighted(base, adapters, [1.0, 0.7], combination_type="svd")
    for name, tensor in loaded(base, out).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


def test_one_adapter_is_scaled_alone_as_in_peft(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, ATTENTION)
    values = {"combination_type": "ties_svd", "density": 0.1}

    merge(Recipe("peft", base, adapters, (-0.5,), values), tmp_path / "out")

    expected = weighted(base, adapters, [-0.5], combination_type="ties_svd", density=0.1)
    for name, tensor in loaded(base, tmp_path / "out").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)


def draws(seed: int) -> Any:
    return lambda place, like: Generator(seed, (place,), "w", 0, like.numel()).uniforms().reshape(like.shape)


def test_dare_keeps_its_share_and_its_mean() -> None:
    torch.manual_seed(0)
    tensors = torch.randn(2, 40, 50)
    kept = torch.stack([peft.dropped(tensors, 0.3, draws(seed)) for seed in range(400)])

    assert kept.ne(0).float().mean().item() == pytest.approx(0.3, abs=0.003)
    torch.testing.assert_close(kept[kept != 0], (tensors / 0.3).expand_as(kept)[kept != 0])
    assert (kept.mean(0) - tensors).abs().mean() < 3 * (tensors.abs() * (0.7 / 0.3 / 400) ** 0.5).mean()
    mixed = torch.stack([ruled("dare_linear", tensors, [1, -2], 0.3, "total", draws(s)) for s in range(400)])
    error = (0.7 / 0.3 / 400 * (tensors[0].square() + 4 * tensors[1].square())).sqrt()
    assert ((mixed.mean(0) - (tensors[0] - 2 * tensors[1])).abs() < 6 * error).all()


def test_dare_ties_averages_what_agrees_of_what_is_kept() -> None:
    torch.manual_seed(0)
    tensors = torch.randn(2, 40, 50)
    first, second = peft.dropped(tensors, 0.5, draws(1))

    found = ruled("dare_ties", tensors, [1.0, 3.0], 0.5, "total", draws(1))

    votes = torch.where(first + second >= 0, 1.0, -1.0)
    agree = [part.sign() == votes for part in (first, second)]
    count = (agree[0].int() + agree[1].int()).clamp(min=1)
    torch.testing.assert_close(found, (agree[0] * first + 3 * agree[1] * second) / count)


@pytest.mark.parametrize("combination", ["dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd"])
def test_dare_follows_the_seed_alone(tmp_path: Path, combination: str) -> None:
    base, adapters = written(tmp_path, ATTENTION, ATTENTION)
    values, found = {"combination_type": combination, "density": 0.5}, []

    for number, (seed, workers) in enumerate([(1, 1), (1, 3), (2, 1)]):
        recipe = Recipe("peft", base, adapters, values=values, seed=seed)
        out = merge(recipe, tmp_path / f"out-{number}", workers=workers).out
        found.append(load_file(out / "adapter_model.safetensors"))

    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
    assert not any(torch.equal(tensor, found[2][name]) for name, tensor in found[0].items())


def test_what_does_not_go_together_is_told_before_the_merge(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, ATTENTION, {**ATTENTION, "r": 2})

    def problems(rank: Any = None, **values: Any) -> tuple[str, ...]:
        return check(Recipe("peft", base, adapters, values=values, rank=rank)).problems

    assert problems(combination_type="ties_svd") == ("`combination_type: ties_svd` needs a `density`. Give it one.",)
    one = "`combination_type: linear` needs adapters of one rank, and these have 4, 2. Choose `cat` or one with `svd`."
    assert problems(combination_type="linear") == (one,)
    assert problems(combination_type="cat") == ()
    assert "`rank` must be a whole number from 1 up, but it is 0." in problems(0)
    assert "`combination_type` must be one of svd, cat" in problems(combination_type="mean")[0]


def test_it_makes_nothing_but_adapters(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, ATTENTION)

    with pytest.raises(MergeError, match=r"`peft` makes an adapter. Leave `result` out, and merge that adapter"):
        merge(Recipe("peft", base, adapters, result="model"), tmp_path / "out")
    with pytest.raises(MergeError, match="base is a full model, and only adapters are merged into an adapter"):
        merge(Recipe("peft", base, (*adapters, base)), tmp_path / "out")
