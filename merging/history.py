"""The merges of one visit: what each was made of and came to, to compare, repeat, note and delete them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from merging.adapter import open_base, open_expert
from merging.errors import MergeError
from merging.method import find_method
from merging.recipe import Recipe
from merging.removal import remove_merge
from merging.report import Report

MOST = 100  # merges that are remembered; the oldest is forgotten first
Stamp = tuple[tuple[str, int, int], ...]  # of a model, see `Checkpoint.stamp`
LONGEST = 2000  # characters of a note


@dataclass(frozen=True)
class Past:
    """A merge that was made: its number in the visit, when it was done, what it was made of, and what it came to.

    The note is what the visitor wrote of it. `models` are the files of its base and of each expert, by name, size and
    time, as they were when it was done: none where they were gone by then.
    """

    number: int
    when: datetime
    recipe: Recipe
    report: Report
    models: tuple[Stamp, ...] = ()
    note: str = ""

    @property
    def method(self) -> str:
        """The method's title."""
        return find_method(self.recipe.method).title

    @property
    def experts(self) -> tuple[str, ...]:
        """The names of the experts' folders."""
        return tuple(path.name for path in self.recipe.experts)

    @property
    def there(self) -> bool:
        """Whether there is still something at the place of its result."""
        return self.report.out.is_dir()


@dataclass(frozen=True)
class Change:
    """One value that two recipes do not share, in the words of their YAML; empty where one of them does not have it."""

    key: str  # such as `parameters.density`, or `models.math.weight`
    first: str
    second: str


@dataclass(frozen=True)
class History:
    """The merges of one visit, the oldest first. It is never changed: whoever adds to it gets another."""

    merges: tuple[Past, ...] = ()
    count: int = field(default=0)  # of all merges that were ever added, so that numbers are never used twice

    def added(self, recipe: Recipe, report: Report, when: datetime | None = None) -> History:
        """The history with this merge as its last."""
        past = Past(self.count + 1, when or datetime.now(), recipe, report, _stamps(recipe))
        return History((*self.merges, past)[-MOST:], past.number)

    def of(self, number: int) -> Past:
        """The merge of that number."""
        for past in self.merges:
            if past.number == number:
                return past
        raise MergeError(f"Merge {number} is not in the history. Choose one that is listed.")

    def noted(self, number: int, note: str) -> History:
        """The history with this note on that merge, in place of the one that it had."""
        past = self.of(number)
        changed = replace(past, note=note.strip()[:LONGEST])
        return replace(self, merges=tuple(changed if other is past else other for other in self.merges))

    def without(self, number: int, *, folder: bool = False) -> History:
        """The history without that merge. Its result stays, unless it is asked for that its `folder` goes, too.

        MergeError where the folder holds anything but what that merge has written: then all stays as it is.
        """
        past = self.of(number)
        if folder:
            remove_merge(past.report)
        return replace(self, merges=tuple(other for other in self.merges if other is not past))


def _stamps(recipe: Recipe) -> tuple[Stamp, ...]:
    if recipe.base is None:
        return ()
    try:
        base = open_base(recipe.base)
        return tuple(model.stamp for model in (base, *(open_expert(path, base) for path in recipe.experts)))
    except (MergeError, OSError):
        return ()


def differences(first: Recipe, second: Recipe) -> list[Change]:
    """Every value that differs between two recipes, defaults included, in the order of their YAML."""
    ours, theirs = _flat(first), _flat(second)
    keys = [*ours, *(key for key in theirs if key not in ours)]
    changes = [Change(key, ours.get(key, ""), theirs.get(key, "")) for key in keys]
    return [change for change in changes if change.first != change.second]


def _flat(recipe: Recipe) -> dict[str, str]:
    """The values of a recipe by where they stand in its YAML, experts by their names."""
    content = yaml.safe_load(recipe.to_yaml(Path.cwd()))
    models = content.pop("models")
    found = {key: _words(value) for key, value in content.items() if key not in ("mergescope", "parameters")}
    found["models"] = ", ".join(told["model"] for told in models)
    for number, told in enumerate(models):
        again = sum(other["model"] == told["model"] for other in models[:number])
        name = f"models.{told['model']}{f' ({again + 1})' if again else ''}"
        found |= {f"{name}.{key}": _words(value) for key, value in told.get("parameters", {}).items()}
    shared = content.get("parameters", {})
    return found | {f"parameters.{key}": _words(value) for key, value in shared.items()}


def _words(value: Any) -> str:
    """A value on one line, as YAML has it."""
    if isinstance(value, str):
        return value
    told = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return str(told).removesuffix("\n").removesuffix("\n...")
