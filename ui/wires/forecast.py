"""Sliders move: what the merge will do follows at once from a part of the entries, and then from all at hand."""

from __future__ import annotations

import html
from dataclasses import replace
from typing import Any

import gradio as gr

from merging.crew import listening
from merging.edits import Edits
from merging.errors import MergeError, MergeStopped
from ui.comparing import known_comparison, unread, unseen
from ui.draft import Held, Standing
from ui.errors import notice
from ui.events import PRIVATE, QUIET, after, heard
from ui.forecast import draw_forecast
from ui.forecast_panel import NOT_HELD, VIEWS
from ui.held import in_words
from ui.models_panel import Selection
from ui.page import Page
from ui.sight import Sight

# What was drawn is painted before more is asked for, which keeps the browser busy.
PAINTED = "() => new Promise((done) => setTimeout(() => done([]), 150))"
STILL = (gr.skip(),) * (len(VIEWS) + 1)  # the plots and their caption, as they are
AT_ONCE: dict[str, Any] = {"preprocess": False, "queue": False}


class Drawing:
    """Draws what the merge will do for each visitor: what was asked for last, and nothing that is out of date."""

    def __init__(self, page: Page) -> None:
        self.page, self.sight = page, Sight()

    def heard(self, visitor: str, chosen: Selection, values: tuple[Any, ...]) -> Standing:
        self.sight.moves[visitor] += 1
        move = self.sight.moves[visitor]
        try:
            return Standing(self.page.recipe(chosen, values), "", move)
        except MergeError as error:
            return Standing(None, str(error), move)

    def draw(
        self, visitor: str, chosen: Selection, now: Standing, view: tuple[Any, ...], quick: bool = True
    ) -> tuple[Any, ...]:
        """The plots and their caption, or those that are there where something else was asked for meanwhile."""
        sight = self.sight
        mine = sight.ask(visitor) if quick else sight.asked(visitor)
        if not now.recipe:
            sight.show(visitor, now.move, view, True)
            return notice(now.problem) if now.problem else gr.skip(), *STILL[1:]
        key, effect, compared, held = view
        try:
            with listening(None if quick else sight.stopper(visitor)):
                *shown, exact = draw_forecast(chosen, now.recipe, key, effect, compared, held and held.recipe, quick)
        except MergeStopped:
            return STILL
        if sight.moves[visitor] != now.move or sight.asked(visitor) != mine:
            return STILL
        sight.show(visitor, now.move, view, exact or not quick)
        return tuple(shown)

    def on_leave(self, request: gr.Request) -> None:
        self.sight.leave(request.session_hash or "")

    def on_models(self, request: gr.Request, chosen: Selection, *given: Any) -> tuple[Any, ...]:
        visitor = request.session_hash or ""
        if chosen.ready and not known_comparison(chosen):
            words = unseen(chosen, visitor)
            if not words:
                return *STILL, gr.skip()  # they are still being read
            return notice(words, "info"), *(None,) * len(VIEWS), gr.skip()
        now = self.heard(visitor, chosen, given[4:])
        return *self.draw(visitor, chosen, now, given[:4]), now

    def on_move(self, request: gr.Request, chosen: Selection, *given: Any) -> tuple[Any, ...]:
        visitor = request.session_hash or ""
        if not known_comparison(chosen):
            return *waiting(chosen, visitor), gr.skip()
        now = self.heard(visitor, chosen, given[4:])
        shown = self.draw(visitor, chosen, now, given[:4])
        return *shown, now if self.sight.moves[visitor] == now.move else gr.skip()

    def on_rest(self, request: gr.Request, chosen: Selection, now: Standing, *view: Any) -> tuple[Any, ...]:
        """Draw exactly, and what was left out while other things were drawn, unless something has moved by then."""
        visitor, (*told, looked_at) = request.session_hash or "", view
        missing = unread(chosen, visitor)
        aimed = now if looked_at == "tensor" else gr.skip(), gr.Button(visible=True) if missing else gr.skip()
        done = self.sight.moves[visitor] != now.move or self.sight.shows(visitor, now.move, tuple(told))
        if done or not known_comparison(chosen):
            return *STILL, *aimed
        return *self.draw(visitor, chosen, now, tuple(told), quick=False), *aimed

    def on_choice(self, request: gr.Request, chosen: Selection, now: Standing, *view: Any) -> tuple[Any, ...]:
        visitor = request.session_hash or ""
        return self.draw(visitor, chosen, now, view) if known_comparison(chosen) else waiting(chosen, visitor)

    def on_view(
        self, request: gr.Request, chosen: Selection, now: Standing, event: gr.SelectData, *view: Any
    ) -> tuple[Any, ...]:
        key = next(key for key, title in VIEWS.items() if title == event.value)
        return key, *self.on_choice(request, chosen, now, key, *view)

    def on_hold(self, chosen: Selection, *values: Any) -> tuple[Held | None, str]:
        packed, draft = values
        try:
            recipe = self.page.recipe(chosen, values)
            plain = self.page.recipe(chosen, (packed, replace(draft, edits=Edits())))
            words = in_words(plain, by_hand=bool(draft.edits.standing))
        except MergeError as error:
            return None, notice(str(error))
        told = f"<b>Held:</b> {html.escape(words)}. What you change from now on is compared with it."
        return Held(recipe), f'<p class="caption">{told}</p>'


