"""What a merge will do, known before it is done: which experts fit the base, and every tensor's fate."""

from __future__ import annotations

from dataclasses import dataclass

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.header import Entry
from merging.places import in_order

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Plan:
    """The models of a merge, and the fate of each tensor; `merged` and `copied` are in the order of the layers."""

    base: Checkpoint
    experts: tuple[Checkpoint, ...]
    merged: tuple[str, ...]
    copied: dict[str, str]  # from the base, and why
    dropped: dict[str, str]  # and why

    @property
    def written(self) -> list[Entry]:
        """The tensors of the result, of the base model's dtypes and shapes."""
        return [self.base.entries[name] for name in in_order([*self.merged, *self.copied])]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.written)

    @property
    def fates(self) -> dict[str, str]:
        """What becomes of every tensor of every model, in words."""
        return {**dict.fromkeys(self.merged, "merged"), **self.copied, **self.dropped}


def misfit(base: Checkpoint, expert: Checkpoint) -> str:
    """Why the expert cannot be merged into this base, in one sentence; empty when it can."""
    tied = _ties(base)
    if tied and HEAD in expert.entries and not _repeats(expert):
        return f"Its `{HEAD}` is not its embedding, as it is in the base model, so it would be lost."
    names = [name for name, entry in base.entries.items() if entry.floating and not (tied and name == HEAD)]
    missing = [name for name in names if name not in expert.entries]
    if missing:
        return f"It has no tensor `{missing[0]}`{_more(missing)}, so it is of another architecture than the base."
    differ = [name for name in names if expert.entries[name].shape != base.entries[name].shape]
    if differ:
        here, there = (_by(model.entries[differ[0]].shape) for model in (expert, base))
        return f"`{differ[0]}` is {here} in it and {there} in the base model{_more(differ, ' (and {} more)')}."
    other = [name for name in names if not expert.entries[name].floating]
    if other:
        return f"`{other[0]}` has dtype {expert.entries[other[0]].dtype} in it, so it is quantised."
    return ""


def _more(names: list[str], text: str = " and lacks {} more") -> str:
    return text.format(len(names) - 1) if len(names) > 1 else ""


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def _ties(model: Checkpoint) -> bool:
    """Whether the model's head is its embedding: its config says so, and no other head is stored."""
    return model.tied and (HEAD not in model.entries or _repeats(model))


def _repeats(model: Checkpoint) -> bool:
    """Whether the stored head is a copy of another tensor, its embedding; reads both where they are of one shape."""
    head = model.entries[HEAD]
    twins = [name for name, entry in model.entries.items() if name != HEAD and entry.shape == head.shape]
    return any(_equal(model, HEAD, twin) for twin in twins)


def _equal(model: Checkpoint, one: str, other: str, run: int = 1 << 20) -> bool:
    size = model.entries[one].size
    spans = ((start, min(start + run, size)) for start in range(0, size, run))
    return all(bool((model.read(one, *span) == model.read(other, *span)).all()) for span in spans)


def plan(base: Checkpoint, experts: list[Checkpoint]) -> Plan:
    """The fate of every tensor; MergeError names every expert that does not fit."""
    problems = [(expert, misfit(base, expert)) for expert in experts]
    bad = [f"{expert.name}: {problem}" for expert, problem in problems if problem]
    if bad:
        raise MergeError("\n".join([*bad, f"Remove {'this expert' if len(bad) == 1 else 'these experts'}."]))
    merged, copied, dropped = [], {}, {}
    tied = _ties(base)
    for name, entry in base.entries.items():
        if tied and name == HEAD:
            dropped[name] = "left out: the embedding is used in its place, as the config says"
        elif not entry.floating:
            copied[name] = "copied from the base: it does not hold floating-point numbers"
        elif entry.size == 0:
            copied[name] = "copied from the base: it is empty"
        else:
            merged.append(name)
    for expert in experts:
        for name in expert.entries:
            if name not in base.entries:
                copy = tied and name == HEAD
                why = "the embedding is used in its place" if copy else f"only {expert.name} has it, the base does not"
                dropped.setdefault(name, f"left out: {why}")
    if not merged:
        raise MergeError(f"{base.name} has no floating-point tensor to merge. Choose another base model.")
    return Plan(base, tuple(experts), tuple(in_order(merged)), copied, dropped)
