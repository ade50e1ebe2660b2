"""LoRA adapters in PEFT's format, read as the full models that they make of their base."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint, Made, open_checkpoint
from merging.errors import MergeError
from merging.header import Entry, read_json
from merging.lora import Instead, Update
from merging.renaming import matches, renamed, told

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
FACTOR = re.compile(r"\.lora_([AB]\.weight|embedding_[AB])$")
UP = re.compile(r"\.lora_(B\.weight|embedding_B)$")
# What would change the arithmetic below. An adapter that has one of these set is refused by its name.
UNKNOWN = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "aLoRA",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "layer_replication": "replicated layers",
    "target_parameters": "targeted parameters",
    "trainable_token_indices": "trainable tokens",
    "lora_bias": "biases of its factors",
    "megatron_config": "a Megatron layout",
}


def open_base(path: str | Path) -> Checkpoint:
    """Open a model to build on, which an adapter is not."""
    model = open_checkpoint(path)
    if is_adapter(model):
        raise MergeError(f"{model.name} is a LoRA adapter, which has no weights to start from. Choose a full model.")
    return model


def open_expert(path: str | Path, base: Checkpoint) -> Checkpoint:
    """Open a model under the base's names, or an adapter as the model it makes of this base."""
    return as_expert(open_checkpoint(path), base)


def as_expert(model: Checkpoint, base: Checkpoint) -> Checkpoint:
    """A model under the base's names; an adapter as the model it makes of this base."""
    return applied(model, base) if is_adapter(model) else renamed(model, base)


def is_adapter(model: Checkpoint) -> bool:
    """Whether the checkpoint is an adapter's folder or file, and not a model of its own."""
    return (model.path.is_dir() or model.path.stem == "adapter_model") and (model.folder / CONFIG).is_file()


def describe(adapter: Checkpoint) -> str:
    """The adapter's kind and rank, for a table."""
    config = read_json(adapter.folder / CONFIG)
    kind = "LoRA" if config.get("peft_type") == "LORA" else config.get("peft_type", "adapter")
    return f"{kind}, rank {config.get('r', '?')}"


