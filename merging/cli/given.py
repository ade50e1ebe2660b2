"""The recipe that several commands are given."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from merging.checkpoint import open_checkpoint
from merging.errors import MergeError, RecipeError
from merging.findings import tried
from merging.hub.models import asked
from merging.recipe import Recipe, load_recipe


def read_recipe(given: Path) -> Recipe:
    """The recipe of a file or of a merged model; `-` is what comes in, whose paths start at the working folder.

    RecipeError names everything that is wrong with it, and each of its models that cannot be opened.
    """
    try:
        return load_recipe(f"{sys.stdin.read()}\n" if str(given) == "-" else given)
    except RecipeError as error:
        problems, told = [*error.problems], asked(error.models)
        for path in error.models:
            if str(path) in told:
                problems.append(told[str(path)])
            else:
                tried(problems, open_checkpoint, path)
        raise RecipeError(problems, error.warnings, error.models) from error


def look_at(models: Iterable[Path]) -> None:
    """Have the Hub asked about those that only it has; MergeError names each that it does not give."""
    if problems := asked(models):
        raise MergeError("\n".join(problems.values()))
