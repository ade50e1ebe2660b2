"""What is found out about a merge before it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import MergeError

if TYPE_CHECKING:
    from merging.changes import Changes
    from merging.distant import Fetching
    from merging.plan import Plan
    from merging.recipe import Recipe


MEMORY = 1_000_000_000  # bytes a merge may work in when nothing else is asked for, beside the program itself
PROGRAM = 300_000_000  # bytes of Python, torch and the compiled kernels
# Bytes a second that a worker gets through: by coefficients, entry by entry, and row by row.
QUICK, SLOW, BY_ROWS = 1_500_000_000, 500_000_000, 150_000_000


def untimed() -> float:
    """The seconds of a merge that cannot start."""
    return 0.0


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
    timing: Callable[[], float] = field(default=untimed, repr=False, compare=False)  # works out the seconds
    changes: Changes | None = None  # where the result is an adapter: what the adapters change
    ranks: dict[str, int] = field(default_factory=dict)  # that it has then in each matrix
    kept: int = 0  # tensors that are finished of a merge to the same place that was broken off
    fetching: Fetching | None = None  # what it reads of models that only the Hub has

    @cached_property
    def seconds(self) -> float:
        """About how long it will take; where that has to be measured it takes a moment, so only who asks waits."""
        return self.timing()


def tried(problems: list[str], step: Any, *given: Any) -> Any:
    """What the step gives, or None where it has something to say; each line of that is a problem."""
    try:
        return step(*given)
    except MergeError as error:
        problems += str(error).splitlines()
    except OSError as error:
        problems.append(f"{error.filename or given[0]} could not be read ({error.strerror}). Check it.")
    return None


def inside(out: str | Path, recipe: Recipe) -> list[str]:
    """That the output folder lies in that of a model, which it would change."""
    place = Path(out).expanduser().absolute()
    for path in (recipe.base, *recipe.experts):
        if path and path.is_dir() and path.resolve() in place.resolve().parents:
            return [f"{out} lies in {path}, which is one of the models. Choose a folder outside."]
    return []


def repeated(recipe: Recipe, work: Plan, with_base: bool) -> list[str]:
    """That a model is there twice, which is hardly meant; a base may be an expert where it does not enter itself."""
    paths = [path.expanduser().resolve() for path in recipe.experts]
    twice = [f"{work.experts[i].name} is an expert more than once." for i, p in enumerate(paths) if p in paths[:i]]
    if with_base and recipe.base and recipe.base.expanduser().resolve() in paths:
        twice.append(f"{work.base.name} is the base model and an expert, too: as an expert it changes nothing.")
    return list(dict.fromkeys(twice))
