"""One architecture under several names: an expert's tensors found under the names that the base gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from merging.checkpoint import Checkpoint

# What wraps a model as it is trained or built into a larger one, at the front of every name in it.
PREFIXES = ("base_model.model.", "module.", "model.", "transformer.", "language_model.")
# What torch puts into a name wherever it wraps a module.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# TensorFlow's words for a LayerNorm's two, in old BERTs.
ENDINGS = {"gamma": "weight", "beta": "bias"}


@lru_cache(1 << 16)
def core(name: str) -> str:
    """A name without what differs between libraries."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    name = ".".join([*parts[:-1], ENDINGS.get(parts[-1], parts[-1])]) if parts else name
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def matches(names: Iterable[str], theirs: Iterable[str]) -> dict[str, str]:
    """Which of their names stands for which of these that they lack; only where it can be no other."""
    names, theirs = list(names), set(theirs)
    free = theirs - set(names)  # a name that is there already is nobody else's
    here, there = Counter(map(core, set(names) - theirs)), Counter(map(core, theirs))
    by_core = {core(name): name for name in free}
    return {
        name: by_core[core(name)]
        for name in names
        if name not in theirs and core(name) in by_core and here[core(name)] == 1 and there[core(name)] == 1
    }


def renamed(expert: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The expert under the base's names; as it is where that matches no more of them."""
    new = matches(expert.entries, base.entries)
    if not new:
        return expert
    entries = {new.get(name, name): replace(entry, name=new.get(name, name)) for name, entry in expert.entries.items()}
    made = {new.get(name, name): tensor for name, tensor in expert.made.items()}
    return replace(expert, entries=entries, made=made, notes=(*expert.notes, told(new)))


def told(new: dict[str, str]) -> str:
    """What was renamed, in a sentence."""
    name, other = next(iter(new.items()))
    more = f", and {len(new) - 1} more names likewise" if len(new) > 1 else ""
    return f"`{name}` is read as the base's `{other}`{more}."
