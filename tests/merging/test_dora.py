"""Adapters whose outputs have lengths of their own, merged as the full models that they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import MergeError, Recipe, extract, merge
from merging.adapter import open_expert
from merging.checkpoint import open_checkpoint
from merging.preflight import check
from tests.adapters import written
from tests.conftest import write_model

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
PLAIN: dict[str, Any] = {"target_modules": ["q_proj", "up_proj"]}
DORA: dict[str, Any] = {**PLAIN, "use_dora": True}
FILE = "adapter_model.safetensors"


def dense(adapter: Path, base: Path, folder: Path) -> Path:
    """The full model of an adapter, in float32."""
    read = open_expert(adapter, open_checkpoint(base))
    return write_model(folder, {name: read.tensor(name).float() for name in read.entries})


@pytest.mark.parametrize("method", ["from", "ties", "task_arithmetic"])
def test_they_merge_as_the_models_that_they_are(tmp_path: Path, method: str) -> None:
    base, adapters = written(tmp_path, DORA, PLAIN)
    models = tuple(dense(adapter, base, tmp_path / f"model-{number}") for number, adapter in enumerate(adapters))

    outs = [
        merge(Recipe(method, base, experts), tmp_path / f"out-{number}", workers=1 + number).out
        for number, experts in enumerate((adapters, models, adapters))
    ]

    ours, theirs, again = (load_file(out / "model.safetensors") for out in outs)
    start = load_file(base / "model.safetensors")
    assert sum(not torch.equal(tensor, start[name]) for name, tensor in ours.items()) == 4
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(tensor, again[name])


def test_what_has_no_length_stays_nothing(tmp_path: Path) -> None:
    base, [adapter] = written(tmp_path, DORA)
    name = "model.layers.0.mlp.up_proj"
    weights, factors = load_file(base / "model.safetensors"), load_file(adapter / FILE)
    weights[f"{name}.weight"][2] = 0
    factors[f"base_model.model.{name}.lora_B.weight"][2] = 0
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    save_file(factors, adapter / FILE, {"format": "pt"})

    row = open_expert(adapter, open_checkpoint(base)).tensor(f"{name}.weight")

    assert not row[2].any()
    assert row.isfinite().all()


def test_of_its_factors_alone_there_is_no_average(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, DORA, PLAIN)

    [problem] = check(Recipe("from", base, adapters, values={"lora": "factors"})).problems

    assert "adapter-0 is a DoRA, which is more than a product. Set `lora: product`." in problem


def test_an_adapter_without_lengths_can_be_extracted_of_it(tmp_path: Path) -> None:
    base, [adapter] = written(tmp_path, DORA)

    out = extract(base, adapter, tmp_path / "out", 99).out

    ours, theirs = (open_expert(path, open_checkpoint(base)) for path in (out, adapter))
    for name in ours.entries:
        torch.testing.assert_close(ours.tensor(name).float(), theirs.tensor(name).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", ["missing", "short", "whole numbers", "alone"])
def test_lengths_that_do_not_belong_to_the_factors_are_refused(tmp_path: Path, what: str) -> None:
    base, [adapter] = written(tmp_path, DORA)
    tensors = load_file(adapter / FILE)
    name = next(name for name in tensors if "magnitude" in name)
    match what:
        case "missing":
            del tensors[name]
        case "short":
            tensors[name] = tensors[name][1:].clone()
        case "whole numbers":
            tensors[name] = tensors[name].int()
        case "alone":
            module = name.split(".lora_")[0]
            tensors = {key: tensor for key, tensor in tensors.items() if key == name or module not in key}
    save_file(tensors, adapter / FILE, {"format": "pt"})

    words = (
        "which no plain LoRA does" if what == "alone" else "is a DoRA, and holds no usable lengths for `model.layers"
    )
    with pytest.raises(MergeError, match=words):
        open_expert(adapter, open_checkpoint(base))
