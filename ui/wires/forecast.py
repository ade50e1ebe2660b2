"""Sliders move: what the merge will do follows at once from a part of the entries, and then from all at hand."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from threading import Event
from typing import Any

import gradio as gr

from merging.crew import listening
from merging.edits import Edits
from merging.errors import MergeError, MergeStopped
from merging.method import ADAPTERS, METHODS
from ui.comparing import known_comparison, unread, unseen
from ui.draft import Held, Standing
from ui.errors import notice
from ui.events import PRIVATE, QUIET, after
from ui.forecast import draw_forecast
from ui.forecast_panel import NOT_HELD, VIEWS
from ui.held import in_words
from ui.models_panel import Selection
from ui.page import Page

# What was drawn is painted before more is asked for, which keeps the browser busy.
PAINTED = "() => new Promise((done) => setTimeout(() => done([]), 150))"
STILL = (gr.skip(),) * (len(VIEWS) + 1)  # the plots and their caption, as they are


class Sight:
    """What each visitor asked to see, and sees: drawings end in another order than they were begun in."""

    def __init__(self) -> None:
        self.moves, self._asked = Counter[str](), Counter[str]()
        self._seen = dict[str, tuple[int, Any, bool]]()  # of which move, in which view, and whether exactly
        self._exact = dict[str, Event]()  # stops what draws exactly

    def ask(self, visitor: str) -> int:
        """A drawing that is begun, by number; the one begun last is the one that counts, and exact ones stop for it."""
        self.stopper(visitor).set()
        self._asked[visitor] += 1
        return self._asked[visitor]

    def stopper(self, visitor: str) -> Event:
        """What stops the exact drawing that is begun now, and has stopped the ones before."""
        before, now = self._exact.get(visitor), Event()
        self._exact[visitor] = now
        if before:
            before.set()
        return now

    def asked(self, visitor: str) -> int:
        return self._asked[visitor]

    def show(self, visitor: str, move: int, view: tuple[Any, ...], exact: bool) -> None:
        self._seen[visitor] = move, view, exact

    def shows(self, visitor: str, move: int, view: tuple[Any, ...]) -> bool:
        """Whether that is what the visitor sees, exactly."""
        return self._seen.get(visitor) == (move, view, True)

    def leave(self, visitor: str) -> None:
        for kept in (self.moves, self._asked, self._seen, self._exact):
            kept.pop(visitor, None)


def wire(page: Page, drawn: Any) -> None:
    """`drawn` is the event after which other models are known."""
    forecast, selection, standing = page.forecast, page.models.selection, page.standing
    sight = Sight()

    def on_leave(request: gr.Request) -> None:
        sight.leave(request.session_hash or "")

    def heard(visitor: str, chosen: Selection, values: tuple[Any, ...], method: str = "") -> Standing:
        sight.moves[visitor] += 1
        try:
            return Standing(page.recipe(chosen, values, method=method), "", sight.moves[visitor])
        except MergeError as error:
            return Standing(None, str(error), sight.moves[visitor])

    def draw(
        visitor: str, chosen: Selection, now: Standing, view: tuple[Any, ...], quick: bool = True
    ) -> tuple[Any, ...]:
        """The plots and their caption, or those that are there where something else was asked for meanwhile."""
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

    def waiting(chosen: Selection, visitor: str) -> tuple[Any, ...]:
        """What was drawn stays while models are read, and says so where nobody reads them."""
        words = unseen(chosen, visitor)
        return notice(words, "info") if words else gr.skip(), *STILL[1:]

    def on_models(request: gr.Request, chosen: Selection, *given: Any) -> tuple[Any, ...]:
        visitor = request.session_hash or ""
        if chosen.ready and not known_comparison(chosen):
            words = unseen(chosen, visitor)
            if not words:
                return *STILL, gr.skip()  # they are still being read
            return notice(words, "info"), *(None,) * len(VIEWS), gr.skip()
        now = heard(visitor, chosen, given[4:])
        return *draw(visitor, chosen, now, given[:4]), now

    def moving(method: str = "") -> Callable[..., tuple[Any, ...]]:
        def on_move(request: gr.Request, chosen: Selection, *given: Any) -> tuple[Any, ...]:
            visitor = request.session_hash or ""
            if not known_comparison(chosen):
                return *waiting(chosen, visitor), gr.skip()
            now = heard(visitor, chosen, given[4:], method)
            shown = draw(visitor, chosen, now, given[:4])
            return *shown, now if sight.moves[visitor] == now.move else gr.skip()

        return on_move

    def on_rest(request: gr.Request, chosen: Selection, now: Standing, *view: Any) -> tuple[Any, ...]:
        """Draw exactly, and what was left out while other things were drawn, unless something has moved by then."""
        visitor, (*told, looked_at) = request.session_hash or "", view
        missing = unread(chosen, visitor)
        aimed = now if looked_at == "tensor" else gr.skip(), gr.Button(visible=True) if missing else gr.skip()
        done = sight.moves[visitor] != now.move or sight.shows(visitor, now.move, tuple(told))
        if done or not known_comparison(chosen):
            return *STILL, *aimed
        return *draw(visitor, chosen, now, tuple(told), quick=False), *aimed

    def on_choice(request: gr.Request, chosen: Selection, now: Standing, *view: Any) -> tuple[Any, ...]:
        if not known_comparison(chosen):
            return waiting(chosen, request.session_hash or "")
        return draw(request.session_hash or "", chosen, now, view)

    def on_view(
        request: gr.Request, chosen: Selection, now: Standing, event: gr.SelectData, *view: Any
    ) -> tuple[Any, ...]:
        key = next(key for key, title in VIEWS.items() if title == event.value)
        return key, *on_choice(request, chosen, now, key, *view)

    def on_hold(chosen: Selection, *values: Any) -> tuple[Held | None, str]:
        *form, draft = values
        try:
            recipe = page.recipe(chosen, values)
            plain = page.recipe(chosen, (*form, replace(draft, edits=Edits())))
            words = in_words(plain, by_hand=bool(draft.edits.standing))
        except MergeError as error:
            return None, notice(str(error))
        told = f"<b>Held:</b> {html.escape(words)}. What you change from now on is compared with it."
        return Held(recipe), f'<p class="caption">{told}</p>'

    page.demo.unload(on_leave)
    choices: list[Any] = [forecast.effect, forecast.compared, forecast.held]
    plots = [forecast.caption, forecast.plot, forecast.effects, forecast.difference, forecast.text]
    view, everything = [forecast.view, *choices], [*plots, standing]
    at_once: dict[str, Any] = {"preprocess": False, "queue": False}
    form = page.merging.form
    drawing = [drawn.then(on_models, [selection, *view, *page.form], everything, **QUIET)]
    for method in METHODS | ADAPTERS:
        if controls := [part.change for key, part in form.items() if key.startswith(f"{method}.")]:
            given = [selection, *view, *page.form_of(method)]
            drawing.append(after(controls, moving(method), given, everything, **at_once))
    others: list[Any] = [*(part for key, part in form.items() if "." not in key), page.merging.weights, page.draft]
    given = [selection, *view, *page.form]
    drawing.append(after([part.change for part in others], moving(), given, everything, **at_once))
    chosen = [part.change for part in choices]
    drawing.append(after(chosen, on_choice, [selection, standing, *view], plots, **at_once))
    drawing.append(after(page.turned.change, on_choice, [selection, standing, *view], plots))
    given, turned = [selection, standing, *choices], [forecast.view, *plots]
    drawing.append(forecast.tabs.select(on_view, given, turned, concurrency_limit=4, **QUIET))
    given = [selection, standing, *view, page.see.view]
    for event in drawing:  # what went past Gradio's queue does not tell of its states, so that it is asked
        calm = event.then(None, js=PAINTED, trigger_mode="multiple", **PRIVATE)
        calm.then(on_rest, given, [*plots, page.see.microscope.aim, page.see.read], concurrency_limit=2, **QUIET)
    forecast.hold.click(on_hold, [selection, *page.form], [forecast.held, forecast.holding], **QUIET)
    after(selection.change, lambda: (None, NOT_HELD), None, [forecast.held, forecast.holding])