def applied(adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The base with the adapter added, as a checkpoint; MergeError when it cannot be added exactly."""
    config = read_json(adapter.folder / CONFIG)
    whole = {_target(name): name for name in adapter.entries if not FACTOR.search(name)}
    _check(adapter, config, whole)
    first = {_target(name): name for name in adapter.entries if FACTOR.search(name) and not UP.search(name)}
    # A model built into a larger one has its own names, and the adapter may have been trained under others.
    new = matches({**first, **whole}, base.entries)
    lies = _transposed(adapter, config, {name: base.entries.get(new.get(key, key)) for key, name in first.items()})
    made: dict[str, Made] = dict(base.made)
    for told_as in {**first, **whole}:
        target = new.get(told_as, told_as)
        if target not in base.entries:
            raise MergeError(f"{adapter.name} changes `{target}`, which {base.name} lacks. Choose its own base.")
        # What is both is a copy of the frozen weight, as PEFT keeps it of an embedding; it is what is added to.
        start = (adapter, whole[told_as]) if told_as in whole else (base, target)
        if start[0].entries[start[1]].shape != base.entries[target].shape:
            raise MergeError(f"`{target}` has another shape in {adapter.name} than in {base.name}. Choose its base.")
        made[target] = _update(adapter, config, first[told_as], *start, lies) if told_as in first else Instead(*start)
    notes = (*adapter.notes, told(new)) if new else adapter.notes
    return replace(adapter, entries=base.entries, config=base.config, made=made, adapter=True, notes=notes)


def _target(name: str) -> str:
    """The tensor of the base that a tensor of the adapter changes."""
    name = name.removeprefix(PREFIX)
    return FACTOR.sub("", name) + ".weight" if FACTOR.search(name) else name.replace(".base_layer.", ".")


def _transposed(adapter: Checkpoint, config: dict[str, Any], targets: dict[str, Entry | None]) -> bool | None:
    """Whether square weights are stored transposed, as the others are; none where these are stored in both ways.

    GPT-2 stores its layers so. The config alone cannot say it: PEFT writes there what the last of its layers was.
    """
    oblong = {name: entry.shape for name, entry in targets.items() if entry and len({*entry.shape}) == 2}
    ways = {adapter.entries[name].shape[1:] == shape[:1] for name, shape in oblong.items() if ".lora_A." in name}
    if len(ways) == 2:
        return None
    return ways.pop() if ways else config.get("fan_in_fan_out") is True


def _update(
    adapter: Checkpoint, config: dict[str, Any], name: str, start: Checkpoint, weight: str, lies: bool | None
) -> Update:
    """What the first of two factors, with the second, makes of a weight."""
    up = adapter.entries.get(name.replace(".lora_A.", ".lora_B.").replace(".lora_embedding_A", ".lora_embedding_B"))
    if up is None:
        raise MergeError(f"{adapter.name} holds `{name}`, which no plain LoRA does. Merge it with PEFT first.")
    module = _target(name).removesuffix(".weight")
    rank, scaling = _scaling(adapter, config, module)
    shape = start.entries[weight].shape
    square = len({*shape}) == 1
    if square and lies is None:
        words = f"`{module}` in {adapter.name} is square, and could be meant as it is or transposed"
        raise MergeError(f"{words}. Merge the adapter with PEFT first.")
    fits_turned = adapter.entries[name].shape[1:] == shape[:1]
    turned = name.endswith(".lora_embedding_A") or (bool(lies) if square else fits_turned)
    shape = shape[::-1] if turned else shape
    if len(shape) != 2 or adapter.entries[name].shape != (rank, shape[1]) or up.shape != (shape[0], rank):
        raise MergeError(f"The factors of `{module}` in {adapter.name} do not fit {start.name}. Choose its base.")
    return Update(start, weight, adapter, name, up.name, scaling, turned)


def _check(adapter: Checkpoint, config: dict[str, Any], whole: dict[str, str]) -> None:
    """Refuse what would be added in another way, or is not all there."""
    if config.get("peft_type") != "LORA":
        raise MergeError(f"{adapter.name} is a {config.get('peft_type')} adapter. Only LoRA adapters can be merged.")
    for key, words in UNKNOWN.items():
        if config.get(key):
            raise MergeError(f"{adapter.name} is an adapter with {words}. Merge it into its base with PEFT first.")
    start = config.get("init_lora_weights", True)
    if start not in (True, False, "gaussian", "eva"):  # PEFT changes the base's own weights for the others
        raise MergeError(f"{adapter.name} starts from `{start}`, which changes the base. Merge it with PEFT first.")
    for name in adapter.entries:
        if not name.startswith(PREFIX) or "lora_" in _target(name):
            raise MergeError(f"{adapter.name} holds `{name}`, which no plain LoRA does. Merge it with PEFT first.")
    for module in config.get("modules_to_save") or []:
        if not any(str(module) in f".{target}." for target in whole):
            words = f"{adapter.name} says that `{module}` was trained in full, and holds no such tensor"
            raise MergeError(f"{words}. Download it again.")
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict):
            raise MergeError(f"{adapter.folder / CONFIG} has no usable `{key}`. Download it again.")
        for pattern in patterns:
            if not re.fullmatch(r"\^?[\w.-]+", pattern):  # any other could take for ever to match
                raise MergeError(f"{adapter.name} has the {key} `{pattern}`. Merge it into its base with PEFT first.")


def _scaling(adapter: Checkpoint, config: dict[str, Any], module: str) -> tuple[int, float]:
    """The rank of a module's factors, and what their product is multiplied by."""
    found = []
    for key, pattern_key in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        told = config.get(pattern_key) or {}
        pattern = next((pattern for pattern in told if re.match(rf"(.*\.)?({pattern})$", module)), None)
        found.append(config.get(key) if pattern is None else told[pattern])
    rank, alpha = found
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise MergeError(f"{adapter.folder / CONFIG} has no usable `r` and `lora_alpha`. Download it again.")
    return rank, alpha / (rank**0.5 if config.get("use_rslora") else rank)
