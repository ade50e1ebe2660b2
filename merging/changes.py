"""LoRA adapters by what they change alone, for a merge of them into one: the same methods, over a base of zeros."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.adapter import DOWN, PREFIX, applied, check_embedding, checked, is_adapter, partner
from merging.adapter_config import CONFIG, keeps_tied, widest
from merging.checkpoint import Checkpoint, Made
from merging.errors import MergeError
from merging.factored import starts_from
from merging.findings import tried
from merging.header import FLOATS, Entry, read_json
from merging.lazy import torch
from merging.lora import Instead, Update
from merging.places import in_order
from merging.plan import Plan
from merging.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Zeros:
    """A tensor of zeros, which is what adapters' products are added to here."""

    @property
    def files(self) -> set[Path]:
        return set()

    def read(self, start: int, stop: int) -> Tensor:
        """Some of them, laid flat."""
        return torch.zeros(stop - start)


@dataclass(frozen=True)
class Changes:
    """What adapters of one base change: `work` merges their products over zeros, and what was trained in full as it is.

    Its tensors go by the base's names.
    """

    work: Plan
    adapters: tuple[Checkpoint, ...]  # as they are stored
    base: Checkpoint | None

    @cached_property
    def configs(self) -> list[dict[str, Any]]:
        """What each adapter says of itself."""
        return [read_json(adapter.folder / CONFIG) for adapter in self.adapters]

    def updates(self, name: str) -> tuple[Update | None, ...]:
        """What each adapter adds to a tensor by factors; nothing where all of them leave it or trained it in full."""
        found = [expert.made.get(name) for expert in self.work.experts]
        updates = tuple(made if isinstance(made, Update) else None for made in found)
        return updates if any(updates) else ()

    def stored(self, name: str) -> list[str]:
        """The names under which an adapter holds its factors A and B of a tensor, or the tensor itself."""
        for made in (expert.made.get(name) for expert in self.work.experts):
            if isinstance(made, Update):
                return [made.down, made.up]
            if isinstance(made, Instead):
                return [made.name]
        raise AssertionError(f"no adapter changes {name}")

    @cached_property
    def tied(self) -> bool:
        """Whether the head is the embedding, and stays so."""
        return bool(self.base and self.base.tied) and any(map(keeps_tied, self.configs))

    @cached_property
    def wrapped(self) -> set[str]:
        """The modules that factors are added to, under the names that an adapter has for them."""
        return {module_of(self.stored(name)[0]) for name in self.work.merged if len(self.stored(name)) == 2}

    @cached_property
    def widest(self) -> int:
        """The largest rank that any adapter speaks of."""
        return max(map(widest, self.configs))

    @cached_property
    def dtype(self) -> str:
        """What all adapters' factors are stored in, in safetensors' words; float32 where that differs."""
        found = {a.entries[name].dtype for a in self.adapters for name in a.entries if "lora_" in name}
        return found.pop() if len(found) == 1 and found <= set(FLOATS) else "F32"


def module_of(stored: str) -> str:
    """The module that a factor of that name is added to."""
    return stored.split(".lora_")[0]


def changes(adapters: list[Checkpoint], base: Checkpoint | None, alone: bool = False) -> Changes:
    """What these adapters change; MergeError names what cannot be merged into an adapter.

    Without their base, nothing else than factors can. `alone` says that the method merges adapters and nothing else.
    """
    problems: list[str] = []
    for adapter in adapters:
        tried(
            problems,
            _plain,
            adapter,
            "or choose a method that merges into a model" if alone else "or merge into a model",
        )
    _refuse(problems)
    start = base or _outline(adapters)
    experts: list[Checkpoint] = [tried(problems, applied, adapter, start) for adapter in adapters]
    _refuse(problems)
    if any(keeps_tied(read_json(adapter.folder / CONFIG)) for adapter in adapters):
        for expert in experts:
            check_embedding(expert, start)
    names = in_order([name for name in start.entries if any(_changed(expert, start, name) for expert in experts)])
    factored = [name for name in names if any(isinstance(expert.made.get(name), Update) for expert in experts)]
    if not factored:
        raise MergeError("There are no factors in any of these adapters, so no LoRA to make. Leave `result` out.")
    for name in factored:
        _check(name, experts, start, base is not None)
    zeros: dict[str, Made] = {name: Zeros() for name in factored}
    entries = {
        name: replace(start.entries[name], dtype="F32") if name in zeros else start.entries[name] for name in names
    }
    made = {name: start.made[name] for name in names if name in start.made} | zeros
    first = replace(start, entries=entries, made=made)
    others = tuple(_over(expert, first) for expert in experts)
    everyone = tuple(range(len(others)))
    notes = tuple(f"{expert.name}: {note}" for expert in experts for note in expert.notes)
    merged = dict.fromkeys(names, everyone)
    work = Plan(first, others, merged, {}, {}, {}, (*notes, *_bases(adapters, base)), Vocabulary(0, None, first.name))
    return Changes(work, tuple(adapters), base)


