"""The same for a merge of adapters into an adapter: everything that is wrong with it, before a factor is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from merging.adapter import open_base
from merging.adapter_folder import entries_of
from merging.adapter_ranks import needs, ranks
from merging.changes import Changes, changes
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.factored import unaveraged
from merging.findings import PROGRAM, QUICK, Preflight, inside, tried, untimed
from merging.method import ADAPTERS
from merging.passes import all_passes, largest_unit, objections
from merging.publish import target
from merging.sizes import in_words
from merging.stream import memory_of
from merging.whole import seconds as whole_seconds
from merging.whole import whole_tensors
from merging.workplace import finished

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from merging.settings import Settings

DECOMPOSED = 4e10  # multiplications a second with which a matrix is parted into factors, as measured


def check_changes(
    recipe: Recipe, problems: list[str], out: str | Path | None, memory: int, workers: int | None, device: str
) -> Preflight:
    """Look at the recipe, the adapters' headers, the folder and the disk; `problems` are those known already."""
    if device != "cpu":
        problems.append("Adapters are merged on the processor. Leave `device` out.")
    settings = recipe.settings() if not recipe.problems() else None
    found = _opened(recipe, problems)
    problems += settings.check(found.work.merged) if settings and found else []
    chosen: dict[str, int] = {}
    if settings and found and not problems:
        problems += () if settings.method.ranks else objections(found.work, settings)
        problems += unaveraged(found.work, settings)
    if settings and found and not problems:
        chosen = tried(problems, ranks, found, settings, recipe.rank) or {}
        tried(problems, hands, found, settings, memory, workers)
    entries = entries_of(found, chosen, recipe.out_dtype) if found and not problems else []
    size = sum(entry.bytes for entry in entries)
    if out is not None:
        tried(problems, target, out, size)
        problems += inside(out, recipe)
    if found is None:
        return Preflight(tuple(dict.fromkeys(problems)), recipe.warnings)
    read = sum(entry.bytes for adapter in found.adapters for entry in adapter.entries.values())
    return Preflight(
        tuple(dict.fromkeys(problems)),
        (
            *recipe.warnings,
            *(settings.unmatched(found.work.merged) if settings else ()),
            *found.work.warnings,
        ),
        found.work.fates,
        found.work,
        read,
        size,
        *(estimate(found, settings, memory, workers) if settings and not problems else (0, untimed)),
        found,
        chosen,
        finished(out) if out is not None else 0,
    )


def _opened(recipe: Recipe, problems: list[str]) -> Changes | None:
    """What the adapters change, or None when one cannot be opened or does not fit; all that is wrong is noted."""
    base = tried(problems, open_base, recipe.base) if recipe.base else None
    adapters = [tried(problems, open_checkpoint, path) for path in recipe.experts]
    if not adapters or None in adapters or (recipe.base and base is None):
        return None
    found: Changes | None = tried(problems, changes, adapters, base, recipe.method in ADAPTERS)
    return found


def hands(found: Changes, settings: Settings, memory: int, workers: int | None) -> int:
    """The workers that fit the memory; MergeError when not even one does."""
    taken = needs(found, settings)
    worst = max(taken, key=lambda name: taken[name])
    each = taken[worst].bytes + _streamed(found, settings)
    if each > memory:
        words = f"To merge `{worst}` takes {in_words(each)} of memory, and {in_words(memory)} are allowed"
        raise MergeError(f"{words}. Allow more.")
    return min(workers or os.cpu_count() or 1, memory // each)


def _streamed(found: Changes, settings: Settings) -> int:
    """Bytes that a worker reads, ranks and writes in, whatever the matrices' sizes."""
    method = settings.method
    ranked = method.entrywise or bool(method.ranks and method.survey)
    return memory_of(found.work, ranked, largest_unit(found.work, settings))


def estimate(found: Changes, settings: Settings, memory: int, workers: int | None) -> tuple[int, Callable[[], float]]:
    """About how many bytes of memory the merge will have, and what works out how many seconds it will take."""
    many = hands(found, settings, memory, workers)
    taken = needs(found, settings)
    visits = {} if settings.method.ranks else all_passes(found.work, settings)
    seconds = sum(need.bytes for need in taken.values()) / QUICK
    for name in found.work.merged:
        entry = found.work.base.entries[name]
        if name in taken and taken[name].formed:
            side = min(entry.shape)  # of the Gram matrix, whose eigenvectors take 20 multiplications of its size
            seconds += (2 * entry.size * side + 20 * side**3) / DECOMPOSED
        seconds += visits.get(name, 0) * entry.bytes * (1 + len(found.adapters)) / QUICK
    each = _streamed(found, settings) + max(need.bytes for need in taken.values())
    whole = whole_tensors(found.work, settings)
    if not whole:
        return PROGRAM + many * each, lambda: seconds / many
    room = many * max(whole.values())
    return PROGRAM + many * each, lambda: seconds / many + whole_seconds(found.work, settings, whole, many, room)
