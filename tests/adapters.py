"""Small models as transformers saves them, and real adapters for them as PEFT does."""

from pathlib import Path
from typing import Any

import pytest
import torch


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, attention_bias=True, **sizes))


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


def written(folder: Path, *settings: dict[str, Any]) -> tuple[Path, tuple[Path, ...]]:
    """A base and an adapter for each of these settings, all with random factors; their folders."""
    peft = pytest.importorskip("peft")
    folders = []
    for number, given in enumerate(settings):
        torch.manual_seed(0)
        model = llama()
        model.save_pretrained(folder / "base")
        torch.manual_seed(number + 1)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **given}))
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad or "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1 * (number + 1))
        wrapped.save_pretrained(folder / f"adapter-{number}")
        folders.append(folder / f"adapter-{number}")
    return folder / "base", tuple(folders)
