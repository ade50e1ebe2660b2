"""LoRA adapters as experts, against PEFT's own merge."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import MergeError, Recipe, merge
from merging.adapter import open_expert
from merging.adapter_config import KNOWN, UNKNOWN, USABLE
from merging.checkpoint import open_checkpoint
from merging.preflight import check
from tests.adapters import gpt2, llama, random_adapter, trained
from tests.conftest import write_model

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


def test_an_adapter_that_lost_its_config_is_told_what_it_lacks(adapter: Any, tmp_path: Path) -> None:
    folder = adapter()
    (folder / "adapter_config.json").unlink()

    found = check(Recipe("task_arithmetic", ZOO / "base", (folder,)), tmp_path / "out")

    assert found.problems == (
        "adapter: It holds an adapter's factors, but no adapter_config.json, which says how they enter. Add that file.",
    )


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
        ({"use_dora": True}, "is a DoRA, and holds no usable lengths for"),
        ({"lora_bias": True}, "is an adapter with biases of its factors"),
        ({"arrow_config": {"top_k": 1}}, "is an adapter with Arrow's routing"),
        ({"monteclora_config": {"sample_scaler": 1}}, "is an adapter with MonteCLoRA"),
        ({"kasa_config": {"beta": 1}}, "is an adapter with KaSA"),
        ({"init_lora_weights": "olora"}, "starts from `olora`, which changes the base"),
        ({"init_lora_weights": "pissa_niter_4"}, "starts from `pissa_niter_4`, which changes the base"),
        ({"modules_to_save": ["lm_head"]}, "says that `lm_head` was trained in full, and holds no such tensor"),
        ({"rank_pattern": {"(a+)+q_proj": 4}}, "has the rank_pattern"),
        ({"alpha_pattern": ["q_proj"]}, "has no usable `alpha_pattern`"),
        ({"rank_pattern": {"q_proj": 4}}, "are not of rank 4, as its config says"),
        ({"peft_type": "IA3"}, "is an adapter of type IA3"),
        ({"peft_type": None}, "does not say its type"),
        ({"init_lora_weights": "pissa"}, "starts from `pissa`, which changes the base"),
        ({"r": 4}, "are not of rank 4, as its config says"),
        *(({"r": rank}, "has no usable `r`") for rank in (0, -8, 8.0, "8", None, True, [8], 10**400)),
        *(
            ({"lora_alpha": alpha}, "has no usable `lora_alpha`")
            for alpha in (float("nan"), float("-inf"), 1e39, 10**400, "16", None, True, {})
        ),
        ({"rank_pattern": {"q_proj": -1}}, "has no usable `rank_pattern`"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "has no usable `alpha_pattern`"),
        ({"use_rslora": "false"}, "has no usable `use_rslora`"),
        ({"fan_in_fan_out": "no"}, "has no usable `fan_in_fan_out`"),
        ({"modules_to_save": "lm_head"}, "has no usable `modules_to_save`"),
        ({"modules_to_save": [1]}, "has no usable `modules_to_save`"),
        ({"use_mora": True}, "is an adapter with `use_mora`, which is not known here"),
        ({"vora_config": {"a": 1}}, "is an adapter with `vora_config`, which is not known here"),
    ],
)
def test_what_cannot_be_added_exactly_is_refused_by_name(adapter: Any, changes: dict[str, Any], words: str) -> None:
    folder = adapter(**changes)

    with pytest.raises(MergeError, match=words):
        open_expert(folder, open_checkpoint(ZOO / "base"))


Tensors = dict[str, torch.Tensor]


def without_half(tensors: Tensors, name: str) -> None:
    del tensors[name]


def as_switches(tensors: Tensors, name: str) -> None:
    tensors[name] = tensors[name].bool()


def of_a_convolution(tensors: Tensors, name: str) -> None:
    tensors[name] = tensors[name][..., None, None].clone()


def of_another_rank(tensors: Tensors, name: str) -> None:
    tensors[name] = tensors[name][..., :3].clone() if "_B" in name else tensors[name][:3].clone()


def of_another_side(tensors: Tensors, name: str) -> None:
    tensors[name] = tensors[name][:3].clone() if "_B" in name else tensors[name][..., :3].clone()


def in_two_ways(tensors: Tensors, name: str) -> None:
    for side in "AB":
        tensors[f"{name.split('.lora_')[0]}.lora_embedding_{side}"] = torch.zeros(8, 8)


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_half, r"adapter holds `.*lora_{other}.weight` without `.*lora_{side}.weight`\. Download"),
        (as_switches, r"`.*lora_{side}.weight` of adapter is stored as BOOL, and factors are floating-point"),
        (of_a_convolution, r"`.*lora_{side}.weight` of adapter is no matrix: it has 4 axes"),
        (of_another_rank, "in adapter are not of rank 8, as its config says"),
        (of_another_side, "in adapter do not fit base"),
        (in_two_ways, "adapter changes `.*` in two ways"),
    ],
)
def test_factors_that_do_not_belong_together_are_refused(adapter: Any, side: str, change: Any, words: str) -> None:
    folder = adapter()
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors, next(name for name in tensors if f"lora_{side}" in name))
    save_file(tensors, folder / "adapter_model.safetensors")

    with pytest.raises(MergeError, match=words.format(side=side, other="AB".replace(side, ""))):
        open_expert(folder, open_checkpoint(ZOO / "base"))


@pytest.mark.parametrize("stored", [False, True])
def test_a_change_of_a_head_that_is_the_embedding_is_refused(stored: bool, tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": torch.ones(8, 4), "model.layers.0.mlp.up_proj.weight": torch.ones(6, 4)}
    tensors |= {"lm_head.weight": torch.ones(8, 4)} if stored else {}
    base = open_checkpoint(write_model(tmp_path / "base", tensors, {"tie_word_embeddings": True}))
    adapter = random_adapter(tmp_path / "adapter", 0, {"model.layers.0.mlp.up_proj": (6, 4), "lm_head": (8, 4)})

    words = r"adapter changes `lm_head.weight` apart from the embedding, and in base the two are one\. Leave it out"
    with pytest.raises(MergeError, match=words):
        open_expert(adapter, base)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ranks and alphas by layer": {
        "rank_pattern": {"q_proj": 2, "^model.layers.0.mlp.up_proj": 6},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 3, "v_proj": 5},
        "use_rslora": True,
    },
    "DoRA": {"use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 2}, "bias": "lora_only"},
    "layers trained in full": {"modules_to_save": ["lm_head", "norm"]},
    "biases": {"bias": "all"},
    "biases of its layers": {"bias": "lora_only"},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "a gaussian start": {"init_lora_weights": "gaussian"},
    "an orthogonal start": {"init_lora_weights": "orthogonal"},
    "a start from minor components": {"init_lora_weights": "mica"},
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
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("targets", [["c_attn", "c_proj"], ["attn.c_proj"]])
def test_layers_that_are_stored_transposed_read_as_peft_merges_them(
    targets: list[str], dora: bool, tmp_path: Path
) -> None:
    kind = {"target_modules": targets, "fan_in_fan_out": True, "use_dora": dora}
    expected = trained(gpt2(), tmp_path, r=4, lora_alpha=8, **kind)

    assert_same(tmp_path, {name.removeprefix("transformer."): value for name, value in expected.items()} | expected)


def test_the_file_of_an_adapter_stands_for_its_folder() -> None:
    base = open_checkpoint(ZOO / "base")

    by_file, by_folder = (open_expert(path, base) for path in (ADAPTERS[0] / "adapter_model.safetensors", ADAPTERS[0]))

    assert set(by_file.made) == set(by_folder.made)
    name = next(iter(by_file.made))
    assert torch.equal(by_file.read(name), by_folder.read(name))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (
            "LoraConfig",
            {"use_dora": True, "target_modules": ["embed_tokens"]},
            "is an adapter with DoRA of an embedding",
        ),
        ("LoraConfig", {"init_lora_weights": "pissa"}, "starts from `pissa`, which changes the base"),
        ("LoraConfig", {"lora_bias": True}, "is an adapter with biases of its factors"),
        ("LoraConfig", {"trainable_token_indices": [1, 2]}, "is an adapter with trainable tokens"),
        ("LoHaConfig", {}, "is an adapter of type LOHA"),
        ("VeraConfig", {}, "is an adapter of type VERA"),
        ("IA3Config", {"feedforward_modules": []}, "is an adapter of type IA3"),
    ],
)
def test_what_peft_itself_saves_of_other_kinds_is_refused_by_name(
    kind: str, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    model = llama()
    model.save_pretrained(tmp_path / "base")
    config = getattr(peft, kind)(**{"target_modules": ["q_proj", "v_proj"], **settings})
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")

    with pytest.raises(MergeError, match=words):
        open_expert(tmp_path / "adapter", open_checkpoint(tmp_path / "base"))


# Of the training alone, or of where it was and how it is loaded.
ELSEWHERE = {
    *(
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
    ),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "bias", "lora_dropout"),
    *("init_lora_weights", "megatron_core", "qalora_group_size"),
}


def test_every_word_of_pefts_own_configs_is_known() -> None:
    peft = pytest.importorskip("peft")

    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}

    assert fields == {*ELSEWHERE, *UNKNOWN, *USABLE, *KNOWN} & fields
    assert set(UNKNOWN) <= fields


def test_every_kind_of_pefts_but_lora_is_refused_by_name(adapter: Any) -> None:
    peft = pytest.importorskip("peft")
    folder, base = adapter(), open_checkpoint(ZOO / "base")
    config = json.loads((folder / "adapter_config.json").read_text())

    kinds = [kind.value for kind in peft.PeftType if kind.value != "LORA"]

    assert len(kinds) > 20
    for kind in kinds:
        (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": kind}))
        with pytest.raises(
            MergeError, match=rf"^adapter is an adapter of type {kind}\. Only LoRA adapters can be merged"
        ):
            open_expert(folder, base)
