"""Everything that can be known of a merge before the first weight is read, and every problem with it at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.adapter import open_base, open_expert
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.companions import extended
from merging.devices import unequipped
from merging.errors import MergeError
from merging.factored import obstacle
from merging.header import SIZES, STORED_AS
from merging.limits import crowded
from merging.output import SHARD
from merging.passes import all_passes, objections
from merging.plan import Plan, plan
from merging.publish import target
from merging.settings import depths
from merging.stream import fitting, memory_of

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from merging.settings import Settings

MEMORY = 1_000_000_000  # bytes a merge may work in when nothing else is asked for, beside the program itself
PROGRAM = 300_000_000  # bytes of Python, torch and the compiled kernels
QUICK, SLOW = 1_500_000_000, 500_000_000  # bytes a second that a worker gets through: by coefficients, entry by entry


@dataclass(frozen=True)
class Preflight:
    """What a merge would do and need, and what is in its way; it can start when there are no problems."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    fates: dict[str, str] = field(default_factory=dict)
    plan: Plan | None = None  # where the models could be opened and fit each other
    bytes_in: int = 0
    bytes_out: int = 0
    memory: int = 0  # bytes that the merge will use at most, about
    seconds: float = 0.0  # that it will take, about


def check(
    recipe: Recipe,
    out: str | Path | None = None,
    memory: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
) -> Preflight:
    """Look at the recipe, the models' headers, the folder and the disk; what is wrong is told, and never raised."""
    problems = [*recipe.problems(), *unequipped(workers, device)]
    settings = recipe.settings() if not recipe.problems() else None
    work = _planned(recipe, problems)
    if settings and work:
        problems += settings.check(work.merged)
    written = bytes_out(work, recipe.out_dtype) if work else 0
    if work and (words := crowded(work, 1 + written // SHARD)):
        problems.append(words)
    if out is not None:
        _tried(problems, target, out, written)
    if work is None:
        return Preflight(tuple(dict.fromkeys(problems)), recipe.warnings)
    if settings and not problems:
        problems += [*objections(work, settings), *_unaveraged(work, settings)]
    _tried(problems, fitting, memory or MEMORY, 1, 1 + len(work.experts))
    unused = settings.unmatched(work.merged) if settings else []
    return Preflight(
        tuple(dict.fromkeys(problems)),
        (*recipe.warnings, *unused, *work.warnings),
        work.fates,
        work,
        bytes_in(work),
        written,
        *estimate(work, settings, workers, memory),
    )


def _tried(problems: list[str], step: Any, *given: Any) -> Any:
    """What the step gives, or None where it has something to say; each line of that is a problem."""
    try:
        return step(*given)
    except MergeError as error:
        problems += str(error).splitlines()
    except OSError as error:
        problems.append(f"{error.filename or given[0]} could not be read ({error.strerror}). Check it.")
    return None


def _planned(recipe: Recipe, problems: list[str]) -> Plan | None:
    """The plan, or None when a model cannot be opened or does not fit; all that is wrong is noted."""
    paths = [path for path in (recipe.base, *recipe.experts) if path is not None]
    if not paths:
        return None
    base: Checkpoint | None = _tried(problems, open_base, paths[0])
    if base is None:  # the others are looked at all the same
        for path in dict.fromkeys(paths[1:]):
            _tried(problems, open_checkpoint, path)
        return None
    experts = [_tried(problems, open_expert, path, base) for path in recipe.experts]
    fitting = [expert for expert in experts if expert is not None]
    work = _tried(problems, _plan, base, fitting, recipe) if fitting else None
    return work if len(fitting) == len(experts) else None


def _plan(base: Checkpoint, experts: list[Checkpoint], recipe: Recipe) -> Plan:
    work = plan(base, experts, extra_tensors=recipe.extra_tensors, tokenizer_source=recipe.tokenizer_source)
    if work.vocabulary.added:
        extended(work.vocabulary)  # whatever its tokenizer has against the new tokens is said now
    return work


def _unaveraged(work: Plan, settings: Settings) -> list[str]:
    """Why FroM cannot average adapters' factors where it is asked to."""
    if "lora" not in settings.method.params:
        return []
    depth, asked = depths(work.merged), dict[str, list[str]]()
    for name in work.merged:
        asked.setdefault(settings.of(name, depth[name])["lora"], []).append(name)
    return [words for reading in asked if reading != "product" and (words := obstacle(work, reading, asked[reading]))]


def bytes_in(work: Plan) -> int:
    """The bytes of all models that one pass reads; an adapter's are those of its base and its own."""
    names = {*work.merged, *work.copied}
    base = sum(work.base.entries[name].bytes for name in names)
    merged = sum(work.experts[index].entries[name].bytes for name, has in work.merged.items() for index in has)
    return base + merged + sum(work.experts[index].entries[name].bytes for name, index in work.kept.items())


def bytes_out(work: Plan, out_dtype: str = "") -> int:
    """The bytes of the result's tensors."""
    size = SIZES[STORED_AS[out_dtype]] if out_dtype in STORED_AS else None
    return sum(entry.size * size if size and entry.floating else entry.bytes for entry in work.written)


def estimate(
    work: Plan, settings: Settings | None, workers: int | None = None, memory: int | None = None
) -> tuple[int, float]:
    """About how many bytes of memory a merge will have, and how many seconds it will take once the files are cached."""
    models = 1 + len(work.experts)
    try:
        threads = fitting(memory or MEMORY, workers or os.cpu_count() or 1, models)
        visits = all_passes(work, settings) if settings else {}
    except MergeError:  # it is among the problems
        return 0, 0.0
    read = sum(work.base.entries[name].bytes * models * (1 + visits.get(name, 0)) for name in work.merged)
    speed = SLOW if settings and settings.method.entrywise else QUICK
    return PROGRAM + memory_of(threads, models), (read + work.bytes) / (speed * threads)
