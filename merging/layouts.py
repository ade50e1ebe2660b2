"""Layouts that differ: the same numbers in one fused tensor in one model, in several in another."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from merging.renaming import core

if TYPE_CHECKING:
    from merging.checkpoint import Checkpoint

# The names of a fused module, and of those that it stands for, of which any shows the split layout.
FUSED = [
    (
        "query, key and value",
        ("qkv_proj", "query_key_value", "Wqkv", "qkv", "c_attn", "in_proj", "in_proj_weight"),
        ("q_proj", "k_proj", "v_proj", "query", "key", "value", "q_lin", "wq"),
    ),
    ("gate and up", ("gate_up_proj", "gate_up", "w13"), ("gate_proj", "up_proj", "w1", "w3")),
]
ONE_EXPERT = re.compile(r"(?P<stack>.*\bexperts)\.\d+\.")
ALL_EXPERTS = re.compile(r"(?P<stack>.*\bexperts)\.(?!\d+\.)[\w.]+")


def layout_clash(expert: Checkpoint, base: Checkpoint) -> str:
    """Why the two cannot be merged, when one keeps in a fused tensor what the other has split; else empty."""
    here, there = set(map(core, expert.entries)), set(map(core, base.entries))
    mine, theirs = here - there, there - here
    for fused, split, order in (
        (mine, theirs, "{} in one tensor, the base model apart"),
        (theirs, mine, "{} apart, the base model in one tensor"),
    ):
        for what, one, several in FUSED:
            if name := _fused(fused, split, one, several):
                return _sentence(order.format(what), name)
        if name := _stacked(fused, split):
            return _sentence(order.format("its experts' matrices"), name)
    return ""


def _sentence(how: str, name: str) -> str:
    return f"It has {how} (`{name}`), so the layouts differ. Save both with the same version of transformers."


def _fused(fused: set[str], split: set[str], one: tuple[str, ...], several: tuple[str, ...]) -> str:
    """A fused tensor of the one model, in whose place the other has several."""
    parents = {_parent(name, several) for name in split} - {None}
    return next((name for name in sorted(fused) if _parent(name, one) in parents), "")


def _parent(name: str, modules: tuple[str, ...]) -> str | None:
    parts = name.split(".")
    at = next((place for place, part in enumerate(parts) if part in modules), None)
    return None if at is None else ".".join(parts[:at])


def _stacked(fused: set[str], split: set[str]) -> str:
    """A tensor that holds a matrix for each expert, where the other model has a tensor for each expert."""
    stacks = {found["stack"] for name in split if (found := ONE_EXPERT.match(name))}
    return next((name for name in sorted(fused) if (m := ALL_EXPERTS.fullmatch(name)) and m["stack"] in stacks), "")