def waiting(chosen: Selection, visitor: str) -> tuple[Any, ...]:
    """What was drawn stays while models are read, and says so where nobody reads them."""
    words = unseen(chosen, visitor)
    return notice(words, "info") if words else gr.skip(), *STILL[1:]


def wire(page: Page, drawn: Any) -> None:
    """`drawn` is the event after which other models are known."""
    forecast, selection, drawing = page.forecast, page.models.selection, Drawing(page)
    plots = [forecast.caption, forecast.plot, forecast.effects, forecast.difference, forecast.text]
    events = [*_moves(page, drawing, drawn, [*plots, page.standing]), *_choices(page, drawing, plots)]
    given = [selection, page.standing, *_view(page), page.see.view]
    for event in events:  # what went past Gradio's queue does not tell of its states, so that it is asked
        calm = event.then(None, js=PAINTED, trigger_mode="multiple", **PRIVATE)
        rested = [*plots, page.see.microscope.aim, page.see.read]
        calm.then(drawing.on_rest, given, rested, concurrency_limit=2, **QUIET)
    holding = [forecast.held, forecast.holding]
    page.with_form(heard(forecast.hold.click), drawing.on_hold, [selection], holding, **QUIET)
    after(selection.change, lambda: (None, NOT_HELD), None, holding)
    page.demo.unload(drawing.on_leave)


def _view(page: Page) -> list[Any]:
    """What is looked at: the inputs that are one `view` together."""
    forecast = page.forecast
    return [forecast.view, forecast.effect, forecast.compared, forecast.held]


def _moves(page: Page, drawing: Drawing, drawn: Any, everything: list[Any]) -> list[Any]:
    """The events in which another recipe is drawn."""
    given, moved = [page.models.selection, *_view(page)], [part.change for part in (*page.controls, page.draft)]
    return [
        page.with_form(drawn, drawing.on_models, given, everything, **QUIET),
        page.with_form(heard(moved), drawing.on_move, given, everything, **QUIET, **AT_ONCE),
    ]


def _choices(page: Page, drawing: Drawing, plots: list[Any]) -> list[Any]:
    """The events in which the same recipe is drawn in another way."""
    forecast, known = page.forecast, [page.models.selection, page.standing]
    view = _view(page)
    chosen = [part.change for part in view[1:]]
    return [
        after(chosen, drawing.on_choice, [*known, *view], plots, **AT_ONCE),
        after(page.turned.change, drawing.on_choice, [*known, *view], plots),
        forecast.tabs.select(
            drawing.on_view, [*known, *view[1:]], [forecast.view, *plots], concurrency_limit=4, **QUIET
        ),
    ]
