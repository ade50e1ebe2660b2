"""Which task vectors are products of an adapter's factors, and their norms without ever forming the product."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from merging.checkpoint import Checkpoint
from merging.dora import Scaled
from merging.header import Entry
from merging.lazy import torch
from merging.lora import BLOCK, Update, part
from merging.plan import Plan
from merging.rows import Gathered
from merging.settings import Settings, depths

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-14  # of |A|^2 |B|^2: what is left of a product that cancels


def factored(work: Plan, name: str) -> dict[int, Update | None]:
    """The recipe's experts whose task vector of a tensor is a product of factors, or nothing: None.

    What is missing has to be read: full models, and what was trained in full beside an adapter.
    """
    found: dict[int, Update | None] = {}
    for index in work.merged[name]:
        expert = work.experts[index]
        made = expert.made.get(name)
        if isinstance(made, Update) and starts_from(made, work.base, name):
            found[index] = made
        elif expert.adapter and _stored_alike(expert, name, work.base, name):
            found[index] = None
    return found


def updates(work: Plan, name: str) -> tuple[Update | None, ...]:
    """The update of each expert that has a tensor, where all of them are products of factors or nothing; else none."""
    known = factored(work, name)
    return tuple(known.values()) if len(known) == len(work.merged[name]) and any(known.values()) else ()


def starts_from(update: Update, base: Checkpoint, name: str) -> bool:
    """Whether an update is added to the base's own weight, or to a copy of it, as PEFT keeps one of an embedding."""
    if _stored_alike(update.base, update.name, base, name):
        return True
    made = update.name in update.base.made or name in base.made
    entries = update.base.entries[update.name], base.entries[name]
    return not made and _equal(*entries, *(entry.file.stat().st_mtime_ns for entry in entries))


def _stored_alike(model: Checkpoint, name: str, other: Checkpoint, theirs: str) -> bool:
    return model.entries[name] == other.entries[theirs] and model.made.get(name) is other.made.get(theirs)


@lru_cache(maxsize=64)
def _equal(one: Entry, other: Entry, *_: int) -> bool:
    models = [Checkpoint(entry.file, {entry.name: entry}) for entry in (one, other)]
    spans = ((start, min(start + BLOCK, one.size)) for start in range(0, one.size, BLOCK))
    return one.shape == other.shape and all(
        bool((models[0].read(one.name, *span).float() == models[1].read(other.name, *span).float()).all())
        for span in spans
    )


def squared_norms(update: Update) -> tuple[float, float, float]:
    """|s B A|^2, |A|^2 and |B|^2 in Frobenius norms, in float64.

    The first is s^2 tr((B^T B) (A A^T)), for which only matrices of rank times rank are needed.
    """
    up, down = _gram(update, update.up), _gram(update, update.down)
    first, second = float(down.trace()), float(up.trace())
    product = float((up * down).sum())
    return update.scaling**2 * product if product > ROUNDING * first * second else 0.0, first, second


def _gram(update: Update, name: str) -> Tensor:
    """A A^T, or B^T B, (rank, rank), added up block by block."""
    model, rank = update.factors, update.rank
    rows = name == update.up  # its long side
    length, step = model.entries[name].shape[0 if rows else 1], max(1, BLOCK // rank)
    total = torch.zeros(rank, rank, dtype=torch.float64)
    for start in range(0, length, step):
        run, whole = slice(start, min(start + step, length)), slice(0, rank)
        block = part(model, name, *((run, whole) if rows else (whole, run))).double()
        total += block.T @ block if rows else block @ block.T
    return total


def with_factors(work: Plan, name: str, squares: Tensor) -> Tensor:
    """The squared norms of a tensor's task vectors, (experts), as `vectors.squares` gives them, (experts, 3).

    Where a task vector is a product, its factors say what its norm is. NaN stays, or stands for what is not finite.
    """
    table = torch.stack([squares, squares, torch.zeros_like(squares)], dim=1)
    for index, update in factored(work, name).items():
        if update:
            table[index] = torch.tensor(squared_norms(update), dtype=torch.float64)
    return torch.where(table < torch.inf, table, torch.nan)


def obstacle(work: Plan, reading: str, names: Iterable[str] | None = None) -> str:
    """Why adapters' factors cannot be averaged, in two sentences; empty where they can.

    `reading` is FroM's: `weights`, or `factors`, for which they must share their scaling. It is about the tensors of
    these names, or all.
    """
    names = work.merged if names is None else names
    for name in names:
        for index in work.merged[name]:
            if not work.experts[index].adapter:
                words = f"`lora: {reading}` averages adapters' factors, and {work.experts[index].name} is no adapter"
                return f"{words}. Set `lora: product`."
    for name in names:
        if reason := _misfit(work, name, reading):
            words = f"`lora: {reading}` cannot average the factors of `{name}`: {reason}"
            return f"{words}. Set `lora: product`."
    return ""


def _misfit(work: Plan, name: str, reading: str) -> str:
    known = factored(work, name)
    there = {index: update for index, update in known.items() if update}
    whole = [_whole(work, name, index) for index in work.merged[name] if index not in known]
    reasons = [reason for reason, adds in whole if adds or there] or _apart(work, there, reading)
    return reasons[0] if reasons else ""


def _whole(work: Plan, name: str, index: int) -> tuple[str, bool]:
    """Why an adapter's task vector is no product of its factors, and whether it has any there."""
    expert = work.experts[index]
    made = expert.made.get(name)
    if isinstance(made, Gathered):
        adds = any(isinstance(source.model.made.get(name), Update) for source in made.sources)
        return "its rows are put in another order by `tokenizer_source`", adds
    if isinstance(made, Scaled):
        return f"{expert.name} is a DoRA, which is more than a product", True
    if isinstance(made, Update):
        return f"{expert.name} adds them to another weight than the base's", True
    return f"it was trained in full in {expert.name}", False


def _apart(work: Plan, updates: dict[int, Update], reading: str) -> list[str]:
    """In what the factors differ that must be alike."""
    if len({update.transposed for update in updates.values()}) > 1:
        return ["only some of the adapters have its rows as columns"]
    numbers = [("ranks", [float(update.rank) for update in updates.values()])]
    if reading == "factors":
        numbers += [("scalings", [update.scaling for update in updates.values()])]
    names = [work.experts[index].name for index in updates]
    return [
        f"their {kind} differ, {told[0]:g} in {names[0]} and {other:g} in {whose}"
        for kind, told in numbers
        for other, whose in zip(told, names, strict=True)
        if other != told[0]
    ]


def unaveraged(work: Plan, settings: Settings) -> list[str]:
    """Why FroM cannot average adapters' factors, for each of its readings that a recipe asks for."""
    if "lora" not in settings.method.params:
        return []
    depth, asked = depths(work.merged), dict[str, list[str]]()
    for name in work.merged:
        asked.setdefault(settings.of(name, depth[name])["lora"], []).append(name)
    return [words for reading in asked if reading != "product" and (words := obstacle(work, reading, asked[reading]))]
