"""LoRA adapters in PEFT's format, read as the full models that they make of their base."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from merging.adapter_config import CONFIG, config_of, keeps_tied, rank_and_scaling
from merging.checkpoint import Checkpoint, Made, open_checkpoint
from merging.dora import Scaled
from merging.errors import MergeError
from merging.fit import HEAD, ties
from merging.header import Entry, read_json
from merging.lora import Instead, Update
from merging.renaming import matches, renamed, told
from merging.vocabulary import worded

PREFIX = "base_model.model."
FACTOR = re.compile(r"\.lora_([AB]\.weight|embedding_[AB])$")
LENGTH = re.compile(r"\.lora_magnitude_vector(\.weight)?$")
DOWN, UP = (re.compile(rf"\.lora_({side}\.weight|embedding_{side})$") for side in "AB")


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
    if not is_adapter(model):
        return renamed(model, base)
    expert = applied(model, base)
    check_embedding(expert, base)
    return expert


def is_adapter(model: Checkpoint) -> bool:
    """Whether the checkpoint is an adapter's folder or file, and not a model of its own."""
    return (model.path.is_dir() or model.path.stem == "adapter_model") and (model.folder / CONFIG).is_file()


def describe(adapter: Checkpoint) -> str:
    """The adapter's kind and ranks, for a table."""
    config = read_json(adapter.folder / CONFIG)
    if config.get("peft_type") != "LORA":
        return f"{config.get('peft_type') or 'unknown'} adapter"
    ranks = sorted({entry.shape[0] for name, entry in adapter.entries.items() if DOWN.search(name) and entry.shape})
    kind = "DoRA" if config.get("use_dora") else "LoRA"
    return f"{kind}, rank {' to '.join(map(str, dict.fromkeys([*ranks[:1], *ranks[-1:]]))) or '?'}"


