"""Step 3: what a merge would need is said, and it is run, stopped, and ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from merging.errors import MergeError
from merging.recipe import Recipe
from merging.report import Report
from ui.errors import notice
from ui.events import PRIVATE, QUIET, after
from ui.folders import fresh_folder, next_folder
from ui.jobs import announce, running
from ui.merge_panel import estimate, refused, run_merge
from ui.models_panel import Selection
from ui.pace import bar
from ui.page import Page
from ui.visit import Visit
from ui.wires.ends import stopper, wire_end, working


def wire(page: Page) -> None:
    merging, selection = page.merging, page.models.selection

    def on_click(request: gr.Request) -> tuple[Any, Any, str, str]:
        announce(request.session_hash or "", "merge")
        return *working(), "", bar(0, "Waiting for its turn: one merge runs at a time", "")

    def on_run(request: gr.Request, chosen: Selection, output: str, *values: Any) -> Iterator[tuple[str, Any]]:
        try:
            recipe = page.recipe(chosen, values, all_of_them=True) if chosen.base else None
        except MergeError as error:
            yield notice(str(error)), None
            return
        for shown, report in run_merge(recipe, output, request.session_hash or ""):
            yield shown, (recipe, report) if recipe and report else None

    def on_made(visit: Visit, told: tuple[Recipe, Report] | None) -> Any:
        return visit.merged(*told) if told else gr.skip()

    def on_merged(output: str, visit: Visit) -> Any:
        merges = visit.history.merges
        return next_folder(output, merges[-1] if merges else None)

    made = gr.State(None)  # by the last run: the recipe and the report, or nothing
    ran = merging.run.click(
        on_click,
        None,
        [merging.run, merging.stop, merging.estimate, merging.status],
        queue=False,
        show_progress="hidden",
        **PRIVATE,
    ).then(
        on_run,
        [selection, merging.output, *page.form],
        [merging.status, made],
        concurrency_limit=1,
        concurrency_id="merge",
        show_progress="hidden",
        **PRIVATE,
    )
    # Only now, since the visit may have changed while the merge ran: a note was written, or a merge removed.
    ran.success(on_made, [page.visit, made], page.visit, show_progress="hidden", **PRIVATE)
    fetched = page.models.hub.fetched  # models that only the Hub had are here now, or some of their files
    ran.then(lambda chosen: object() if chosen.far else gr.skip(), selection, fetched, **PRIVATE)
    wire_end(ran, merging.run, merging.stop, merging.status)
    fresh = after(page.demo.load, fresh_folder, None, merging.output)
    following = after(page.visit.change, on_merged, [merging.output, page.visit], merging.output)
    _wire_estimate(page, [fresh, following])
    merging.stop.click(stopper("merge"), None, None, queue=False, **PRIVATE)


def _wire_estimate(page: Page, named: list[Any]) -> None:
    """Say what the merge would need when models, method or folder have changed, and let nobody merge into a folder
    that is refused; `named` are the events after which the page has named another folder. Nothing waits for it.
    """

    def button(visitor: str, words: str) -> Any:
        return gr.skip() if running(visitor, "merge") else gr.Button(interactive=not words)

    def on_change(request: gr.Request, chosen: Selection, output: str, *values: Any) -> tuple[str, Any]:
        visitor = request.session_hash or ""
        try:
            recipe = page.recipe(chosen, values, all_of_them=True) if chosen.base else None
        except MergeError as error:
            return notice(str(error)), button(visitor, refused(output))
        return estimate(recipe, output), button(visitor, refused(output, recipe))

    def on_name(request: gr.Request, output: str) -> Any:
        return button(request.session_hash or "", refused(output))

    merging, selection = page.merging, page.models.selection
    given = [selection, merging.output, *page.form]
    choices = [part.change for part in merging.form.values() if isinstance(part, gr.Radio | gr.Number | gr.Textbox)]
    triggers = [selection.change, *choices, merging.output.blur]
    told = [merging.estimate, merging.run]
    after(triggers, on_change, given, told, concurrency_limit=2)
    after(merging.output.change, on_name, merging.output, merging.run)
    for event in named:
        event.then(on_change, given, told, **QUIET)
