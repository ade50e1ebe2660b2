"""What a visitor merged on this visit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from merging.document import RECIPE
from merging.history import History, Past
from merging.recipe import Recipe
from merging.report import Report


@dataclass(frozen=True, eq=False)  # for Gradio, which hashes it, another one is another state
class Visit:
    """Never changed: whoever adds to it gets another."""

    history: History = field(default_factory=History)

    def merged(self, recipe: Recipe, report: Report) -> Visit:
        return replace(self, history=self.history.added(recipe, report))

    def last(self, base: str) -> Past | None:
        """The last merge into this base whose result is still there."""
        mine = [past for past in self.history.merges if past.recipe.base == Path(base) and past.there]
        return mine[-1] if mine else None

    def with_recipe(self, text: str) -> Past | None:
        """The last merge whose folder keeps this text as its recipe."""
        for past in reversed(self.history.merges):
            with suppress(OSError, UnicodeDecodeError):  # it was moved, or is another's by now
                if (past.report.out / RECIPE).read_text(encoding="utf-8").strip() == text.strip():
                    return past
        return None
