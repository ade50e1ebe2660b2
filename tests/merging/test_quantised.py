"""Quantised models are refused by the name of their kind, and full ones with such a config left behind are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from tests.conftest import write_model

L = "model.layers.0.self_attn.q_proj"
I32 = torch.ones(2, 2, dtype=torch.int32)
U8 = torch.ones(2, 2, dtype=torch.uint8)
I8 = torch.ones(2, 2, dtype=torch.int8)
F = torch.ones(2, 2)
FP8 = F.to(torch.float8_e4m3fn)


def by(method: str, **more: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, **more}}


# the tensors, the config, the kind that is named, and the tensor that shows it
KINDS: dict[str, tuple[dict[str, Tensor], dict[str, Any], str, str]] = {
    "GPTQ": ({f"{L}.qweight": I32, f"{L}.scales": F}, by("gptq", bits=4), "GPTQ (4 bits)", f"{L}.qweight"),
    "AWQ": ({f"{L}.qweight": I32, f"{L}.qzeros": I32}, by("awq", bits=4), "AWQ (4 bits)", f"{L}.qweight"),
    "without config": ({f"{L}.qweight": I32}, {}, "GPTQ or AWQ", f"{L}.qweight"),
    "bitsandbytes 4": (
        {f"{L}.weight.absmax": U8, f"{L}.weight": U8},
        by("bitsandbytes", load_in_4bit=True),
        "bitsandbytes (4 bits)",
        f"{L}.weight.absmax",
    ),
    "bitsandbytes 8": ({f"{L}.SCB": F, f"{L}.weight": I8}, by("bitsandbytes"), "bitsandbytes (8 bits)", f"{L}.SCB"),
    "packed": ({f"{L}.weight_packed": I32}, by("compressed-tensors"), "compressed-tensors", f"{L}.weight_packed"),
    "whole numbers": (
        {f"{L}.weight": I8, f"{L}.weight_scale": F},
        by("compressed-tensors", format="int-quantized"),
        "compressed-tensors",
        f"{L}.weight",
    ),
    "rotated": (
        {f"{L}.weight": FP8},
        by("compressed-tensors", transform_config={"config_groups": {"u": {}}}),
        "compressed-tensors (rotated weights)",
        f"{L}.weight",
    ),
    "NVFP4": ({f"{L}.weight_scale_2": F, f"{L}.weight": U8}, by("modelopt"), "NVFP4", f"{L}.weight_scale_2"),
    "torchao": ({f"{L}._weight_qdata": I8}, by("torchao"), "torchao", f"{L}._weight_qdata"),
    "torchao plain": ({f"{L}.weight": I8}, by("torchao"), "torchao", f"{L}.weight"),
    "HQQ": ({f"{L}.W_q": U8}, by("hqq", nbits=4), "HQQ", f"{L}.W_q"),
    "MXFP4": (
        {"experts.gate_up_proj_blocks": U8, "experts.gate_up_proj_scales": U8},
        by("mxfp4"),
        "MXFP4",
        "experts.gate_up_proj_blocks",
    ),
    "AQLM": ({f"{L}.codebooks": F, f"{L}.codes": I8}, by("aqlm"), "AQLM", f"{L}.codebooks"),
    "EETQ": ({f"{L}.weight": I8, f"{L}.weight_scales": F}, by("eetq"), "EETQ", f"{L}.weight"),
    "Quanto": ({f"{L}.weight._data": I8}, {}, "Quanto", f"{L}.weight._data"),
    "BitNet": ({f"{L}.weight": U8}, by("bitnet"), "BitNet", f"{L}.weight"),
    "MLX": (
        {f"{L}.weight": I32.to(torch.uint32), f"{L}.scales": F, f"{L}.biases": F},
        {"quantization": {"group_size": 64, "bits": 4}},
        "MLX",
        f"{L}.weight",
    ),
    "a new kind": ({f"{L}.weight": U8}, by("novel"), "novel", f"{L}.weight"),
    "no word of it": ({f"{L}.weight": I8}, {}, "integers", f"{L}.weight"),
    "inside": ({f"{L}.weight": I8}, {"text_config": by("gptq")}, "GPTQ", f"{L}.weight"),
}


@pytest.mark.parametrize(("tensors", "config", "kind", "name"), KINDS.values(), ids=list(KINDS))
@pytest.mark.parametrize("pickled", [False, True])
def test_a_quantised_model_is_refused_by_its_kind(
    tensors: dict[str, Tensor], config: dict[str, Any], kind: str, name: str, pickled: bool, tmp_path: Path
) -> None:
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}  # safetensors shares none
    folder = write_model(tmp_path / "small", {**tensors, "model.norm.weight": torch.ones(2)}, config)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin")

    with pytest.raises(MergeError) as caught:
        open_checkpoint(folder)

    message = str(caught.value)
    assert message.startswith(f"small is quantised with {kind}")
    assert f"(`{name}`)" in message
    assert message.endswith("so it cannot be merged. Choose the unquantised model.")


CARDS = {
    "text": "---\nlicense: mit\nbase_model: Qwen/Qwen2.5-0.5B\n---\n# Model",
    "quoted": '---\nbase_model: "Qwen/Qwen2.5-0.5B"\n---\n',
    "list": "---\nbase_model:\n- Qwen/Qwen2.5-0.5B\n- Other/Model\n---\n",
    "indented list": "---\nbase_model:\n  - Qwen/Qwen2.5-0.5B\n---\n",
    "windows": "---\r\nbase_model: Qwen/Qwen2.5-0.5B\r\n---\r\n",
}


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_the_model_it_was_made_from_is_named_by_its_card(card: str, tmp_path: Path) -> None:
    write_model(tmp_path, {f"{L}.qweight": I32}, {"_name_or_path": "another/model"})
    (tmp_path / "README.md").write_text(card, newline="")

    with pytest.raises(MergeError, match=r"Choose the model it was made from, Qwen/Qwen2\.5-0\.5B\."):
        open_checkpoint(tmp_path)


def test_the_model_it_was_made_from_is_named_by_its_config(tmp_path: Path) -> None:
    write_model(tmp_path, {f"{L}.qweight": I32}, {"_name_or_path": "meta-llama/Llama-3.2-1B"})

    with pytest.raises(MergeError, match=r"Choose the model it was made from, meta-llama/Llama-3\.2-1B\."):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("named", ["/home/me/models/llama", "./llama", "llama", "", 3, None, "a/b/c", "../evil/x"])
def test_what_is_no_name_on_the_hub_is_not_advised(named: Any, tmp_path: Path) -> None:
    write_model(tmp_path, {f"{L}.qweight": I32}, {"_name_or_path": named})
    (tmp_path / "README.md").write_bytes(b"---\nbase_model: \xff\xfe\n---")

    with pytest.raises(MergeError, match=r"Choose the unquantised model\.$"):
        open_checkpoint(tmp_path)


def test_a_full_model_with_the_config_of_a_quantised_one_opens(tmp_path: Path) -> None:
    config = {"model_type": "llama", **by("bitsandbytes", load_in_4bit=True)}
    write_model(tmp_path, {f"{L}.weight": F, "position_ids": torch.arange(3)[None]}, config)

    opened = open_checkpoint(tmp_path)

    assert opened.config == {"model_type": "llama"}
    note = "The config says bitsandbytes, but the weights are not quantised, so that was left out."
    assert opened.notes == (note,)
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_full_weights_that_are_trained_to_be_rounded_keep_their_config(tmp_path: Path) -> None:
    write_model(tmp_path, {f"{L}.weight": F}, by("bitnet"))

    assert open_checkpoint(tmp_path).config == by("bitnet")


def test_names_that_only_end_alike_are_no_sign(tmp_path: Path) -> None:
    tensors = {
        "cross_blocks": F,
        "vision._data": F.clone(),
        "layer.position_ids": torch.arange(4)[None],
        "mask": F.bool(),
    }
    write_model(tmp_path, tensors)

    assert set(open_checkpoint(tmp_path).entries) == set(tensors)