def applied(adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The base with the adapter added, as a checkpoint; MergeError when it cannot be added exactly."""
    config = checked(adapter)
    lengths = {_target(name): name for name in adapter.entries if LENGTH.search(name)}
    whole = {_target(name): name for name in adapter.entries if "lora_" not in name}
    first = {_target(name): name for name in adapter.entries if DOWN.search(name)}
    # A model built into a larger one has its own names, and the adapter may have been trained under others.
    new = matches({**first, **whole}, base.entries)
    lies = _transposed(adapter, config, {name: base.entries.get(new.get(key, key)) for key, name in first.items()})
    made: dict[str, Made] = dict(base.made)
    if base.tied and keeps_tied(config):  # what it holds of the head is what it holds of the embedding, once more
        first, whole = ({key: name for key, name in d.items() if new.get(key, key) != HEAD} for d in (first, whole))
    for told_as in {**first, **whole}:
        target = new.get(told_as, told_as)
        if target == HEAD and base.tied and (told_as in first or target not in base.entries):
            words = f"{adapter.name} changes `{target}` apart from the embedding, and in {base.name} the two are one"
            apart = f"that holds `{target}`, too, and whose config says `tie_word_embeddings: false`"
            raise MergeError(f"{words}. Leave it out, or name a copy of the base {apart}.")
        if target not in base.entries:
            raise MergeError(f"{adapter.name} changes `{target}`, which {base.name} lacks. Choose its own base.")
        # What is both is a copy of the frozen weight, as PEFT keeps it of an embedding; it is what is added to.
        start = (adapter, whole[told_as]) if told_as in whole else (base, target)
        if start[0].entries[start[1]].shape != base.entries[target].shape:
            raise MergeError(f"`{target}` has another shape in {adapter.name} than in {base.name}. Choose its base.")
        if told_as not in first:
            made[target] = Instead(*start)
            continue
        update = _update(adapter, config, first[told_as], *start, lies)
        made[target] = Scaled(update, lengths[told_as]) if told_as in lengths else update
    notes = (*adapter.notes, told(new)) if new else adapter.notes
    return replace(adapter, entries=base.entries, config=base.config, made=made, adapter=True, notes=notes)


def check_embedding(expert: Checkpoint, base: Checkpoint) -> None:
    """Refuse an adapter that PEFT runs with two tensors where the model has only one."""
    if not base.tied or keeps_tied(read_json(expert.folder / CONFIG)):
        return
    for name in worded(base) - {HEAD}:
        if expert.made.get(name) is not base.made.get(name) and ties(base):
            words = f"{expert.name} changes `{name}` apart from the head, and in {base.name} the two are one"
            raise MergeError(f"{words}. Leave it out, or train it with `ensure_weight_tying`.")


def _target(name: str) -> str:
    """The tensor of the base that a tensor of the adapter changes."""
    name = name.removeprefix(PREFIX)
    for kind in (FACTOR, LENGTH):
        if kind.search(name):
            return kind.sub("", name) + ".weight"
    return name.replace(".base_layer.", ".")


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
    up, module = adapter.entries[partner(name)], _target(name).removesuffix(".weight")
    rank, scaling = rank_and_scaling(config, module)
    if (adapter.entries[name].shape[0], up.shape[1]) != (rank, rank):
        words = f"The factors of `{module}` in {adapter.name} are not of rank {rank}, as its config says"
        raise MergeError(f"{words}. Download it again.")
    shape = start.entries[weight].shape
    square = len({*shape}) == 1
    if square and lies is None:
        words = f"`{module}` in {adapter.name} is square, and could be meant as it is or transposed"
        raise MergeError(f"{words}. Merge the adapter with PEFT first.")
    fits_turned = adapter.entries[name].shape[1:] == shape[:1]
    turned = name.endswith(".lora_embedding_A") or (bool(lies) if square else fits_turned)
    shape = shape[::-1] if turned else shape
    if len(shape) != 2 or (up.shape[0], adapter.entries[name].shape[1]) != shape:
        raise MergeError(f"The factors of `{module}` in {adapter.name} do not fit {start.name}. Choose its base.")
    return Update(start, weight, adapter, name, up.name, scaling, turned)


def checked(adapter: Checkpoint) -> dict[str, Any]:
    """The adapter's config; MergeError where it is no plain LoRA, is not all there, or cannot be added exactly."""
    config = config_of(adapter)
    for name, entry in adapter.entries.items():
        if not name.startswith(PREFIX) or "lora_" in _target(name):
            raise MergeError(f"{adapter.name} holds `{name}`, which no plain LoRA does. Merge it with PEFT first.")
        if not FACTOR.search(name):
            continue
        if partner(name) not in adapter.entries:
            raise MergeError(f"{adapter.name} holds `{name}` without `{partner(name)}`. Download it again.")
        if not entry.floating:
            words = f"`{name}` of {adapter.name} is stored as {entry.dtype}, and factors are floating-point numbers"
            raise MergeError(f"{words}. Choose an adapter that is not quantised.")
        if len(entry.shape) != 2:
            words = f"`{name}` of {adapter.name} is no matrix: it has {len(entry.shape)} axes, as convolutions have"
            raise MergeError(f"{words}. Merge it into its base with PEFT first.")
    _check_lengths(adapter, config.get("use_dora") is True)
    whole = [f".{_target(name)}." for name in adapter.entries if "lora_" not in name]
    ups = [_target(name) for name in adapter.entries if UP.search(name)]
    if twice := [name for names in (whole, ups) for name, count in Counter(names).items() if count > 1]:
        words = f"{adapter.name} changes `{twice[0].strip('.')}` in two ways, and only one can be meant"
        raise MergeError(f"{words}. Merge it into its base with PEFT first.")
    for module in config.get("modules_to_save") or []:
        if not any(module in target for target in whole):
            words = f"{adapter.name} says that `{module}` was trained in full, and holds no such tensor"
            raise MergeError(f"{words}. Download it again.")
    return config


def _check_lengths(adapter: Checkpoint, dora: bool) -> None:
    """Refuse lengths beside factors that are not DoRA's, and a DoRA without some."""
    ups = {_target(name): name for name in adapter.entries if UP.search(name)}
    lengths = {_target(name): name for name in adapter.entries if LENGTH.search(name)}
    for target, name in lengths.items():
        if not dora or target not in ups:
            raise MergeError(f"{adapter.name} holds `{name}`, which no plain LoRA does. Merge it with PEFT first.")
    for target, name in ups.items() if dora else ():
        if "lora_embedding_" in name:
            raise MergeError(f"{adapter.name} is an adapter with DoRA of an embedding. Merge it with PEFT first.")
        length = adapter.entries.get(lengths.get(target, ""))
        if length is None or not length.floating or length.size != adapter.entries[name].shape[0]:
            words = f"{adapter.name} is a DoRA, and holds no usable lengths for `{target}`"
            raise MergeError(f"{words}. Download it again.")


def partner(name: str) -> str:
    """The name of the other factor, B to A and A to B."""
    start, side, end = re.fullmatch(r"(.*\.lora_(?:embedding_)?)([AB])(\.weight)?", name).groups("")  # type: ignore[union-attr]
    return f"{start}{'AB'['BA'.index(side)]}{end}"
