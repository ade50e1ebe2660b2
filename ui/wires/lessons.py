"""The lessons look at what the page shows, and set it up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from merging.errors import MergeError
from ui.comparing import known_comparison
from ui.events import after
from ui.forecast import draw_forecast
from ui.lessons.lesson import Seen, Setup
from ui.lessons.panel import LessonsPanel, wire_lessons
from ui.models_panel import Selection
from ui.page import Page
from ui.views import draw_view
from ui.visit import Visit
from ui.wires.recipes import Filling

RIGHT = {"coefficients": "weights", "predictions": "effects"}  # views beside the steps


def wire(page: Page, filling: Filling, panel: LessonsPanel, opener: gr.Button) -> None:
    def see(
        request: gr.Request, chosen: Selection, visit: Visit, prompts: tuple[str, ...], tensor: str, *values: Any
    ) -> Seen:
        try:
            recipe = page.recipe(chosen, values) if chosen.base else None
        except MergeError:
            recipe = None
        merges = tuple(past.recipe for past in visit.history.merges)
        return Seen(recipe, tensor, prompts, merges, known_comparison(chosen))

    def arrange(setup: Setup) -> Sequence[Any]:
        left = setup.view if setup.view not in (*RIGHT, "sample") else None
        right = RIGHT.get(setup.view)
        return (
            *filling.tried(lambda: setup.recipe),
            gr.Tabs(selected=left) if left else gr.skip(),
            left or gr.skip(),
            gr.Tabs(selected=right) if right else gr.skip(),
            right or gr.skip(),
            object(),
        )

    def on_turn(
        chosen: Selection, left: str, measure: str, pair: str, where: str, right: str, *given: Any
    ) -> tuple[Any, ...]:
        """Draw the views that a step has opened, of models that were read before; others are drawn when they are."""
        effect, compared, held, *values = given
        if not known_comparison(chosen):
            return (gr.skip(),) * len(drawn)
        seen = draw_view(chosen, left, measure, pair, where)
        try:
            recipe = page.recipe(chosen, tuple(values))
        except MergeError:
            return (*seen, *(gr.skip(),) * 5)
        *forecast, _ = draw_forecast(chosen, recipe, right, effect, compared, held and held.recipe, quick=False)
        return (*seen, *forecast)

    given = [page.models.selection, page.visit, page.prompts, page.see.tensor, *page.form]
    left, right = page.see, page.forecast
    turned = gr.State(None)  # another object each time: tabs that are not turned by hand do not tell of it
    views = [left.tabs, left.view, right.tabs, right.view, turned]
    wire_lessons(page.demo, panel, opener, given, see, [*filling.outputs, *views], arrange)
    drawn = [*left.plots, right.caption, right.plot, right.effects, right.difference, right.text]
    shown = [left.view, left.measure, left.pair, left.where, right.view, right.effect, right.compared, right.held]
    after(turned.change, on_turn, [page.models.selection, *shown, *page.form], drawn)
