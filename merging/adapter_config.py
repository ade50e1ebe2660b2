"""What an adapter says of itself in its config, checked before anything of it is believed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.header import read_json

CONFIG = "adapter_config.json"
# Ways to start a training that leave the base's own weights; PEFT changes them for all others.
PLAIN = (True, False, "gaussian", "eva", "orthogonal", "mica")
# What would change the arithmetic. An adapter that has one of these set is refused by its name.
UNKNOWN = {
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "aLoRA",
    "arrow_config": "Arrow's routing",
    "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "layer_replication": "replicated layers",
    "target_parameters": "targeted parameters",
    "trainable_token_indices": "trainable tokens",
    "lora_bias": "biases of its factors",
    "megatron_config": "a Megatron layout",
}
# What is said of the training alone, or is refused by `init_lora_weights`. Any other switch is of a kind not known yet.
KNOWN = ("use_rslora", "use_dora", "eva_config", "corda_config", "loftq_config", "lora_ga_config", "runtime_config")
HUGE = 3.4e38  # about the largest float32


def config_of(adapter: Checkpoint) -> dict[str, Any]:
    """What the adapter says of itself; MergeError where that is no plain LoRA, or cannot be meant."""
    config = read_json(adapter.folder / CONFIG)
    if config.get("peft_type") != "LORA":
        kind = f"is an adapter of type {config['peft_type']}" if config.get("peft_type") else "does not say its type"
        raise MergeError(f"{adapter.name} {kind}. Only LoRA adapters can be merged.")
    for key in config:
        if config[key] and (words := _other(key)):
            raise MergeError(f"{adapter.name} is an adapter with {words}. Merge it into its base with PEFT first.")
    start = config.get("init_lora_weights", True)
    if start not in PLAIN:
        raise MergeError(f"{adapter.name} starts from `{start}`, which changes the base. Merge it with PEFT first.")
    if wrong := [key for key, usable in USABLE.items() if not usable(config.get(key))]:
        raise MergeError(f"{adapter.folder / CONFIG} has no usable `{wrong[0]}`. Download it again.")
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in config.get(key) or {}:
            if not re.fullmatch(r"\^?[\w.-]+", pattern):  # any other could take for ever to match
                raise MergeError(f"{adapter.name} has the {key} `{pattern}`. Merge it into its base with PEFT first.")
    return config


def _other(key: str) -> str:
    """What an adapter with that switched on is, where it is no plain LoRA."""
    new = key.startswith("use_") or key.endswith("_config")
    return UNKNOWN.get(key) or (f"`{key}`, which is not known here" if new and key not in KNOWN else "")


def _switch(value: Any) -> bool:
    return value in (None, True, False)


def _rank(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 63


def _alpha(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= HUGE  # which NaN is not


def _names(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _patterns(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or (isinstance(value, dict) and all(map(of, value.values())))


USABLE: dict[str, Callable[[Any], bool]] = {
    "use_rslora": _switch,
    "use_dora": _switch,
    "fan_in_fan_out": _switch,
    "ensure_weight_tying": _switch,
    "modules_to_save": _names,
    "r": _rank,
    "lora_alpha": _alpha,
    "rank_pattern": _patterns(_rank),
    "alpha_pattern": _patterns(_alpha),
}


def rank_and_scaling(config: dict[str, Any], module: str) -> tuple[int, float]:
    """The rank of a module's factors, and what their product is multiplied by."""
    rank, alpha = (
        _told(config, key, pattern, module) for key, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern"))
    )
    return rank, alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _told(config: dict[str, Any], key: str, patterns: str, module: str) -> Any:
    """What the first pattern that fits a module says, or what is said of all."""
    for pattern, value in (config.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return config[key]


def keeps_tied(config: dict[str, Any]) -> bool:
    """Whether an embedding and a head that are one in the base stay so: what is held of the head is held twice."""
    return config.get("ensure_weight_tying") is True


def widest(config: dict[str, Any]) -> int:
    """The largest rank that is spoken of, whether any factors have it or not: the one that PEFT makes room for."""
    ranks: list[int] = [config["r"], *(config.get("rank_pattern") or {}).values()]
    return max(ranks)
