"""Other models are chosen: they are read, compared, and drawn as far as that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import gradio as gr

from merging.errors import MergeError, MergeStopped
from ui.comparing import known_comparison, make_comparison, unread
from ui.errors import notice
from ui.events import PRIVATE, QUIET
from ui.jobs import stop
from ui.measures import MEASURES
from ui.models_panel import Selection, read_models
from ui.page import Page
from ui.see_panel import WHOLE_MODEL
from ui.views import describe, draw_norms, draw_view, places_of
from ui.wires.ends import stopper

STOPPED = "Stopped. Press “Read them” to read these models after all, or choose others."


def buttons(reading: bool, unread: bool) -> tuple[Any, Any]:
    """Those beside the note: to stop the reading, and to read what is not read."""
    return gr.Button(visible=reading), gr.Button(visible=unread)


def wire(page: Page) -> Any:
    """The event after which the chosen models are known and drawn in step 2."""
    see = page.see
    readings: Counter[str] = Counter()  # how often each visitor chose models

    def on_leave(request: gr.Request) -> None:
        readings.pop(request.session_hash or "", None)

    def on_models(request: gr.Request, selection: Selection, measure: str) -> Iterator[tuple[Any, ...]]:
        """Read the weights, and fill the heatmap meanwhile; all else is drawn of them when they are read."""
        visitor = request.session_hash or ""
        readings[visitor] += 1
        mine, problem = readings[visitor], ""
        if not selection.ready:
            stop(visitor, "compare")
            yield "", "", None, gr.skip(), *buttons(False, False)
            return
        try:
            for words, part in make_comparison(selection, visitor):
                drawn = draw_norms(part, selection.names, MEASURES[measure]) if part else gr.skip()
                yield notice(words, "info"), "", None, drawn, *buttons(True, False)
        except MergeStopped:
            problem = notice(STOPPED, "info")
        except (MergeError, OSError) as error:
            problem = notice(str(error))
        if readings[visitor] == mine:  # no others were chosen meanwhile
            yield problem or describe(selection), "", None, gr.skip(), *buttons(False, bool(problem))

    def on_draw(
        request: gr.Request, selection: Selection, view: str, measure: str, pair: str, kept: str
    ) -> tuple[Any, ...]:
        """Everything that is in sight; nothing of the last models stays where these could not be read."""
        if selection.ready and not known_comparison(selection) and not unread(selection, request.session_hash or ""):
            return (gr.skip(),) * (len(see.plots) + 1)  # they are still being read
        return *draw_view(selection, view, measure, pair, kept, WHOLE_MODEL), places_of(selection)

    page.demo.unload(on_leave)
    see.stop.click(stopper("compare"), None, None, queue=False, **PRIVATE)
    chosen = gr.on(
        [page.demo.load, page.models.base.change, page.models.experts.change, see.read.click],
        read_models,
        [page.models.base, page.models.experts],
        [page.models.table, page.models.selection],
        **QUIET,
    )
    # Not `always_last`: choosing other models stops the reading of those that were chosen before.
    read = chosen.then(
        on_models,
        [page.models.selection, see.measure],
        [see.note, see.detail, see.histogram, see.norms, see.stop, see.read],
        **{**QUIET, "trigger_mode": "multiple"},
        concurrency_limit=4,
    )
    return read.then(
        on_draw,
        [page.models.selection, see.view, see.measure, see.pair, see.kept],
        [*see.plots, see.where],
        **PRIVATE,
        show_progress="hidden",
    )
