"""An expert's tensors are found under the base's names, each under one name or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merging.adapter import open_expert
from merging.checkpoint import open_checkpoint
from merging.plan import misfit
from merging.renaming import core, matches, renamed
from tests.conftest import write_model

LAYERS = ["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "layers.1.mlp.up_proj.weight", "norm.weight"]


def under(prefix: str, names: list[str] = LAYERS, head: str = "") -> list[str]:
    return [*(prefix + name for name in names), *([head] if head else [])]


# the base's names and the expert's, in the same order
FAMILIES = {
    "model.": (under("model.", head="lm_head.weight"), under("", head="lm_head.weight")),
    "no model.": (under("", head="lm_head.weight"), under("model.", head="lm_head.weight")),
    "transformer.": (under("", head="lm_head.weight"), under("transformer.", head="lm_head.weight")),
    "module.": (under("model."), under("module.model.")),
    "compiled": (under("model."), under("_orig_mod.model.")),
    "compiled inside": (under("model."), [f"model._orig_mod.{name}" for name in LAYERS]),
    "compiled and distributed": (under("model."), under("module._orig_mod.model.")),
    "compiled layers": (
        ["model.layers.0.mlp.up_proj.weight"],
        ["model.layers.0._orig_mod.mlp._checkpoint_wrapped_module.up_proj.weight"],
    ),
    "unloaded adapter": (under("model."), under("base_model.model.model.")),
    "language model": (
        under("model.", head="lm_head.weight"),
        under("language_model.model.", head="language_model.lm_head.weight"),
    ),
    "newer language model": (
        under("language_model.model.", head="language_model.lm_head.weight"),
        under("model.language_model.", head="lm_head.weight"),
    ),
    "LayerNorm": (
        ["bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias"],
        ["bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.beta"],
    ),
    "older LayerNorm": (["a.LayerNorm.gamma", "a.LayerNorm.beta"], ["a.LayerNorm.weight", "a.LayerNorm.bias"]),
}


@pytest.mark.parametrize(("base", "expert"), FAMILIES.values(), ids=list(FAMILIES))
def test_an_expert_is_read_under_the_bases_names(base: list[str], expert: list[str], tmp_path: Path) -> None:
    write_model(tmp_path / "base", {name: torch.zeros(3) for name in base})
    write_model(tmp_path / "expert", {name: torch.full((3,), float(i)) for i, name in enumerate(expert)})
    opened = open_checkpoint(tmp_path / "base")

    found = open_expert(tmp_path / "expert", opened)

    assert set(found.entries) == set(base)
    assert misfit(opened, found) == ""
    for number, name in enumerate(base):
        assert found.entries[name].name == name
        assert found.tensor(name).tolist() == [number] * 3
    changed = [(new, old) for new, old in zip(expert, base, strict=True) if new != old]
    assert len(found.notes) == 1
    assert any(f"`{new}` is read as the base's `{old}`" in found.notes[0] for new, old in changed)
    assert (f"and {len(changed) - 1} more names" in found.notes[0]) == (len(changed) > 1)


def test_an_expert_with_the_bases_names_is_left_alone(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(2) for name in under("model.")}
    base = open_checkpoint(write_model(tmp_path / "base", tensors))
    expert = open_checkpoint(write_model(tmp_path / "expert", {**tensors, "extra": torch.ones(1)}))

    assert renamed(expert, base) is expert


def test_another_architecture_is_left_alone(tmp_path: Path) -> None:
    base = open_checkpoint(write_model(tmp_path / "base", {"model.layers.0.up": torch.zeros(2)}))
    expert = open_checkpoint(write_model(tmp_path / "expert", {"transformer.h.0.up": torch.zeros(2)}))

    assert renamed(expert, base) is expert


@pytest.mark.parametrize(
    ("base", "expert"),
    [
        (["model.w", "language_model.w"], ["transformer.w"]),  # which of the two?
        (["w"], ["model.w", "module.w"]),  # which of the two?
        (["model.w"], ["model.w", "w"]),  # that place is taken
        (["norm.weight", "norm.bias"], ["norm.weight", "norm.gamma", "norm.bias"]),
    ],
)
def test_what_could_be_two_is_left_alone(base: list[str], expert: list[str]) -> None:
    assert matches(expert, base) == {}


parts = st.sampled_from(["model", "module", "_orig_mod", "transformer", "language_model", "a", "b", "gamma", "weight"])
names = st.lists(parts, min_size=1, max_size=4).map(".".join)


@given(base=st.sets(names, min_size=1, max_size=8), expert=st.sets(names, min_size=1, max_size=8))
def test_two_tensors_never_get_one_name(base: set[str], expert: set[str]) -> None:
    new = matches(sorted(expert), base)

    after = [new.get(name, name) for name in expert]
    assert len(set(after)) == len(expert)
    assert len(base & set(after)) == len(base & expert) + len(new)
    assert all(core(old) == core(name) for old, name in new.items())


def test_an_adapter_finds_its_base_inside_a_larger_model(tmp_path: Path) -> None:
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    base = open_checkpoint(write_model(tmp_path / "base", {name: torch.zeros(3, 4), "vision.w": torch.ones(1)}))
    down, up = torch.randn(2, 4), torch.randn(3, 2)
    module = "base_model.model.model.layers.0.mlp.up_proj"
    folder = write_model(tmp_path / "lora", {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up})
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))

    expert = open_expert(folder, base)

    torch.testing.assert_close(expert.tensor(name), up @ down)
    assert expert.notes == (f"`model.layers.0.mlp.up_proj.weight` is read as the base's `{name}`.",)


def test_computed_tensors_keep_what_computes_them(tmp_path: Path) -> None:
    base = open_checkpoint(write_model(tmp_path / "base", {"model.w": torch.zeros(2)}))
    (tmp_path / "expert").mkdir()
    torch.save({"w": torch.ones(2).expand(2, 2)[:, 0]}, tmp_path / "expert" / "pytorch_model.bin")

    expert = open_expert(tmp_path / "expert", base)

    assert list(expert.made) == ["model.w"]
    assert expert.tensor("model.w").tolist() == [1.0, 1.0]
