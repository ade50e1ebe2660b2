"""LoRA adapters as experts, against PEFT's own merge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from merging import MergeError, Recipe, merge
from merging.adapter import open_expert
from merging.checkpoint import open_checkpoint
from tests.adapters import gpt2, llama, trained

ZOO = Path(__file__).parents[2] / "zoo"
ADAPTERS = [ZOO / f"{name}-lora" for name in ("shakespeare", "bible", "python")]


@pytest.fixture
def adapter(tmp_path: Path) -> Any:
    """Writes a copy of an adapter with changes to its config."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / "adapter"
        shutil.copytree(ADAPTERS[0], folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        return folder

    return make


def by_peft(adapter: Path) -> dict[str, torch.Tensor]:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32)
    return dict(peft.PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft with this transformers
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_reads_as_the_model_that_peft_makes_of_it(adapter: Any, rslora: bool) -> None:
    folder = adapter(use_rslora=rslora)
    expected = by_peft(folder)

    expert = open_expert(folder, open_checkpoint(ZOO / "base"))

    assert expert.made
    for name in expert.entries:
        torch.testing.assert_close(expert.tensor(name).float(), expected[name], rtol=1e-5, atol=1e-6)


def test_any_run_of_entries_is_that_part_of_the_whole() -> None:
    expert = open_expert(ADAPTERS[0], open_checkpoint(ZOO / "base"))
    name = next(iter(expert.made))
    whole = expert.read(name)

    for start, stop in ((0, 1), (5, 700), (len(whole) - 3, len(whole)), (191, 193)):
        torch.testing.assert_close(expert.read(name, start, stop), whole[start:stop])


def test_adapters_merge_with_full_models_as_their_own_task_vectors(tmp_path: Path) -> None:
    base = open_checkpoint(ZOO / "base")
    recipe = Recipe("task_arithmetic", ZOO / "base", (ADAPTERS[1], ZOO / "python"), values={"lambda": 1.0})

    merge(recipe, tmp_path / "out")

    merged = open_checkpoint(tmp_path / "out")
    lora, full = open_expert(ADAPTERS[1], base), open_checkpoint(ZOO / "python")
    for name in merged.entries:
        start = base.tensor(name).float()
        expected = start + ((lora.tensor(name).float() - start) + (full.tensor(name).float() - start))
        torch.testing.assert_close(merged.tensor(name), expected.bfloat16())


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="has no weights to start from"):
        merge(Recipe("from", ADAPTERS[0], (ZOO / "python",)), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "is an adapter with DoRA"),
        ({"lora_bias": True}, "is an adapter with biases of its factors"),
        ({"modules_to_save": ["lm_head"]}, "says that `lm_head` was trained in full, and holds no such tensor"),
        ({"rank_pattern": {"(a+)+q_proj": 4}}, "has the rank_pattern"),
        ({"alpha_pattern": ["q_proj"]}, "has no usable `alpha_pattern`"),
        ({"rank_pattern": {"q_proj": 4}}, "do not fit base"),
        ({"peft_type": "IA3"}, "is a IA3 adapter"),
        ({"init_lora_weights": "pissa"}, "starts from `pissa`, which changes the base"),
        ({"r": 0}, "has no usable `r` and `lora_alpha`"),
        ({"r": 4}, "do not fit base"),
    ],
)
def test_what_cannot_be_added_exactly_is_refused_by_name(adapter: Any, changes: dict[str, Any], words: str) -> None:
    folder = adapter(**changes)

    with pytest.raises(MergeError, match=words):
        open_expert(folder, open_checkpoint(ZOO / "base"))


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ranks and alphas by layer": {
        "rank_pattern": {"q_proj": 2, "^model.layers.0.mlp.up_proj": 6},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 3, "v_proj": 5},
        "use_rslora": True,
    },
    "layers trained in full": {"modules_to_save": ["lm_head", "norm"]},
    "biases": {"bias": "all"},
    "biases of its layers": {"bias": "lora_only"},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
}


def assert_same(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    base = open_checkpoint(folder / "base")
    expert = open_expert(folder / "adapter", base)

    changed = [name for name in base.entries if not torch.equal(base.tensor(name), expert.tensor(name).float())]
    assert changed
    for name, entry in expert.entries.items():
        whole = expert.tensor(name).float()
        torch.testing.assert_close(whole, expected[name], rtol=1e-5, atol=1e-5)
        cut = torch.cat([expert.read(name, start, min(start + 5, entry.size)) for start in range(0, entry.size, 5)])
        torch.testing.assert_close(cut.float(), whole.flatten(), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("settings", KINDS.values(), ids=list(KINDS))
def test_adapters_of_all_kinds_read_as_peft_merges_them(settings: dict[str, Any], tmp_path: Path) -> None:
    targets = ["q_proj", "v_proj", "up_proj"]

    expected = trained(llama(), tmp_path, **{"r": 4, "lora_alpha": 8, "target_modules": targets, **settings})

    assert_same(tmp_path, expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("targets", [["c_attn", "c_proj"], ["attn.c_proj"]])
def test_layers_that_are_stored_transposed_read_as_peft_merges_them(targets: list[str], tmp_path: Path) -> None:
    expected = trained(gpt2(), tmp_path, r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=True)

    assert_same(tmp_path, {name.removeprefix("transformer."): value for name, value in expected.items()} | expected)


def test_the_file_of_an_adapter_stands_for_its_folder() -> None:
    base = open_checkpoint(ZOO / "base")

    by_file, by_folder = (open_expert(path, base) for path in (ADAPTERS[0] / "adapter_model.safetensors", ADAPTERS[0]))

    assert set(by_file.made) == set(by_folder.made)
    name = next(iter(by_file.made))
    assert torch.equal(by_file.read(name), by_folder.read(name))
