"""All components of the page, and the recipe that they stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from merging.recipe import Recipe
from ui.draft import Draft, drafted
from ui.forecast_panel import Forecast
from ui.history_panel import Past
from ui.merge_panel import Merge, weights_in
from ui.models_panel import Models, Selection
from ui.sample_panel import Sample
from ui.see_panel import See


@dataclass(frozen=True)
class Page:
    """The components of every section; `draft` holds what stands beside the controls, `visit` what was done."""

    demo: gr.Blocks
    models: Models
    see: See
    forecast: Forecast
    merging: Merge
    sample: Sample
    past: Past
    draft: gr.State
    standing: gr.State  # `Standing`: what the views show
    turned: gr.State  # another object each time that a lesson opens views: only tabs turned by hand tell of it
    visit: gr.State
    prompts: gr.State  # `Asked`: what was asked of whom, the last 50

    @property
    def form(self) -> list[Any]:
        """All that a recipe follows from, beside the selection: the inputs for `recipe`."""
        return [*self.merging.form.values(), self.merging.weights, self.draft]

    def form_of(self, method: str) -> list[Any]:
        """What a recipe by this method follows from: a part of `form`, since the page pays for all that it sends."""
        known = self.merging.form
        return [*(known[key] for key in self._keys(method)), self.merging.weights, self.draft]

    def _keys(self, method: str) -> list[str]:
        return [key for key in self.merging.form if "." not in key or key.startswith(f"{method}.")]

    def recipe(
        self, selection: Selection, values: tuple[Any, ...], all_of_them: bool = False, method: str = ""
    ) -> Recipe:
        """The recipe by the values of `form`, with all chosen experts or with those that fit; MergeError if wrong.

        With a method, by the values of `form_of` it.
        """
        *known, weights, draft = values
        fields = dict(zip(self._keys(method) if method else self.merging.form, known, strict=True))
        mine: Draft = replace(draft, weights=weights_in(weights))
        return drafted(selection, fields, mine, all_of_them)