def _refuse(problems: list[str]) -> None:
    if problems:
        raise MergeError("\n".join(problems))


def _plain(adapter: Checkpoint, otherwise: str) -> None:
    """Refuse what is no adapter, or one of another kind."""
    if not is_adapter(adapter):
        words = f"{adapter.name} is a full model, and only adapters are merged into an adapter"
        way = "Extract an adapter from it first (`python -m merging extract`)"
        raise MergeError(f"{words}. {way}, {otherwise}.")
    if checked(adapter).get("use_dora"):
        words = f"{adapter.name} is a DoRA, whose change of the base is more than a product of factors"
        raise MergeError(f"{words}. {otherwise.removeprefix('or ').capitalize()}.")


def _changed(expert: Checkpoint, base: Checkpoint, name: str) -> bool:
    return isinstance(expert.made.get(name), Update | Instead) and expert.made.get(name) is not base.made.get(name)


def _over(expert: Checkpoint, base: Checkpoint) -> Checkpoint:
    """What an adapter makes of these tensors of the base, zeros among them."""
    made = dict(base.made)
    for name in base.entries:
        change = expert.made.get(name)
        if isinstance(change, Update):
            made[name] = replace(change, base=base, name=name)
        elif isinstance(change, Instead):
            made[name] = change
    return replace(expert, entries=base.entries, made=made)


def _outline(adapters: list[Checkpoint]) -> Checkpoint:
    """A base of which nothing is known but the shapes that these adapters' factors fit."""
    entries, sides = dict[str, Entry](), dict[str, tuple[int, int]]()
    for adapter in adapters:
        for name in adapter.entries:
            if "lora_" not in name:
                words = f"{adapter.name} holds `{name}`, which is no factor and goes with the base's own"
                raise MergeError(f"{words}. Name the base as `base_model`.")
        config = read_json(adapter.folder / CONFIG)
        if keeps_tied(config):
            words = f"{adapter.name} keeps the head and the embedding one, which the base alone can say of them"
            raise MergeError(f"{words}. Name the base as `base_model`.")
        turned = config.get("fan_in_fan_out") is True
        for name, down in adapter.entries.items():
            if not DOWN.search(name):
                continue
            module, up = f"{module_of(name).removeprefix(PREFIX)}.weight", adapter.entries[partner(name)]
            shape = (up.shape[0], down.shape[1])
            lies = turned or "lora_embedding_" in name
            entries.setdefault(module, Entry(module, "F32", shape[::-1] if lies else shape, adapter.path, 0))
            if sides.setdefault(module, shape) != shape:
                words = f"`{module}` has another shape in {adapter.name} than in another adapter"
                raise MergeError(f"{words}. Only adapters of one base can be merged.")
    return Checkpoint(adapters[0].path, entries)


def _check(name: str, experts: list[Checkpoint], base: Checkpoint, known: bool) -> None:
    """Refuse a tensor that an adapter could not hold, or whose adapters are not of one kind."""
    first: Update | None = None
    for expert in experts:
        change = expert.made.get(name)
        if isinstance(change, Instead):
            words = f"`{name}` was trained in full in {expert.name}, and others change it by factors"
            raise MergeError(f"{words}, which no adapter can hold. Leave `result` out.")
        if not isinstance(change, Update):
            continue
        if known and not starts_from(change, base, name):
            words = f"{expert.name} adds to another `{name}` than that of {base.name}"
            raise MergeError(f"{words}, so it is no adapter of this base. Choose its base.")
        if first and (change.down, change.transposed) != (first.down, first.transposed):
            words = f"{first.factors.name} and {expert.name} name or turn their factors of `{name}` differently"
            raise MergeError(f"{words}: `{first.down}`, `{change.down}`. Leave `result` out.")
        first = first or change


def _bases(adapters: list[Checkpoint], base: Checkpoint | None) -> list[str]:
    """What is to be said where adapters name different bases, and none is given to hold them against."""
    told = {str(read_json(adapter.folder / CONFIG).get("base_model_name_or_path")) for adapter in adapters}
    if base or len(told) == 1:
        return []
    return [f"The adapters name different bases ({', '.join(sorted(told))}). Only adapters of one base can be merged."]
