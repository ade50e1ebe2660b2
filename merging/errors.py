"""The errors whose words go to the screen unchanged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class MergeError(Exception):
    """Something the user can act on: what is wrong, with the names and values, and then what to do."""


class RecipeError(MergeError):
    """Everything that is wrong with a recipe, with what is odd about it beside, and the models that it names."""

    def __init__(self, problems: Iterable[str], warnings: Iterable[str] = (), models: Iterable[Path] = ()) -> None:
        lines = [line for words in problems for line in words.splitlines()]
        self.problems, self.warnings = tuple(dict.fromkeys(lines)), tuple(dict.fromkeys(warnings))
        self.models = tuple(dict.fromkeys(models))
        super().__init__("\n".join([*self.problems, *(f"Warning: {words}" for words in self.warnings)]))


class MergeStopped(Exception):  # noqa: N818 - it is an event, asked for by the user, and no error
    """The merge was stopped on request; nothing was written."""
