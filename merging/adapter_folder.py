"""An adapter's folder as PEFT reads it: the names of its tensors, and its config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from merging.adapter import PREFIX
from merging.adapter_config import CONFIG
from merging.changes import Changes, module_of
from merging.checkpoint import Checkpoint
from merging.fit import HEAD
from merging.header import STORED_AS, Entry, read_json
from merging.hub.cached import name_in_cache
from merging.vocabulary import worded

STEM = "adapter_model"  # the file's name


def entries_of(changes: Changes, ranks: dict[str, int], out_dtype: str = "") -> list[Entry]:
    """The tensors that the merged adapter has, under PEFT's names."""
    wanted = STORED_AS.get(out_dtype)
    entries = []
    for name in changes.work.merged:
        stored = names_of(changes, name)
        update = next((update for update in changes.updates(name) if update), None)
        if update is None:
            entry = changes.work.base.entries[name]
            entries += [replace(entry, name=key, dtype=wanted or entry.dtype) for key in stored]
            continue
        for key, of_it in zip(stored, (update.down, update.up), strict=True):
            rows, columns = update.factors.entries[of_it].shape
            shape = (ranks[name], columns) if of_it == update.down else (rows, ranks[name])
            entries.append(replace(update.factors.entries[of_it], name=key, shape=shape, dtype=wanted or changes.dtype))
    return entries


def names_of(changes: Changes, name: str) -> list[str]:
    """PEFT's names of the factors A and B of a tensor, or of the tensor itself where it was trained in full.

    An embedding that is also the head is stored as both.
    """
    stored = changes.stored(name)
    if len(stored) == 2:
        return stored
    module, _, kind = stored[0].replace(".base_layer.", ".").rpartition(".")
    again = [PREFIX + HEAD] if changes.base and changes.tied and name in worded(changes.base) else []
    return [f"{module}.base_layer.{kind}" if module in changes.wrapped else f"{module}.{kind}", *again]


def merged_config(changes: Changes, ranks: dict[str, int]) -> dict[str, Any]:
    """The config by which PEFT puts the merged adapter into its base, with a scaling of 1 throughout."""
    first = changes.configs[0]
    modules = {module_of(changes.stored(name)[0]).removeprefix(PREFIX): rank for name, rank in ranks.items()}
    saved = sorted({str(module) for config in changes.configs for module in config.get("modules_to_save") or []})
    return plain_config(
        modules,
        task_type=first.get("task_type"),
        base=name_of(changes.base, changes.adapters),
        turned=any(config.get("fan_in_fan_out") is True for config in changes.configs),
        saved=saved,
        bias=_bias(changes, saved),
        tied=changes.tied,
    )


def name_of(base: Checkpoint | None, adapters: Sequence[Checkpoint] = ()) -> Any:
    """How a config names the base, so that PEFT finds it: a model of the Hub by its name there, a folder by its path.

    Where no base is given, or only a lone file, the first adapter that names one tells it, from its own folder if that
    is a path there.
    """
    if base and base.path.is_dir():
        return name_in_cache(base.path) or str(base.path.resolve())
    for adapter in adapters:
        if isinstance(told := read_json(adapter.folder / CONFIG).get("base_model_name_or_path"), str) and told:
            place = adapter.folder / told
            return str(place.resolve()) if place.is_dir() else told
    return str(base.path.resolve()) if base else None


def _bias(changes: Changes, saved: list[str]) -> str:
    """Which biases are in the adapter, in PEFT's words."""
    stored = [names_of(changes, name)[0] for name in changes.work.merged if len(changes.stored(name)) == 1]
    biases = [key for key in stored if not any(key.rpartition(".")[0].endswith(module) for module in saved)]
    if not biases:
        return "none"
    return "lora_only" if all(".base_layer." in key for key in biases) else "all"


def plain_config(
    modules: dict[str, int],
    *,
    task_type: Any = None,
    base: Any = None,
    turned: bool = False,
    saved: list[str] | None = None,
    bias: str = "none",
    tied: bool = False,
) -> dict[str, Any]:
    """A LoRA's config with these ranks, whose scaling is 1: the ranks are also what PEFT divides by them."""
    usual = Counter(modules.values()).most_common(1)[0][0] if modules else 1
    others = {_pattern(module, modules): rank for module, rank in modules.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": list(modules),
        "modules_to_save": saved or None,
        "bias": bias,
        "fan_in_fan_out": turned,
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        **({"ensure_weight_tying": True} if tied else {}),  # which older versions of PEFT do not know
    }


def _pattern(module: str, modules: dict[str, int]) -> str:
    """What fits a module's name in PEFT's patterns, and none of another rank that ends alike."""
    alike = [rank for name, rank in modules.items() if name.endswith(f".{module}")]
    return module if all(rank == modules[module] for rank in alike) else f"^{module}"
