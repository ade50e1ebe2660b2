"""Small models as transformers saves them, and real adapters for them as PEFT does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file


def llama(**settings: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, attention_bias=True, **sizes, **settings))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=2, n_head=2))


def trained(model: Any, folder: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """Save a model and an adapter for it with random factors; and the weights PEFT makes of the two."""
    peft = pytest.importorskip("peft")
    model.save_pretrained(folder / "base")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad or "lora_" in name:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(folder / "adapter")
    return dict(wrapped.merge_and_unload().state_dict())


def written(folder: Path, *settings: dict[str, Any], **model_settings: Any) -> tuple[Path, tuple[Path, ...]]:
    """A base and an adapter for each of these settings, all with random factors; their folders."""
    peft = pytest.importorskip("peft")
    folders = []
    for number, given in enumerate(settings):
        torch.manual_seed(0)
        model = llama(**model_settings)
        model.save_pretrained(folder / "base")
        torch.manual_seed(number + 1)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **given}))
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad or "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1 * (number + 1))
        wrapped.save_pretrained(folder / f"adapter-{number}")
        folders.append(folder / f"adapter-{number}")
    return folder / "base", tuple(folders)


def loaded(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights that PEFT makes of a base and an adapter."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return dict(peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict())


def weighted(base: Path, adapters: tuple[Path, ...], weights: list[float], **settings: Any) -> dict[str, torch.Tensor]:
    """The weights that PEFT makes of a base and its own combination of adapters."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wrapped = peft.PeftModel.from_pretrained(model, adapters[0], adapter_name="0")
    for number, adapter in enumerate(adapters[1:], 1):
        wrapped.load_adapter(adapter, adapter_name=str(number))
    wrapped.add_weighted_adapter([str(number) for number in range(len(adapters))], weights, "all", **settings)
    wrapped.set_adapter("all")
    return dict(wrapped.merge_and_unload(adapter_names=["all"]).state_dict())


def random_adapter(folder: Path, seed: int, modules: dict[str, tuple[int, int]], rank: int = 4, **config: Any) -> Path:
    """An adapter with random factors for these modules of (rows, columns), written without PEFT."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for module, (rows, columns) in modules.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    told = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(modules), **config}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder
