"""Where a tensor sits in its model, read from its name: which layer, and which module of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

LAYER = re.compile(r"^(?P<tower>.*?)\b(?:layers|layer|blocks|block|h)\.(?P<layer>\d{1,9})\.(?P<module>.+)$")

SHORT = {  # of a module in a layer
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "self_attn.q_norm": "q norm",
    "self_attn.k_norm": "k norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
    "input_layernorm": "attn norm",
    "post_attention_layernorm": "mlp norm",
}
OUTSIDE = {"embed_tokens": "embed", "norm": "final norm", "lm_head": "head"}


@dataclass(frozen=True)
class Place:
    """A tensor's layer (None for embeddings, the head and the like) and the short name of its module."""

    tower: str  # what stands before the layers: `model`, or `encoder` and `decoder`
    layer: int | None
    module: str

    @property
    def row(self) -> str:
        """The name of its layer on a heatmap."""
        return "" if self.layer is None else f"{self.tower} {self.layer}".strip()


@lru_cache(1 << 16)
def place(name: str) -> Place:
    """The place of the tensor of that name: `model.layers.3.mlp.up_proj.weight` is module `up` of layer 3."""
    if found := LAYER.match(name):
        tower = found["tower"].strip(".").removeprefix("model").removeprefix("transformer").strip(".")
        return Place(tower, int(found["layer"]), _short(found["module"], SHORT))
    return Place("", None, _short(name.removeprefix("model.").removeprefix("transformer."), OUTSIDE))


def _short(module: str, words: dict[str, str]) -> str:
    stem, _, kind = module.rpartition(".")
    if kind == "weight" and stem:
        return words.get(stem, stem)
    if kind == "bias" and stem:
        return f"{words.get(stem, stem)} bias"
    return module


def in_order(names: list[str]) -> list[str]:
    """The names as a reader goes through a model: what stands before the layers, layer by layer, and what follows."""

    def key(name: str) -> tuple[int, bool, str, int, tuple[int, int]]:
        at = place(name)
        if at.layer is not None:  # what is encoded first, then what is decoded from it
            return 1, "decoder" in at.tower, at.tower, at.layer, module_order(at.module)
        return (0 if re.search(r"embed|shared|wte|wpe", name) else 2), False, "", 0, (0, 0)

    return sorted(names, key=key)


def module_order(module: str) -> tuple[int, int]:
    """What modules are sorted by: attention, then the feed-forward part, then others, and norms last."""
    usual = ["q", "k", "v", "o", "gate", "up", "down"]
    stem = module.split(" ")[0]
    if "norm" in module or "ln" in module.lower():
        return 2, 0
    return (0, 2 * usual.index(stem) + ("bias" in module)) if stem in usual else (1, 0)
