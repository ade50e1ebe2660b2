"""Step 4: the same prompt goes to all models, and to the merge as it stands or as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from merging.errors import MergeError
from ui.errors import notice
from ui.events import PRIVATE
from ui.jobs import announce
from ui.models_panel import Selection
from ui.page import Page
from ui.sample_panel import NOW, run_sample
from ui.visit import Visit
from ui.wires.ends import stopper, wire_end, working

REMEMBERED = 50  # prompts


def wire(page: Page) -> None:
    sample = page.sample

    def on_click(request: gr.Request) -> tuple[Any, Any, str]:
        announce(request.session_hash or "", "sample")
        return *working(), notice("Waiting for its turn.", "info")

    def on_run(
        request: gr.Request, selection: Selection, visit: Visit, asked: tuple[str, ...], which: str, *values: Any
    ) -> Iterator[tuple[str, Any]]:
        fields = dict(zip(sample.form, values, strict=False))
        asked = (*asked, str(fields["prompt"]))[-REMEMBERED:]
        try:
            recipe = page.recipe(selection, values[len(sample.form) :]) if selection.ready else None
        except MergeError as error:
            yield notice(str(error)), gr.skip()
            return
        last = visit.last(selection.base)
        merged = recipe if which == NOW and recipe and recipe.makes == "model" else str(last.report.out) if last else ""
        for shown in run_sample(selection, merged or "", fields, request.session_hash or ""):
            yield shown, asked

    ran = sample.run.click(
        on_click, None, [sample.run, sample.stop, sample.answers], queue=False, show_progress="hidden", **PRIVATE
    ).then(
        on_run,
        [page.models.selection, page.visit, page.prompts, sample.which, *sample.form.values(), *page.form],
        [sample.answers, page.prompts],
        concurrency_limit=2,
        show_progress="hidden",
        **PRIVATE,
    )
    wire_end(ran, sample.run, sample.stop, sample.answers)
    sample.stop.click(stopper("sample"), None, None, queue=False, **PRIVATE)
