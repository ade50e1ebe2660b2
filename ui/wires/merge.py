"""Step 3: what a merge would need is said, and it is run, stopped, and ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from merging.errors import MergeError
from merging.recipe import Recipe
from merging.report import Report
from ui.errors import notice
from ui.events import PRIVATE, QUIET, after, heard
from ui.folders import fresh_folder, next_folder, placed
from ui.jobs import announce, dismiss, running
from ui.merge_panel import DOWNLOAD, Ways, caption, estimate, refused, run_merge, ways
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

    def on_run(
        request: gr.Request, chosen: Selection, output: str, far: str, *values: Any
    ) -> Iterator[tuple[str, Any]]:
        try:
            place = placed(output, request.session_hash or "")
            recipe = page.recipe(chosen, values, all_of_them=True) if chosen.base else None
        except MergeError as error:
            dismiss(request.session_hash or "", "merge")
            yield notice(str(error)), None
            return
        for shown, report in run_merge(recipe, place, request.session_hash or "", far):
            yield shown, (recipe, report) if recipe and report else None

    def on_made(visit: Visit, told: tuple[Recipe, Report] | None) -> Any:
        return visit.merged(*told) if told else gr.skip()

    def on_merged(request: gr.Request, output: str, visit: Visit) -> Any:
        merges = visit.history.merges
        return next_folder(output, merges[-1] if merges else None, request.session_hash or ""), object()

    made = gr.State(None)  # by the last run: the recipe and the report, or nothing
    visited = gr.State(None)  # another object each time that a merge was made, or removed
    clicked = merging.run.click(
        on_click,
        None,
        [merging.run, merging.stop, merging.estimate, merging.status],
        queue=False,
        show_progress="hidden",
        **PRIVATE,
    )
    ran = page.with_form(
        clicked,
        on_run,
        [selection, merging.output, merging.far],
        [merging.status, made],
        concurrency_limit=None,  # who waits is in a line of ours, which says how many are before
        show_progress="hidden",
        **PRIVATE,
    )
    # Only now, since the visit may have changed while the merge ran: a note was written, or a merge removed.
    ran.success(on_made, [page.visit, made], page.visit, show_progress="hidden", **PRIVATE)
    fetched = page.models.hub.fetched  # models that only the Hub had are here now, or some of their files
    ran.then(lambda chosen: object() if chosen.far else gr.skip(), selection, fetched, **PRIVATE)
    wire_end(ran, merging.run, merging.stop, merging.status)
    after(page.demo.load, fresh_folder, None, merging.output)
    after(page.visit.change, on_merged, [merging.output, page.visit], [merging.output, visited])
    _wire_estimate(page, visited)
    merging.stop.click(stopper("merge"), None, None, queue=False, **PRIVATE)


def _wire_estimate(page: Page, visited: gr.State) -> None:
    """Say what the merge would need when models, method, folder or `visited` have changed, and let nobody merge into a
    folder that is refused. Nothing waits for it.
    """

    def button(visitor: str, words: str) -> Any:
        return gr.skip() if running(visitor, "merge") else gr.Button(interactive=not words)

    def on_change(request: gr.Request, chosen: Selection, output: str, far: str, *values: Any) -> tuple[str, Any, Any]:
        visitor = request.session_hash or ""
        try:
            place = placed(output, visitor)
        except MergeError as error:
            return caption(str(error)), button(visitor, str(error)), gr.skip()
        try:
            recipe = page.recipe(chosen, values, all_of_them=True) if chosen.base else None
        except MergeError as error:
            return notice(str(error)), button(visitor, refused(place)), gr.skip()
        offered = ways(recipe, chosen.far_bytes, far) if recipe and chosen.far else None
        wrong, full = refused(place, recipe), offered.full if offered else ""
        told = estimate(recipe, place, offered.far if offered else DOWNLOAD)
        return (
            caption(full) if full and not wrong else told,
            button(visitor, wrong or full),
            radio(offered, far) if offered else gr.skip(),
        )

    def radio(found: Ways, shown: str) -> Any:
        # What is shown is set only where it cannot stay: a choice that was made meanwhile must not be undone.
        forced: dict[str, Any] = {} if found.far == shown else {"value": found.far}
        return gr.Radio(interactive=found.streamed, info=found.words, **forced)

    merging, selection = page.merging, page.models.selection
    choices = [part.change for part in merging.form.values() if isinstance(part, gr.Radio | gr.Number | gr.Textbox)]
    # One listener for all: of several, one that ends late would tell of a folder that is not named any more.
    changed = heard([selection.change, *choices, merging.output.change, merging.far.input, visited.change])
    given, told = [selection, merging.output, merging.far], [merging.estimate, merging.run, merging.far]
    page.with_form(changed, on_change, given, told, concurrency_limit=2, **QUIET)
    after(selection.change, lambda chosen: gr.Radio(visible=bool(chosen.far)), selection, merging.far)
