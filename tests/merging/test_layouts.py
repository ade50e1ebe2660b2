"""Fused and split layouts of the same architecture are told apart, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merging.checkpoint import Checkpoint, open_checkpoint
from merging.layouts import layout_clash
from tests.conftest import write_model

A = "model.layers.0.self_attn."
M = "model.layers.0.mlp."
SPLIT = [f"{A}{letter}_proj.weight" for letter in "qkv"]
HEADS = "query, key and value"
# the split layout, the fused one, what it is, and the fused tensor
CLASHES = {
    "qkv": (SPLIT, [f"{A}qkv_proj.weight"], HEADS, "layers.0.self_attn.qkv_proj.weight"),
    "qkv with other prefixes": (
        SPLIT,
        ["model.language_model.layers.0.self_attn.qkv_proj.weight"],
        HEADS,
        "layers.0.self_attn.qkv_proj.weight",
    ),
    "biases too": (
        [*SPLIT, *(name.replace("weight", "bias") for name in SPLIT)],
        [f"{A}Wqkv.weight", f"{A}Wqkv.bias"],
        HEADS,
        "layers.0.self_attn.Wqkv.bias",
    ),
    "gate and up": (
        [f"{M}gate_proj.weight", f"{M}up_proj.weight"],
        [f"{M}gate_up_proj.weight"],
        "gate and up",
        "layers.0.mlp.gate_up_proj.weight",
    ),
    "experts": (
        [f"{M}experts.{n}.{w}_proj.weight" for n in range(4) for w in ("gate", "up", "down")],
        [f"{M}experts.gate_up_proj", f"{M}experts.down_proj"],
        "its experts' matrices",
        "layers.0.mlp.experts.down_proj",
    ),
}


def model(folder: Path, names: list[str]) -> Checkpoint:
    return open_checkpoint(write_model(folder, {name: torch.zeros(2, 2) for name in [*names, "model.norm.weight"]}))


@pytest.mark.parametrize(("split", "fused", "what", "name"), CLASHES.values(), ids=list(CLASHES))
def test_fused_and_split_are_told_apart(
    split: list[str], fused: list[str], what: str, name: str, tmp_path: Path
) -> None:
    parted, whole = model(tmp_path / "split", split), model(tmp_path / "fused", fused)

    advice = f"(`{name}`), so the layouts differ. Save both with the same version of transformers."
    assert layout_clash(whole, parted) == f"It has {what} in one tensor, the base model apart {advice}"
    assert layout_clash(parted, whole) == f"It has {what} apart, the base model in one tensor {advice}"


@pytest.mark.parametrize(("split", "fused", "what", "name"), CLASHES.values(), ids=list(CLASHES))
def test_one_layout_is_no_clash(split: list[str], fused: list[str], what: str, name: str, tmp_path: Path) -> None:
    for number, names in enumerate((split, fused)):
        one = model(tmp_path / f"a{number}", names)
        assert layout_clash(one, model(tmp_path / f"b{number}", names)) == ""
        assert layout_clash(one, model(tmp_path / f"c{number}", names[:1])) == ""


def test_other_missing_tensors_are_no_clash(tmp_path: Path) -> None:
    base = model(tmp_path / "base", SPLIT)
    expert = model(tmp_path / "expert", ["model.layers.0.mlp.gate_up_proj.weight", *SPLIT[:2]])

    assert layout_clash(expert, base) == ""
