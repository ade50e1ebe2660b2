"""The shapes of the synthetic models, after Llama and Qwen2, and the files around their weights."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Size:
    """A model's dimensions, in the order in which papers list them."""

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    kind: str = "qwen2"


SIZES = {
    "nano": Size(512, 64, 160, 2, 4, 2, "llama"),
    "tiny": Size(16384, 384, 1024, 8, 6, 2, "llama"),
    "24 layers": Size(2048, 128, 352, 24, 4, 2, "llama"),
    "80 layers": Size(2048, 128, 352, 80, 4, 2, "llama"),
    "0.5b": Size(151936, 896, 4864, 24, 14, 2),
    "1.5b": Size(151936, 1536, 8960, 28, 12, 2),
    "3b": Size(151936, 2048, 11008, 36, 16, 2),
    "70b": Size(128256, 8192, 28672, 80, 64, 8, "llama"),
}


Shapes = dict[str, tuple[int, ...]]


def shapes(size: Size) -> Shapes:
    """Every tensor of a model of that size, whose head is its embedding."""
    hidden, inner, kv = size.hidden, size.inner, size.hidden // size.heads * size.kv_heads
    layer: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,)}
    for name, rows in {"q": hidden, "k": kv, "v": kv}.items():
        layer[f"self_attn.{name}_proj.weight"] = (rows, hidden)
        if size.kind == "qwen2":
            layer[f"self_attn.{name}_proj.bias"] = (rows,)
    layer["self_attn.o_proj.weight"] = (hidden, hidden)
    layer["post_attention_layernorm.weight"] = (hidden,)
    layer["mlp.gate_proj.weight"] = layer["mlp.up_proj.weight"] = (inner, hidden)
    layer["mlp.down_proj.weight"] = (hidden, inner)
    layers = {f"model.layers.{n}.{name}": shape for n in range(size.layers) for name, shape in layer.items()}
    return {"model.embed_tokens.weight": (size.vocabulary, hidden), **layers, "model.norm.weight": (hidden,)}


def parameters(size: Size) -> int:
    return sum(math.prod(shape) for shape in shapes(size).values())


def write_sides(folder: Path, size: Size) -> None:
    """The config and a small tokenizer, so that transformers loads the folder as it is."""
    architecture = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[size.kind]
    config = {
        "architectures": [architecture],
        "model_type": size.kind,
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096, **special}
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    _write(folder / "tokenizer_config.json", kind)
    _write(folder / "tokenizer.json", _tokenizer([*special.values(), *(f"w{n}" for n in range(253))]))


def _tokenizer(words: list[str]) -> dict[str, Any]:
    """Whole words, split at spaces."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": n, "content": word, "special": True, **flags} for n, word in enumerate(words[:3])],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}, "unk_token": "<unk>"},
    }


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
