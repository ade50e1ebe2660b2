"""Step 2: another view, another measure, a cell to look into."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.comparing import known_comparison, left_comparison, unread
from ui.downloads import offer
from ui.events import EACH, QUIET, after
from ui.models_panel import Selection
from ui.page import Page
from ui.see_panel import VIEWS
from ui.views import Look, as_csv, draw_view, show_tensor


def wire(page: Page, looks: dict[str, Look]) -> None:
    """`looks` tells of visitors whose models are being read which view is open."""
    see, selection = page.see, page.models.selection
    shown = [*see.plots, see.read]

    def on_view(request: gr.Request, chosen: Selection, event: gr.SelectData, *given: Any) -> tuple[Any, ...]:
        view = next(key for key, title in VIEWS.items() if title == event.value)
        return view, *on_choice(request, chosen, view, *given)

    def on_choice(request: gr.Request, chosen: Selection, *given: Any) -> tuple[Any, ...]:
        visitor = request.session_hash or ""
        known = known_comparison(chosen) or left_comparison(chosen, visitor)
        if not known:  # the view may be filling
            looks[visitor] = Look(*given)
            missing = unread(chosen, visitor)
            return *(gr.skip(),) * len(see.plots), gr.Button(visible=True) if missing else gr.skip()
        return *draw_view(known, chosen.names, Look(*given)), gr.skip()

    def on_measure(request: gr.Request, chosen: Selection, view: str, measure: str, *given: Any) -> tuple[Any, ...]:
        return measure, *on_choice(request, chosen, view, measure, *given)

    def on_cell(chosen: Selection, event: gr.EventData) -> tuple[str, Any]:
        return show_tensor(chosen, str(event.cell))

    see.tabs.select(on_view, [selection, *see.choices], [see.view, *shown], **QUIET)
    _, *others = see.choices
    for one, other in ((see.measure, see.over), (see.over, see.measure)):
        one.input(on_measure, [selection, see.view, one, *others], [other, *shown], **QUIET)
    gr.on([choice.input for choice in others], on_choice, [selection, see.view, *see.choices], shown, **QUIET)
    after(page.turned.change, on_choice, [selection, see.view, *see.choices], shown)
    for plot in (see.norms, page.forecast.plot, page.forecast.difference):
        plot.cell_select(on_cell, selection, [see.detail, see.histogram], **EACH)
    offer(see.save, see.unsaved, as_csv, selection, "text/csv")
