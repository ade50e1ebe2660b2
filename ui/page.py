"""All components of the page, and the recipe that they stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from merging.errors import MergeError
from merging.recipe import Recipe
from ui.draft import Draft, drafted
from ui.events import PRIVATE
from ui.forecast_panel import Forecast
from ui.history_panel import Past
from ui.merge_panel import Merge, weights_in
from ui.models_panel import Models, Selection
from ui.sample_panel import Sample
from ui.see_panel import See

PACK = "(...all) => [all]"  # what the outputs get: the one of them, a list


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
    packed: gr.JSON  # what all controls of a recipe hold, since each that an event reads by itself costs time
    draft: gr.State
    standing: gr.State  # `Standing`: what the views show
    turned: gr.State  # another object each time that a lesson opens views: only tabs turned by hand tell of it
    visit: gr.State
    prompts: gr.State  # `Asked`: what was asked of whom, the last 50

    @property
    def known(self) -> dict[str, Any]:
        """The controls of the form of which the browser knows what they hold."""
        return {key: part for key, part in self.merging.form.items() if not isinstance(part, gr.State)}

    @property
    def controls(self) -> list[Any]:
        """All that the browser packs."""
        return [*self.known.values(), self.merging.weights]

    def with_form(self, event: Any, fn: Any, inputs: list[Any], outputs: Any, **how: Any) -> Any:
        """Call `fn` after the event: with what the inputs hold, and two values more for `recipe`."""
        packed = event.then(None, self.controls, self.packed, js=PACK, trigger_mode="multiple", **PRIVATE)
        return packed.then(fn, [*inputs, self.packed, self.draft], outputs, **how)

    def recipe(self, selection: Selection, values: tuple[Any, ...], all_of_them: bool = False) -> Recipe:
        """The recipe by the values of `with_form`, with all chosen experts or those that fit; MergeError if wrong."""
        packed, draft = values
        *held, weights = unpacked(packed, len(self.controls))
        mine: Draft = replace(draft, weights=weights_in(weights))
        return drafted(selection, dict(zip(self.known, held, strict=True)), mine, all_of_them)


def unpacked(packed: Any, count: int) -> list[Any]:
    """What so many controls hold; MergeError where no page could have sent it."""
    simple = isinstance(packed, list) and all(isinstance(value, str | float | int | None) for value in packed)
    if not simple or len(packed) != count:
        raise MergeError("What is set on the page got lost on its way. Reload it.")
    return list(packed)
