"""The lessons look at what the page shows, and set it up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from merging.errors import MergeError
from ui.asked import Asked
from ui.comparing import known_comparison
from ui.events import QUIET
from ui.lessons.lesson import Seen, Setup
from ui.lessons.panel import LessonsPanel, wire_lessons
from ui.models_panel import Selection
from ui.page import Page
from ui.visit import Visit
from ui.wires.recipes import Filling

RIGHT = {"coefficients": "weights", "predictions": "effects"}  # views beside the steps


def wire(page: Page, filling: Filling, panel: LessonsPanel, opener: gr.Button) -> None:
    def see(
        request: gr.Request, chosen: Selection, visit: Visit, prompts: tuple[Asked, ...], tensor: str, *values: Any
    ) -> Seen:
        try:
            recipe = page.recipe(chosen, values) if chosen.base else None
        except MergeError:
            recipe = None
        merges = tuple(past.recipe for past in visit.history.merges)
        return Seen(recipe, tensor, prompts, merges, known_comparison(chosen))

    def ask(event: Any, fn: Any, inputs: list[Any], outputs: list[Any]) -> Any:
        given = [page.models.selection, page.visit, page.prompts, page.see.tensor]
        return page.with_form(event, fn, [*inputs, *given], outputs, **QUIET)

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
            "",  # a tensor that was clicked before was not clicked for this step
            "",
            None,
        )

    left, right = page.see, page.forecast
    views = [left.tabs, left.view, right.tabs, right.view, page.turned]
    looked = [left.tensor, left.detail, left.histogram]
    wire_lessons(page.demo, panel, opener, ask, see, [*filling.outputs, *views, *looked], arrange)
