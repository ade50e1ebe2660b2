"""Step 4: the same prompt goes to all models, and to the merge as it stands or as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from merging.errors import MergeError
from merging.hub.models import on_the_hub
from merging.recipe import Recipe
from ui.asked import Asked, asked_of
from ui.errors import notice
from ui.events import PRIVATE
from ui.jobs import announce
from ui.models_panel import Selection
from ui.page import Page
from ui.sample_panel import run_sample
from ui.visit import Visit
from ui.wires.ends import stopper, wire_end, working

REMEMBERED = 50  # prompts


def wire(page: Page) -> None:
    sample = page.sample

    def on_click(request: gr.Request) -> tuple[Any, Any, str]:
        announce(request.session_hash or "", "sample")
        return *working(), notice("Waiting for its turn.", "info")

    def on_run(
        request: gr.Request, selection: Selection, visit: Visit, before: tuple[Asked, ...], which: str, *values: Any
    ) -> Iterator[tuple[str, Any, Any]]:
        if not selection.base:
            yield notice("No base model is chosen. Choose one in step 1."), gr.skip(), gr.skip()
            return
        # Where some have made room for others, step 1 is to offer them again.
        gone = {*map(str, on_the_hub([selection.base, *selection.fitting]))} - {*selection.far}
        anew = object() if gone else gr.skip()
        try:
            recipe: Recipe | str = page.recipe(selection, values[len(sample.form) :])
        except MergeError as error:
            recipe = str(error)
        who = asked_of(selection, which, recipe, visit.last(selection.base))
        fields = dict(zip(sample.form, values, strict=False))
        for shown, asked in run_sample(who, fields, request.session_hash or ""):
            yield shown, (*before, asked)[-REMEMBERED:] if asked else gr.skip(), anew

    clicked = sample.run.click(
        on_click, None, [sample.run, sample.stop, sample.answers], queue=False, show_progress="hidden", **PRIVATE
    )
    ran = page.with_form(
        clicked,
        on_run,
        [page.models.selection, page.visit, page.prompts, sample.which, *sample.form.values()],
        [sample.answers, page.prompts, page.models.hub.fetched],
        concurrency_limit=2,
        show_progress="hidden",
        **PRIVATE,
    )
    wire_end(ran, sample.run, sample.stop, sample.answers)
    sample.stop.click(stopper("sample"), None, None, queue=False, **PRIVATE)
