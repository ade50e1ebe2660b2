"""Weights in fp8 come back as the bfloat16 weights they stand for, against torch's own fp8 and a dense product."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging import Recipe, merge
from merging.adapter import open_expert
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from tests.conftest import write_model

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
W = "model.layers.0.mlp.up_proj.weight"


def dense(weight: Tensor, scale: Tensor, block: tuple[int, int]) -> Tensor:
    """The whole product, by repeating each scale over its block."""
    wide = scale.float().repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
    return weight.float() * wide[..., : weight.shape[-2], : weight.shape[-1]]


def random(*shape: int, dtype: torch.dtype = E4M3) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 20).to(dtype)


def scales(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 0.01 + 0.001).to(dtype)


# weight, its scale, the words after the weight's name, the config, and the block that one scale belongs to
CASES: dict[str, Any] = {
    "blocks of 128": (random(300, 200), scales(3, 2), "_scale_inv", {"weight_block_size": [128, 128]}, (128, 128)),
    "blocks of 64 by 32": (random(130, 70), scales(3, 3), "_scale_inv", {"weight_block_size": [64, 32]}, (64, 32)),
    "blocks, unsaid": (random(300, 200), scales(3, 2), "_scale_inv", {}, (128, 128)),
    "blocks of compressed-tensors": (
        random(100, 96),
        scales(4, 3),
        "_scale",
        {"format": "float-quantized", "config_groups": {"group_0": {"weights": {"block_structure": [32, 32]}}}},
        (32, 32),
    ),
    "each row": (
        random(300, 200),
        scales(300, 1, dtype=torch.bfloat16),
        "_scale",
        {"format": "float-quantized"},
        (1, 200),
    ),
    "each row, flat": (random(30, 20), scales(30), "_scale", {}, (1, 20)),
    "groups of columns": (random(30, 256), scales(30, 8), "_scale", {}, (1, 32)),
    "the tensor": (random(300, 200), scales(1), "_scale", {}, (300, 200)),
    "the tensor, 0-d": (random(7, 5), scales(), "_scale_inv", {}, (7, 5)),
    "e5m2": (random(300, 200, dtype=E5M2), scales(3, 2), "_scale_inv", {}, (128, 128)),
    "experts in blocks": (random(3, 130, 140), scales(3, 2, 2), "_scale_inv", {}, (128, 128)),
    "experts, each one": (random(3, 130, 140), scales(3, 1, 1), "_scale", {}, (130, 140)),
    "experts, each one, flat": (random(3, 13, 14), scales(3), "_scale", {}, (13, 14)),
    "experts, each row": (random(3, 13, 14), scales(3, 13), "_scale", {}, (1, 14)),
}


def shaped(scale: Tensor, weight: Tensor) -> Tensor:
    """The scales as one for each block of rows and columns."""
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    if scale.shape == weight.shape[:-1]:
        return scale[..., None]
    return scale[..., None, None] if scale.shape == weight.shape[:-2] else scale


@pytest.mark.parametrize(("weight", "scale", "words", "told", "block"), CASES.values(), ids=list(CASES))
def test_a_weight_is_fp8_times_its_scale(
    weight: Tensor, scale: Tensor, words: str, told: dict[str, Any], block: tuple[int, int], tmp_path: Path
) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "fp8", **told}}
    write_model(tmp_path, {W: weight, f"{W}{words}": scale, "norm": torch.ones(3)}, config)
    expected = dense(weight, shaped(scale, weight), block).flatten()

    opened = open_checkpoint(tmp_path)

    assert set(opened.entries) == {W, "norm"}
    assert (opened.entries[W].dtype, opened.entries[W].shape) == ("BF16", weight.shape)
    assert torch.equal(opened.read(W), expected)  # in float32, to be rounded once
    width, size = weight.shape[-1], weight.numel()
    for start, stop in (
        (0, 1),
        (1, width),
        (width - 1, 2 * width + 1),
        (size // 2 - 3, size - 1),
        (size, size),
        (5, 5),
    ):
        assert torch.equal(opened.read(W, start, stop), expected[start:stop])
    assert opened.config == {"model_type": "llama"}
    assert opened.notes == ("1 tensors are stored as fp8 and are read as bfloat16, times their scales.",)


@pytest.mark.parametrize("stored", [torch.uint8, torch.float8_e8m0fnu])
def test_scales_may_be_powers_of_two(stored: torch.dtype, tmp_path: Path) -> None:
    weight = random(4, 64)
    powers = torch.tensor([[127, 126], [0, 1], [130, 128], [127, 254]], dtype=torch.uint8)
    write_model(
        tmp_path, {W: weight, f"{W}_scale": powers.view(stored)}, {"quantization_config": {"quant_method": "mxfp8"}}
    )
    scale = torch.ldexp(torch.ones(4, 2, dtype=torch.float64), powers.int() - 127)

    opened = open_checkpoint(tmp_path)

    assert list(opened.entries) == [W]
    expected = weight.double() * scale.repeat_interleave(32, 1)
    assert torch.equal(opened.tensor(W).double(), expected.float().double())


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_every_fp8_number_is_itself_without_a_scale(dtype: torch.dtype, tmp_path: Path) -> None:
    weight = torch.arange(256, dtype=torch.uint8).view(dtype)
    write_model(tmp_path, {"w": weight}, {"torch_dtype": "float8_e4m3fn"})

    opened = open_checkpoint(tmp_path)

    torch.testing.assert_close(opened.tensor("w"), weight.float(), equal_nan=True, rtol=0, atol=0)
    assert opened.dtypes == ["bfloat16"]
    assert opened.config == {"torch_dtype": "bfloat16"}
    assert "1 of them as they are, for want of scales" in opened.notes[0]


def test_scales_of_what_flows_through_are_left_out(tmp_path: Path) -> None:
    layer = "model.layers.0.self_attn.q_proj"
    flow = ["q_proj.input_scale", "q_proj.input_scale_ub", "q_proj.output_scale", "k_scale", "v_scale", "kv_scale"]
    tensors = {f"model.layers.0.self_attn.{name}": torch.ones(1) for name in flow}
    write_model(tmp_path, {f"{layer}.weight": random(4, 4), f"{layer}.weight_scale": scales(1), **tensors})

    assert set(open_checkpoint(tmp_path).entries) == {f"{layer}.weight"}


def test_a_model_without_fp8_keeps_what_is_called_a_scale(tmp_path: Path) -> None:
    tensors = {"attn.k_scale": torch.ones(3), "logit_scale": torch.tensor(1.0), "norm.scale": torch.ones(2)}
    write_model(tmp_path, tensors)

    assert set(open_checkpoint(tmp_path).entries) == set(tensors)


def test_every_scale_has_a_fate(tmp_path: Path) -> None:
    flow = "model.layers.0.mlp.up_proj.input_scale"
    write_model(tmp_path / "base", {W: dense(random(30, 20), scales(30, 1), (1, 20)).bfloat16()})
    write_model(tmp_path / "expert", {W: random(30, 20), f"{W}_scale": scales(30, 1), flow: scales(1)})

    report = merge(Recipe("linear", tmp_path / "base", (tmp_path / "expert",)), tmp_path / "out")

    assert report.fates[W] == "merged"
    assert report.fates[f"{W}_scale"] == "multiplied into the fp8 weights that it scales"
    assert report.fates[flow].startswith("left out")


def test_scales_in_another_shard_are_found(tmp_path: Path) -> None:
    weight, scale = random(130, 10), scales(2, 1)
    write_model(tmp_path, {W: weight, f"{W}_scale_inv": scale}, shards=2)

    opened = open_checkpoint(tmp_path)

    assert torch.equal(opened.tensor(W), dense(weight, scale, (128, 128)))
    assert {file.name for file in opened.files} == {f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    assert len(opened.stamp) == 5  # and the config and the tokenizer


def test_pickled_fp8_is_read_alike(tmp_path: Path) -> None:
    weight, scale = random(130, 10), scales(2, 1)
    torch.save({W: weight, f"{W}_scale_inv": scale}, tmp_path / "pytorch_model.bin")

    assert torch.equal(open_checkpoint(tmp_path).tensor(W), dense(weight, scale, (128, 128)))


def test_the_same_as_transformers_makes_of_it(tmp_path: Path) -> None:
    module = pytest.importorskip("transformers.integrations.finegrained_fp8")
    if not hasattr(module, "Fp8Dequantize"):
        pytest.skip("this transformers has no such function")
    weight, scale = random(256, 384), scales(2, 3)
    write_model(tmp_path, {W: weight, f"{W}_scale_inv": scale})
    dequantise = module.Fp8Dequantize(type("Quantizer", (), {"quantization_config": None})())

    theirs = dequantise._dequantize_one(weight, scale, torch.float32)

    assert torch.equal(open_checkpoint(tmp_path).tensor(W), theirs)


WRONG: dict[str, Any] = {
    "scales that do not fit": (
        {W: random(300, 200), f"{W}_scale_inv": scales(7, 2)},
        f"`{W}_scale_inv` of {{name}} is 7 × 2, which does not fit its weight of 300 × 200",
    ),
    "scales of whole numbers": (
        {W: random(4, 4), f"{W}_scale": torch.ones(4, 1, dtype=torch.int32)},
        f"`{W}_scale` of {{name}} has dtype I32, a kind of scale that cannot be read",
    ),
    "a scale without its weight": (
        {W: random(4, 4), "model.layers.1.mlp.up_proj.weight_scale": scales(1)},
        "`model.layers.1.mlp.up_proj.weight_scale` of {name} belongs to no weight in fp8",
    ),
}


@pytest.mark.parametrize(("tensors", "words"), WRONG.values(), ids=list(WRONG))
def test_scales_that_make_no_sense_are_refused(tensors: dict[str, Tensor], words: str, tmp_path: Path) -> None:
    write_model(tmp_path, tensors)

    with pytest.raises(MergeError) as caught:
        open_checkpoint(tmp_path)

    assert str(caught.value) == words.format(name=tmp_path.name) + ". Choose the unquantised model."


def test_an_adapter_is_added_to_a_base_in_fp8(tmp_path: Path) -> None:
    weight, scale = random(130, 10), scales(2, 1)
    base = open_checkpoint(write_model(tmp_path / "base", {W: weight, f"{W}_scale_inv": scale}))
    down, up = torch.randn(2, 10), torch.randn(130, 2)
    folder = tmp_path / "lora"
    folder.mkdir()
    module = f"base_model.model.{W.removesuffix('.weight')}"
    torch.save({f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))

    expert = open_expert(folder, base)

    torch.testing.assert_close(expert.tensor(W), dense(weight, scale, (128, 128)) + 2 * up @ down)
    assert {file.name for file in expert.files} == {"model.safetensors", "adapter_model.bin"}


def test_another_fp8_is_refused_by_its_name(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2, dtype=torch.float8_e4m3fnuz)}, tmp_path / "model.safetensors")

    header = (tmp_path / "model.safetensors").read_bytes()
    told = json.loads(header[8 : 8 + struct.unpack("<Q", header[:8])[0]])["w"]["dtype"]
    with pytest.raises(MergeError, match=f"`w` in .* has dtype {told}, which cannot be merged"):
        open_checkpoint(tmp_path)


def test_a_merge_rounds_what_is_lifted_once(tmp_path: Path) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}
    models = []
    for number in range(3):
        weight, scale = random(130, 10) if number else random(130, 10).flip(0), scales(2, 1) * (number + 1)
        models.append(dense(weight, scale, (128, 128)))
        write_model(tmp_path / str(number), {W: weight, f"{W}_scale_inv": scale}, config)
    base, *experts = (tmp_path / str(number) for number in range(3))

    merge(Recipe("task_arithmetic", base, tuple(experts), values={"lambda": 1.0}), tmp_path / "out")

    merged = load_file(tmp_path / "out" / "model.safetensors")
    expected = models[0] + ((models[1] - models[0]) + (models[2] - models[0]))
    assert list(merged) == [W]
    assert merged[W].dtype == torch.bfloat16
    torch.testing.assert_close(merged[W], expected.bfloat16())
