"""Whether an expert fits a base model: same depth, same tensors, same shapes, a vocabulary that can be matched."""

from __future__ import annotations

from merging.checkpoint import Checkpoint
from merging.layouts import layout_clash
from merging.places import place
from merging.vocabulary import same, unmatched, worded

HEAD = "lm_head.weight"
ADD = "Add that file."  # what helps where the expert itself need not go


def misfit(base: Checkpoint, expert: Checkpoint) -> str:
    """Why the expert cannot be merged into this base, in a sentence or two; empty when it can."""
    return mismatch(base, expert, ties(base)) or unmatched(base, expert)


def mismatch(base: Checkpoint, expert: Checkpoint, tied: bool) -> str:
    """Which of the expert's tensors can never be merged into a base whose head is tied or not; empty when none."""
    if tied and HEAD in expert.entries and not _repeats(expert):
        return f"Its `{HEAD}` is not its embedding, as it is in the base model, so it would be lost."
    names = [name for name, entry in base.entries.items() if entry.floating and not (tied and name == HEAD)]
    if clash := layout_clash(expert, base):
        return clash
    shared = [name for name in names if name in expert.entries]
    if 2 * (len(names) - len(shared)) > len(names):
        return _another(base, expert, names)
    return _depths(base, expert) or _quantised(expert, shared) or _shapes(base, expert, shared)


def _another(base: Checkpoint, expert: Checkpoint, names: list[str]) -> str:
    missing = [name for name in names if name not in expert.entries]
    kinds = (expert.architecture, base.architecture)
    known = f" ({kinds[0]}, not {kinds[1]})" if all(kinds) and kinds[0] != kinds[1] else ""
    if len(names) == 1:
        return f"It has no tensor `{missing[0]}`, so it is of another architecture than the base{known}."
    if any(".lora_" in name for name in expert.entries):
        return f"It holds an adapter's factors, but no adapter_config.json, which says how they enter. {ADD}"
    words = f"It lacks {len(missing):,} of the base model's {len(names):,} tensors, `{missing[0]}` among them"
    return f"{words}, so it is of another architecture{known}."


def _depths(base: Checkpoint, expert: Checkpoint) -> str:
    """That the models have different numbers of layers, in a tower that both have."""
    ours, theirs = _layers(base), _layers(expert)
    for tower in ours:
        if tower in theirs and theirs[tower] != ours[tower]:
            where = f" in its {tower}" if tower else ""
            words = f"It has {theirs[tower]} layers{where} and the base model {ours[tower]}"
            return f"{words}; layers can be matched only where there are as many."
    return ""


def _layers(model: Checkpoint) -> dict[str, int]:
    """How many layers there are in each tower that has any."""
    found: dict[str, set[int]] = {}
    for name, entry in model.entries.items():
        at = place(name)
        if entry.floating and at.layer is not None:
            found.setdefault(at.tower, set()).add(at.layer)
    return {tower: len(layers) for tower, layers in found.items()}


def _quantised(expert: Checkpoint, names: list[str]) -> str:
    other = [name for name in names if not expert.entries[name].floating]
    return f"`{other[0]}` has dtype {expert.entries[other[0]].dtype} in it, so it is quantised." if other else ""


def _shapes(base: Checkpoint, expert: Checkpoint, names: list[str]) -> str:
    """That tensors differ in shape, other than in the number of rows for tokens."""
    tokens = set() if same(base, expert) else worded(base) & worded(expert)

    def shapes(name: str) -> list[tuple[int, ...]]:
        return [model.entries[name].shape[1 if name in tokens else 0 :] for model in (expert, base)]

    differ = [name for name in names if len({*shapes(name)}) > 1]
    if not differ:
        return ""
    here, there = (_by(model.entries[differ[0]].shape) for model in (expert, base))
    more = f" (and {len(differ) - 1} more)" if len(differ) > 1 else ""
    return f"`{differ[0]}` is {here} in it and {there} in the base model{more}."


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def ties(model: Checkpoint) -> bool:
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
