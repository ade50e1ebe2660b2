"""Adapters of models whose head is their embedding: read as PEFT runs them, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import MergeError, Recipe, extract, merge
from merging.adapter import open_expert
from merging.checkpoint import open_checkpoint
from merging.preflight import check
from tests.adapters import llama, written

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
TOKENS = torch.arange(12).reshape(2, 6)
FACTORS: dict[str, Any] = {"target_modules": ["embed_tokens", "q_proj"]}
HEAD: dict[str, Any] = {"target_modules": ["lm_head", "q_proj"]}
WHOLE: dict[str, Any] = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
FILE = "model.safetensors"
TIED: dict[str, Any] = {"ensure_weight_tying": True}


def run(base: Path, weights: dict[str, torch.Tensor] | None = None, adapter: Path | None = None) -> torch.Tensor:
    """The logits of a base, with other weights, or of an adapter on it as PEFT runs it: not merged."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if weights:
        model.load_state_dict(weights, strict=False)
    model = peft.PeftModel.from_pretrained(model, adapter) if adapter else model
    with torch.no_grad():
        found: torch.Tensor = model.eval()(TOKENS).logits
    return found


def expert(adapter: Path, base: Path) -> dict[str, torch.Tensor]:
    read = open_expert(adapter, open_checkpoint(base))
    return {name: read.tensor(name).float() for name in read.entries}


def untied(base: Path, folder: Path) -> Path:
    """A copy of a base whose head is a copy of its embedding."""
    llama(tie_word_embeddings=False).save_pretrained(folder)
    start = load_file(base / FILE)
    save_file({**start, "lm_head.weight": start["model.embed_tokens.weight"].clone()}, folder / FILE, {"format": "pt"})
    return folder


@pytest.mark.parametrize("settings", [FACTORS, HEAD, WHOLE])
def test_what_peft_keeps_tied_reads_as_peft_runs_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    base, [adapter] = written(tmp_path, {**settings, **TIED}, tie_word_embeddings=True)

    found = run(base, expert(adapter, base))

    assert any("lm_head" in name for name in load_file(adapter / "adapter_model.safetensors"))
    assert (found - run(base)).abs().max() > 0.01
    torch.testing.assert_close(found, run(base, adapter=adapter), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("settings", "name"), [(FACTORS, "model.embed_tokens.weight"), (WHOLE, "model.embed_tokens")])
def test_an_embedding_that_is_changed_apart_from_the_head_is_refused(
    tmp_path: Path, settings: dict[str, Any], name: str
) -> None:
    base, [adapter] = written(tmp_path, settings, tie_word_embeddings=True)

    assert (run(base, adapter=adapter) - run(base)).abs().max() > 0.01
    words = f"adapter-0 changes `{name}.*` apart from the head, and in base the two are one. Leave it out, or train it"
    with pytest.raises(MergeError, match=words):
        expert(adapter, base)
    [problem] = check(Recipe("from", base, (adapter,))).problems
    assert "apart from the head" in problem


@pytest.mark.parametrize("settings", [FACTORS, HEAD, WHOLE])
def test_merged_into_an_adapter_they_stay_tied(tmp_path: Path, settings: dict[str, Any]) -> None:
    base, adapters = written(tmp_path, {**settings, **TIED}, {**settings, **TIED, "r": 3}, tie_word_embeddings=True)

    out = merge(
        Recipe("task_arithmetic", base, adapters, (1.0, 0.5), {"lambda": 0.7}, result="adapter"), tmp_path / "a"
    )

    start, parts = load_file(base / "model.safetensors"), [expert(adapter, base) for adapter in adapters]
    summed = {
        name: tensor + 0.7 * ((parts[0][name] - tensor) + 0.5 * (parts[1][name] - tensor))
        for name, tensor in start.items()
    }
    torch.testing.assert_close(run(base, adapter=out.out), run(base, summed), rtol=1e-4, atol=1e-5)
    for name, tensor in expert(out.out, base).items():
        torch.testing.assert_close(tensor, summed[name], rtol=1e-4, atol=1e-5)


def test_tied_adapters_and_others_are_not_merged_into_one(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, {**FACTORS, **TIED}, FACTORS, tie_word_embeddings=True)

    [problem] = check(Recipe("from", base, adapters, result="adapter")).problems

    assert problem.startswith("adapter-1 changes `model.embed_tokens.weight` apart from the head")


def test_without_the_base_nothing_says_that_the_two_are_one(tmp_path: Path) -> None:
    _, adapters = written(tmp_path, {**HEAD, **TIED}, FACTORS, tie_word_embeddings=True)

    [problem] = check(Recipe("from", None, adapters, result="adapter")).problems

    words = "adapter-0 keeps the head and the embedding one, which the base alone can say of them."
    assert problem == f"{words} Name the base as `base_model`."


def test_apart_from_the_head_in_all_adapters_it_is_so_in_the_merged_one(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, FACTORS, {**FACTORS, "r": 3}, tie_word_embeddings=True)

    out = merge(Recipe("linear", base, adapters, result="adapter"), tmp_path / "out").out

    other = untied(base, tmp_path / "apart")
    parts = [expert(adapter, other) for adapter in adapters]
    mean = {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]}
    torch.testing.assert_close(run(base, adapter=out), run(other, mean), rtol=1e-4, atol=1e-5)


def test_embedding_and_head_that_were_trained_apart_need_a_base_with_both(tmp_path: Path) -> None:
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    base, [adapter] = written(tmp_path, settings, tie_word_embeddings=True)

    [problem] = check(Recipe("linear", base, (adapter,))).problems
    recipe = Recipe("task_arithmetic", untied(base, tmp_path / "apart"), (adapter,), values={"lambda": 1.0})
    out = merge(recipe, tmp_path / "out").out

    words = "adapter-0 changes `lm_head.weight` apart from the embedding, and in base the two are one."
    remedy = "that holds `lm_head.weight`, too, and whose config says `tie_word_embeddings: false`."
    assert problem == f"{words} Leave it out, or name a copy of the base {remedy}"
    torch.testing.assert_close(run(out), run(base, adapter=adapter), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("saved", [(), ("embed_tokens",)])
def test_extracted_of_a_tied_model_the_adapter_keeps_it_tied(tmp_path: Path, saved: tuple[str, ...]) -> None:
    for seed, name in enumerate(["base", "expert"]):
        torch.manual_seed(seed)
        llama(tie_word_embeddings=True).save_pretrained(tmp_path / name)
    base, end = tmp_path / "base", tmp_path / "expert"

    out = extract(base, end, tmp_path / "out", 99, save=[*saved, "norm"], bias=True).out

    config = json.loads((out / "adapter_config.json").read_text())
    assert config.get("ensure_weight_tying", False) is bool(saved)
    expected = load_file(end / FILE)
    if not saved:
        expected["model.embed_tokens.weight"] = load_file(base / FILE)["model.embed_tokens.weight"]
    torch.testing.assert_close(run(base, adapter=out), run(base, expected), rtol=1e-4, atol=1e-5)
    assert (run(base, expected) - run(base)).abs().max() > 0.01
