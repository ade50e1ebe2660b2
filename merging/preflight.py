"""Everything that can be known of a merge before the first weight is read, and every problem with it at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from merging.adapter import open_base, open_expert
from merging.changes_preflight import check_changes
from merging.checkpoint import Checkpoint, open_checkpoint, told_apart
from merging.collected import FISHER, INPUTS, lacking, open_collected
from merging.companions import bytes_beside, extended
from merging.devices import unequipped
from merging.distant import WHOLLY, fetching, is_far, set_aside
from merging.errors import MergeError
from merging.factored import unaveraged
from merging.findings import BY_ROWS, PROGRAM, QUICK, SLOW, inside, repeated, tried, untimed
from merging.findings import MEMORY as MEMORY
from merging.findings import Preflight as Preflight
from merging.header import SIZES, STORED_AS
from merging.limits import crowded
from merging.method import Method
from merging.output import SHARD
from merging.passes import all_passes, largest_unit, objections
from merging.plan import Plan, plan
from merging.publish import target
from merging.stream import fitting, memory_of
from merging.whole import cramped, seconds, shared, whole_tensors
from merging.workplace import finished

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from merging.settings import Settings


def check(
    recipe: Recipe,
    out: str | Path | None = None,
    memory: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
    *,
    stream: bool = False,
) -> Preflight:
    """Look at the recipe, the models' headers, the folder and the disk; what is wrong is told, and never raised.

    With `stream`, models that only the Hub has are read there, and what is against that is a problem.
    """
    problems = [*recipe.problems(), *unequipped(workers, device)]
    if recipe.makes == "adapter":
        if stream and any(path and is_far(path) for path in (recipe.base, *recipe.experts)):
            problems.append(WHOLLY)
        return check_changes(recipe, problems, out, memory or MEMORY, workers, device)
    settings = recipe.settings() if not recipe.problems() else None
    work = _planned(recipe, problems)
    if settings and work:
        problems += settings.check(work.merged)
    if settings and work and settings.method.collects:
        work = _collected(recipe, work, settings.method, problems)
    written = bytes_out(work, recipe.out_dtype) if work else 0
    if work and (words := crowded(work, 1 + written // SHARD)):
        problems.append(words)
    if out is not None:
        more = tried(problems, bytes_beside, work) if work else 0
        tried(problems, target, out, written + (more or 0))
        problems += inside(out, recipe)
    if work is None:
        return Preflight(tuple(dict.fromkeys(problems)), recipe.warnings)
    if settings and not problems:
        problems += [*objections(work, settings), *unaveraged(work, settings)]
    far = tried([], fetching, work, settings) if settings else None
    aside = set_aside(memory or MEMORY, far) if stream and far else 0
    problems += [far.hurdle] if aside and far and far.hurdle else []
    if settings:
        room = (memory or MEMORY) - aside
        each = memory_of(work, settings.method.entrywise, largest_unit(work, settings))
        tried(problems, fitting, room, 1, each)
        problems += cramped(work, whole_tensors(work, settings), room, each) if not problems else []
    unused = settings.unmatched(work.merged) if settings else []
    return Preflight(
        tuple(dict.fromkeys(problems)),
        (*recipe.warnings, *repeated(recipe, work, not settings or settings.with_base), *unused, *work.warnings),
        work.fates,
        work,
        bytes_in(work, with_base=not settings or settings.with_base),
        written,
        *(estimate(work, settings, workers, memory, aside) if not problems else (0, untimed)),
        fetching=far,
        kept=finished(out) if out is not None else 0,
    )


def _planned(recipe: Recipe, problems: list[str]) -> Plan | None:
    """The plan, or None when a model cannot be opened or does not fit; all that is wrong is noted."""
    paths = [path for path in (recipe.base, *recipe.experts) if path is not None]
    if not paths:
        return None
    base: Checkpoint | None = tried(problems, open_base, paths[0])
    if base is None:  # the others are looked at all the same
        for path in dict.fromkeys(paths[1:]):
            tried(problems, open_checkpoint, path)
        return None
    experts = [tried(problems, open_expert, path, base) for path in recipe.experts]
    fitting = [expert for expert in experts if expert is not None]
    base, *fitting = told_apart([base, *fitting])
    work = tried(problems, _plan, base, fitting, recipe) if fitting else None
    return work if len(fitting) == len(experts) else None


def _plan(base: Checkpoint, experts: list[Checkpoint], recipe: Recipe) -> Plan:
    work = plan(base, experts, extra_tensors=recipe.extra_tensors, tokenizer_source=recipe.tokenizer_source)
    if work.vocabulary.added:
        extended(work.vocabulary)  # whatever its tokenizer has against the new tokens is said now
    return work


def _collected(recipe: Recipe, work: Plan, method: Method, problems: list[str]) -> Plan:
    """The plan with the statistics of its experts; what is lacking is noted."""
    told = zip(recipe.experts, work.experts, strict=True)
    found = [tried(problems, open_collected, path, expert, recipe.base, method.title) for path, expert in told]
    if None in found:
        return work
    work = replace(work, collected=tuple(found))
    problems += lacking(work, method.title, FISHER if method.collects == "information" else INPUTS)
    return work


def bytes_in(work: Plan, with_base: bool = True) -> int:
    """The bytes of all models that one pass reads; an adapter's are those of its base and its own."""
    names = {*work.merged, *work.copied} if with_base else {*work.copied}
    base = sum(work.base.entries[name].bytes for name in names)
    merged = sum(work.experts[index].entries[name].bytes for name, has in work.merged.items() for index in has)
    return base + merged + sum(work.experts[index].entries[name].bytes for name, index in work.kept.items())


def bytes_out(work: Plan, out_dtype: str = "") -> int:
    """The bytes of the result's tensors."""
    size = SIZES[STORED_AS[out_dtype]] if out_dtype in STORED_AS else None
    return sum(entry.size * size if size and entry.floating else entry.bytes for entry in work.written)


def estimate(
    work: Plan, settings: Settings | None, workers: int | None = None, memory: int | None = None, aside: int = 0
) -> tuple[int, Callable[[], float]]:
    """About how many bytes of memory a merge will have, and what works out the seconds that it will take.

    That is once the files are cached. Of the memory, `aside` is for what is fetched from the Hub.
    """
    models, entrywise = 1 + len(work.experts), bool(settings and settings.method.entrywise)
    memory = (memory or MEMORY) - aside
    unit = largest_unit(work, settings)
    each = memory_of(work, entrywise, unit)
    try:
        threads = fitting(memory, workers or os.cpu_count() or 1, each)
        visits = all_passes(work, settings) if settings else {}
        whole = whole_tensors(work, settings) if settings else {}
    except MergeError:  # it is among the problems
        return 0, untimed
    read = sum(work.base.entries[name].bytes * models * (1 + visits.get(name, 0)) for name in work.merged)
    read += sum(file.bytes for file in work.collected)
    speed = BY_ROWS if unit > 1 else SLOW if entrywise else QUICK
    time, taken = (read + work.bytes) / (speed * threads), threads * each
    if not settings or not whole:
        return PROGRAM + aside + taken, lambda: time
    threads = shared(memory, threads, each, whole)
    room = memory - threads * each
    taken = max(taken, threads * each + min(room, sum([*whole.values()][:threads])))
    return PROGRAM + aside + taken, lambda: time + seconds(work, settings, whole, threads, room)
