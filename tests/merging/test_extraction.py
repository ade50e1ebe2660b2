"""Adapters out of models: what PEFT makes of the base with one is the model again, as nearly as its rank allows."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging import MergeError, MergeStopped, Recipe, merge
from merging.checkpoint import open_checkpoint
from merging.cli import main
from merging.extraction import extract
from merging.publish import beside
from merging.verify import verify
from tests.adapters import gpt2, llama, loaded, trained, written

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
ATTENTION: dict[str, Any] = {"target_modules": ["q_proj", "v_proj", "up_proj"]}
RANKED = "The rank leaves out"


def tuned(folder: Path, model: Any = None) -> tuple[Path, Path]:
    """A base and a model of which everything was changed a little."""
    torch.manual_seed(0)
    model = model or llama()
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "expert")
    return folder / "base", folder / "expert"


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def cut(matrix: Tensor, rank: int) -> Tensor:
    left, sizes, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (left[:, :rank] * sizes[:rank]) @ right[:rank]


@pytest.mark.parametrize(("rank", "tile"), [(3, 1 << 17), (3, 20), (50, 1 << 17)])
def test_each_matrix_is_the_nearest_of_the_rank_and_all_else_the_bases(
    tmp_path: Path, rank: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, expert = tuned(tmp_path)
    for module in ("extracting", "making", "output"):
        monkeypatch.setattr(f"merging.{module}.TILE", tile)

    report = extract(base, expert, tmp_path / "out", rank)

    start, end, found = weights(base), weights(expert), loaded(base, tmp_path / "out")
    factored = [name for name, fate in report.fates.items() if fate.startswith("extracted")]
    assert len(factored) == 2 * 7 + 1
    lost = whole = rest = 0.0
    for name, tensor in found.items():
        tau = (end[name] - start[name]).double()
        near = cut(tau, rank) if name in factored else torch.zeros_like(tau)
        torch.testing.assert_close(tensor.double(), start[name] + near, rtol=1e-5, atol=1e-5)
        lost += float((tau - near).square().sum()) if name in factored else 0.0
        whole += float(tau.square().sum()) if name in factored else 0.0
        rest += 0.0 if name in factored else float(tau.square().sum())
    if rank == 3:
        assert any(words.startswith(f"{RANKED} {lost / whole:.2%} of") for words in report.warnings)
    else:
        assert not any(words.startswith(RANKED) for words in report.warnings)
    assert any(f"with {rest / (rest + whole):.2%} of the squared norm of all changes" in w for w in report.warnings)
    assert verify(tmp_path / "out").problems == []


def test_of_a_merged_adapter_the_adapter_comes_back(tmp_path: Path) -> None:
    base, [adapter] = written(tmp_path, ATTENTION)
    merge(Recipe("task_arithmetic", base, (adapter,), values={"lambda": 1.0}), tmp_path / "dense")

    report = extract(base, tmp_path / "dense", tmp_path / "out", 4, modules=["q_proj", "v_proj", "up_proj"])

    assert report.warnings == ()
    assert set(load_file(tmp_path / "out" / "adapter_model.safetensors")) == set(
        load_file(adapter / "adapter_model.safetensors")
    )
    expected = loaded(base, adapter)
    for name, tensor in loaded(base, tmp_path / "out").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


def test_an_adapter_can_be_extracted_of_at_a_lower_rank(tmp_path: Path) -> None:
    base, [adapter] = written(tmp_path, ATTENTION)

    extract(base, adapter, tmp_path / "out", 2)

    start, whole = weights(base), loaded(base, adapter)
    name = "model.layers.1.self_attn.v_proj.weight"
    expected = start[name] + cut(whole[name] - start[name], 2)
    torch.testing.assert_close(loaded(base, tmp_path / "out")[name].double(), expected, rtol=1e-4, atol=1e-5)


def test_what_is_kept_in_full_is_the_model_itself(tmp_path: Path) -> None:
    base, expert = tuned(tmp_path)

    report = extract(base, expert, tmp_path / "out", 99, save=["embed_tokens", "lm_head", "norm"], bias=True)

    left = [name for name, fate in report.fates.items() if "left out" in fate]
    assert left
    assert all("layernorm" in name for name in left)
    end, found = weights(expert), loaded(base, tmp_path / "out")
    for name in set(end) - set(left):
        torch.testing.assert_close(found[name], end[name], rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["bias"], config["modules_to_save"]) == (
        "all",
        ["lm_head", "model.embed_tokens", "model.norm"],
    )
    assert config["task_type"] == "CAUSAL_LM"


def test_layers_that_are_stored_transposed(tmp_path: Path) -> None:
    base, expert = tuned(tmp_path, gpt2())

    extract(base, expert, tmp_path / "out", 2)

    start, end, found = weights(base), weights(expert), loaded(base, tmp_path / "out")
    name = "transformer.h.1.attn.c_attn.weight"
    torch.testing.assert_close(
        found[name].double(), start[name] + cut(end[name] - start[name], 2), rtol=1e-4, atol=1e-5
    )
    assert torch.equal(found["transformer.wpe.weight"], start["transformer.wpe.weight"])


def test_a_head_of_its_own_beside_layers_that_are_stored_transposed(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    base, expert = tuned(tmp_path, GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False)))

    report = extract(base, expert, tmp_path / "out", 3)

    start, end, found = weights(base), weights(expert), loaded(base, tmp_path / "out")
    assert report.fates["lm_head.weight"] == "extracted at rank 3"
    for name in ("lm_head.weight", "transformer.h.0.mlp.c_fc.weight"):
        near = start[name] + cut(end[name] - start[name], 3)
        torch.testing.assert_close(found[name].double(), near, rtol=1e-4, atol=1e-5)


def test_every_tensor_has_a_fate(tmp_path: Path) -> None:
    base, expert = tuned(tmp_path)
    mine, other = weights(base), weights(expert)
    mine |= {"model.ids": torch.arange(4), "model.layers.0.gone.weight": torch.ones(2, 2)}
    other |= {"model.ids": torch.arange(4), "model.layers.0.new.weight": torch.ones(2, 2)}
    for folder, tensors in ((base, mine), (expert, other)):
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    fates = extract(base, expert, tmp_path / "out", 2).fates

    assert fates.keys() == mine.keys() | other.keys()
    assert fates["model.layers.0.mlp.up_proj.weight"] == "extracted at rank 2"
    left = "left out of the adapter, which leaves the base's"
    assert {fates[name] for name in ("model.ids", "model.layers.0.gone.weight", "model.norm.weight")} == {left}
    assert fates["model.layers.0.new.weight"] == "left out: only expert has it, the base does not"


def test_no_rank_is_told_that_a_matrix_does_not_have(tmp_path: Path) -> None:
    base, expert = tuned(tmp_path)

    fates = extract(base, expert, tmp_path / "out", 1000).fates

    ranks = {min(tensor.shape) for name, tensor in weights(base).items() if fates[name].startswith("extracted")}
    assert {fate for fate in fates.values() if fate.startswith("extracted")} == {
        f"extracted at rank {r}" for r in ranks
    }
    assert ranks == {8}


def test_nothing_to_extract_is_told(tmp_path: Path) -> None:
    base, _ = tuned(tmp_path)
    same = shutil.copytree(base, tmp_path / "same")

    with pytest.raises(MergeError) as refused:
        extract(base, tmp_path / "same" / ".." / "base", tmp_path / "out", 2)
    report = extract(base, same, tmp_path / "out", 2)

    assert str(refused.value) == (
        f"{base} is the base and the fine-tuned model, so there is nothing to extract. Name the model that was "
        "fine-tuned from it."
    )
    assert report.warnings == (
        "same and base are the same in all that was read, so the adapter changes nothing. Were they meant to differ?",
    )


def test_what_is_too_large_to_be_decomposed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, expert = tuned(tmp_path)
    name, changed = "model.layers.1.mlp.up_proj.weight", weights(expert)
    changed[name] = 3e38 * changed[name].sign()
    save_file(changed, expert / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr("merging.low_rank.SPARE", 2)

    with pytest.raises(MergeError, match=f"`{name}` changed too much for its decomposition"):
        extract(base, expert, tmp_path / "out", 2, randomised=True)
    with pytest.raises(MergeError, match=r"is too large for float16\. Choose another dtype\."):
        extract(base, expert, tmp_path / "out", 2, out_dtype="float16")


def test_extracted_adapters_merge_as_any(tmp_path: Path) -> None:
    base, expert = tuned(tmp_path)
    _, [adapter] = written(tmp_path / "more", ATTENTION)
    extract(base, expert, tmp_path / "out", 4)

    merge(Recipe("from", base, (tmp_path / "out", adapter), result="adapter"), tmp_path / "both")
    merge(Recipe("from", base, (tmp_path / "out", adapter)), tmp_path / "dense")

    expected = weights(tmp_path / "dense")
    for name, tensor in loaded(base, tmp_path / "both").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


def test_workers_change_no_byte_and_a_stop_loses_nothing(tmp_path: Path) -> None:
    base, expert = tuned(tmp_path)
    whole = extract(base, expert, tmp_path / "whole", 3, workers=3).out
    stop = threading.Event()

    def half(step: Any) -> None:
        if step.done >= 9:
            stop.set()

    with pytest.raises(MergeStopped):
        extract(base, expert, tmp_path / "out", 3, on_step=half, stop=stop, workers=1)
    assert not (tmp_path / "out").exists()
    assert beside(tmp_path / "out").is_dir()

    report = extract(base, expert, tmp_path / "out", 3, workers=1)

    assert all((report.out / file.name).read_bytes() == file.read_bytes() for file in whole.iterdir())


def test_memory_and_dtype_are_as_they_are_asked_for(tmp_path: Path) -> None:
    base, expert = tuned(tmp_path)

    with pytest.raises(MergeError, match=r"To decompose `.*` takes .* of memory, and 1 kB are allowed"):
        extract(base, expert, tmp_path / "out", 3, memory=1000)
    with pytest.raises(MergeError, match="There is no dtype `float8` for an adapter"):
        extract(base, expert, tmp_path / "out", 3, out_dtype="float8")

    out = extract(base, expert, tmp_path / "out", 3, out_dtype="bfloat16").out

    assert open_checkpoint(out).dtypes == ["bfloat16"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rank": 0}, "The rank must be a whole number from 1 up, but it is 0."),
    ({"rank": 2, "modules": ["k_porj"]}, "No module's name ends with `k_porj`. Did you mean `k_proj`"),
    ({"rank": 2, "save": ["lm_haed"]}, "No module's name ends with `lm_haed`. Did you mean `lm_head`"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED)
def test_what_is_asked_wrongly_is_told_before_anything_is_written(
    tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    base, expert = tuned(tmp_path)

    with pytest.raises(MergeError) as error:
        extract(base, expert, tmp_path / "out", **given)

    assert words in str(error.value)
    assert not (tmp_path / "out").exists()


def test_models_that_are_no_family_and_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    base, expert = tuned(tmp_path / "a")
    other, _ = tuned(tmp_path / "b", gpt2())
    with pytest.raises(MergeError, match="so it is of another architecture"):
        extract(base, other, tmp_path / "out", 2)

    tensors = weights(expert)
    tensors["model.norm.weight"][0] = torch.inf
    save_file(tensors, expert / "model.safetensors", {"format": "pt"})
    with pytest.raises(MergeError, match=r"`model.norm.weight` of expert holds NaN or infinity"):
        extract(base, expert, tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()
    assert not beside(tmp_path / "out").exists()


def test_the_command_line_extracts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, expert = tuned(tmp_path)
    named = [str(base), str(expert), str(tmp_path / "out")]

    assert main(["extract", *named, "--rank", "2", "--save", "lm_head", "norm", "--bias", "--randomised"]) == 0

    told = capsys.readouterr().out
    assert "Extracted what expert changed of base." in told
    assert "14 tensors extracted at rank 2" in told
    assert f"Warning: {RANKED}" in told
    assert main(["extract", *named, "--rank", "2"]) == 1
    assert "nothing is ever overwritten" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["extract", *named, "--rank", "none"])


def test_an_adapter_trained_by_peft_survives_the_way_there_and_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = trained(llama(), tmp_path, r=4, lora_alpha=8, bias="all", modules_to_save=["lm_head"], **ATTENTION)
    merge(
        Recipe("task_arithmetic", tmp_path / "base", (tmp_path / "adapter",), values={"lambda": 1.0}),
        tmp_path / "dense",
    )

    extract(tmp_path / "base", tmp_path / "dense", tmp_path / "out", 4, save=["lm_head"], bias=True)

    for name, tensor in loaded(tmp_path / "base", tmp_path / "out").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-4)
