"""A tensor was clicked, or the microscope opened: it is looked at with the method as it is set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from merging.errors import MergeError, MergeStopped
from ui.comparing import known_comparison
from ui.draft import Standing
from ui.errors import notice, worded
from ui.events import EACH, QUIET, after
from ui.jobs import announce, stoppable
from ui.models_panel import Selection
from ui.page import Page
from ui.tensor_panel import CHOOSE, against, look, pairs
from ui.views import LATER


def wire(page: Page) -> None:
    see, seen, selection = page.see, page.see.microscope, page.models.selection

    def on_pick(event: gr.EventData) -> str:
        return str(event.cell)

    def on_look(
        request: gr.Request, chosen: Selection, now: Standing, view: str, name: str, one: int | None, other: int | None
    ) -> Iterator[tuple[Any, ...]]:
        if view != "tensor":
            return
        visitor = request.session_hash or ""
        if not name or not known_comparison(chosen):
            yield f'<p class="caption">{LATER}.</p>' if name and chosen.ready else CHOOSE, None, None, None
            return
        if not now.recipe:
            yield notice(now.problem) if now.problem else "", None, None, None
            return
        announce(visitor, "look")
        with stoppable(visitor, "look") as stop:
            try:
                yield from look(chosen, now.recipe, name, one, other, stop)
            except MergeStopped:
                return  # something else is looked at now
            except (MergeError, OSError) as error:
                yield notice(worded(error)), None, None, None

    def on_pair(chosen: Selection, now: Standing, name: str, one: int | None, other: int | None) -> Any:
        try:
            return against(chosen, now.recipe, name, one, other) if name and now.recipe else None
        except (MergeError, OSError):
            return None

    standing, pair = page.standing, [seen.one, seen.other]
    for plot in (see.norms, page.forecast.plot, page.forecast.difference):
        plot.cell_select(on_pick, None, see.tensor, **EACH)
    after(
        [see.tensor.change, see.view.change, seen.aim.change],
        on_look,
        [selection, standing, see.view, see.tensor, *pair],
        seen.shown,
        concurrency_limit=2,
    )
    gr.on([part.input for part in pair], on_pair, [selection, standing, see.tensor, *pair], seen.scatter, **QUIET)
    after(selection.change, pairs, selection, pair)
    # Of other models nothing was clicked yet.
    after(selection.change, lambda: ("", "", None), None, [see.tensor, see.detail, see.histogram])
