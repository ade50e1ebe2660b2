"""Everything that can be known of a merge before the first weight is read, and every problem with it at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.adapter import open_base, open_expert
from merging.companions import extended
from merging.errors import MergeError
from merging.plan import Plan, plan
from merging.publish import target

if TYPE_CHECKING:
    from merging.checkpoint import Checkpoint
    from merging.recipe import Recipe

MEMORY = 1_000_000_000  # bytes a merge may use when nothing else is asked for
CHUNK = 1 << 18  # entries of one tensor that a worker has in memory, of each model
START = 350_000_000  # bytes of Python, torch and the compiled kernels, before the first chunk
SPEED = 1_500_000_000  # bytes a second that one worker reads, computes and writes of a simple method


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
    recipe: Recipe, out: str | Path | None = None, memory: int | None = None, workers: int | None = None
) -> Preflight:
    """Look at the recipe, the models' headers, the folder and the disk; what is wrong is told, and never raised."""
    problems: list[str] = []
    settings = _tried(problems, recipe.checked)
    work = _planned(recipe, problems)
    if out is not None:
        _tried(problems, target, out, work.bytes if work else 0)
    warnings = [*getattr(recipe, "warnings", ()), *(work.warnings if work else ())]
    if work is None:
        return Preflight(tuple(dict.fromkeys(problems)), tuple(warnings))
    needed, seconds = estimate(work, settings, workers, memory)
    if memory is not None and needed > memory:
        problems.append(_short(needed, memory, workers))
    read, written = bytes_in(work), work.bytes
    return Preflight(tuple(dict.fromkeys(problems)), tuple(warnings), work.fates, work, read, written, needed, seconds)


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
            _tried(problems, _opened_alone, path)
        return None
    experts = [_tried(problems, open_expert, path, base) for path in recipe.experts]
    fitting = [expert for expert in experts if expert is not None]
    work = _tried(problems, _plan, base, fitting, recipe) if fitting else None
    return work if len(fitting) == len(experts) else None


def _opened_alone(path: Path) -> None:
    from merging.checkpoint import open_checkpoint

    open_checkpoint(path)


def _plan(base: Checkpoint, experts: list[Checkpoint], recipe: Recipe) -> Plan:
    kept, source = getattr(recipe, "extra_tensors", "drop"), getattr(recipe, "tokenizer_source", "")
    work = plan(base, experts, extra_tensors=kept, tokenizer_source=source)
    if work.vocabulary.added:
        extended(work.vocabulary)  # whatever its tokenizer has against the new tokens is said now
    return work


def bytes_in(work: Plan) -> int:
    """The bytes of all models that one pass reads; an adapter's are those of its base and its own."""
    names = {*work.merged, *work.copied}
    base = sum(work.base.entries[name].bytes for name in names)
    merged = sum(work.experts[index].entries[name].bytes for name, has in work.merged.items() for index in has)
    return base + merged + sum(work.experts[index].entries[name].bytes for name, index in work.kept.items())


def estimate(work: Plan, settings: Any, workers: int | None = None, memory: int | None = None) -> tuple[int, float]:
    """About how many bytes of memory a merge needs, and how many seconds.

    Memory is what each worker holds: a chunk of float32 of every model and of the result. Time is that of a method
    that goes once over the weights for its survey, if it has one, and once to merge.
    """
    threads = workers or os.cpu_count() or 1
    models = 2 + len(work.experts)  # with the base and the result
    passes = 1 + (getattr(settings[0], "survey", None) is not None) if settings else 1
    needed = START + threads * models * CHUNK * 4
    return needed, (passes * bytes_in(work) + work.bytes) / (SPEED * threads)


def _short(needed: int, memory: int, workers: int | None) -> str:
    threads = workers or os.cpu_count() or 1
    advice = "Allow more or use fewer workers." if threads > 1 else "Allow more."
    return f"The merge needs about {needed / 1e6:,.0f} MB of memory and may use {memory / 1e6:,.0f} MB. {advice}"
