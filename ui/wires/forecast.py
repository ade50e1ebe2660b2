"""Sliders move: what the merge will do follows at once from a part of the entries, and then from all at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import gradio as gr

from merging.errors import MergeError
from merging.method import ADAPTERS, METHODS
from ui.comparing import known_comparison, unread
from ui.draft import Held, Standing
from ui.errors import notice
from ui.events import QUIET, after
from ui.forecast import draw_forecast
from ui.forecast_panel import NOT_HELD, VIEWS
from ui.models_panel import Selection
from ui.page import Page

UNREAD = "These models are not read. Press “Read them” in step 2."
STILL = (gr.skip(),) * (len(VIEWS) + 1)  # the plots and their caption, as they are


def wire(page: Page, drawn: Any) -> None:
    """`drawn` is the event after which other models are known."""
    forecast, selection, standing = page.forecast, page.models.selection, page.standing
    # How often each visitor moved something, and the view that was last asked for; only to know what is stale.
    moves, views = Counter[str](), dict[str, tuple[Any, ...]]()
    rough = gr.State(Standing())  # what was drawn of a part of the entries

    def on_leave(request: gr.Request) -> None:
        moves.pop(request.session_hash or "", None)
        views.pop(request.session_hash or "", None)

    def heard(visitor: str, chosen: Selection, given: tuple[Any, ...], method: str = "") -> Standing:
        views[visitor], values = given[:4], given[4:]
        moves[visitor] += 1
        try:
            return Standing(page.recipe(chosen, values, method=method), "", moves[visitor])
        except MergeError as error:
            return Standing(None, str(error), moves[visitor])

    def draw(chosen: Selection, now: Standing, given: tuple[Any, ...], quick: bool = True) -> tuple[Any, ...]:
        """The plots and their caption, and what is left to draw exactly."""
        if not now.recipe:
            return notice(now.problem) if now.problem else gr.skip(), *STILL[1:], gr.skip()
        view, effect, compared, held = given
        *drawn, exact = draw_forecast(chosen, now.recipe, view, effect, compared, held and held.recipe, quick)
        return *drawn, gr.skip() if exact else now

    def fresh(visitor: str, now: Standing, view: tuple[Any, ...]) -> bool:
        """Whether nothing has moved since, and no other view was asked for."""
        return moves[visitor] == now.move and views.get(visitor) == view

    def waiting(chosen: Selection, visitor: str) -> tuple[Any, ...]:
        """What was drawn stays while models are read, and says so where nobody reads them."""
        return notice(UNREAD, "info") if unread(chosen, visitor) else gr.skip(), *STILL[1:]

    def on_models(request: gr.Request, chosen: Selection, *given: Any) -> tuple[Any, ...]:
        if chosen.ready and not known_comparison(chosen):
            if not unread(chosen, request.session_hash or ""):
                return *STILL, gr.skip(), gr.skip()  # they are still being read
            return notice(UNREAD, "info"), *(None,) * len(VIEWS), gr.skip(), gr.skip()
        now = heard(request.session_hash or "", chosen, given)
        return *draw(chosen, now, given[:4]), now

    def moving(method: str = "") -> Callable[..., tuple[Any, ...]]:
        def on_move(request: gr.Request, chosen: Selection, *given: Any) -> tuple[Any, ...]:
            visitor = request.session_hash or ""
            if not known_comparison(chosen):
                return *waiting(chosen, visitor), gr.skip(), gr.skip()
            now = heard(visitor, chosen, given, method)
            shown = draw(chosen, now, given[:4])
            if moves[visitor] != now.move:
                return *STILL, gr.skip(), gr.skip()
            # Where another view was asked for meanwhile, what is left to draw is drawn of that one.
            return (*shown, now) if views[visitor] == given[:4] else (*STILL, now, now)

        return on_move

    def on_rest(request: gr.Request, chosen: Selection, now: Standing, left: Standing, *view: Any) -> tuple[Any, ...]:
        """Draw exactly what was drawn from fewer entries, unless something has moved by then."""
        *told, looked_at = view
        missing = unread(chosen, request.session_hash or "")
        aimed = now if looked_at == "tensor" else gr.skip(), gr.Button(visible=True) if missing else gr.skip()
        if left.move != now.move or not known_comparison(chosen):  # it was drawn from all of them, or they are not read
            return *STILL, *aimed
        *shown, _ = draw(chosen, now, tuple(told), quick=False)
        return *(shown if fresh(request.session_hash or "", now, tuple(told)) else STILL), *aimed

    def on_choice(request: gr.Request, chosen: Selection, now: Standing, *view: Any) -> tuple[Any, ...]:
        if not known_comparison(chosen):
            return *waiting(chosen, request.session_hash or ""), gr.skip()
        views[request.session_hash or ""] = view
        shown = draw(chosen, now, view)
        return shown if fresh(request.session_hash or "", now, view) else (*STILL, gr.skip())

    def on_view(
        request: gr.Request, chosen: Selection, now: Standing, event: gr.SelectData, *view: Any
    ) -> tuple[Any, ...]:
        key = next(key for key, title in VIEWS.items() if title == event.value)
        return key, *on_choice(request, chosen, now, key, *view)

    def on_hold(chosen: Selection, *values: Any) -> tuple[Held | None, str]:
        try:
            recipe = page.recipe(chosen, values)
            title = recipe.settings().method.title
        except MergeError as error:
            return None, notice(str(error))
        return Held(recipe), f'<p class="caption">Held: {title}. Now move something.</p>'

    page.demo.unload(on_leave)
    choices: list[Any] = [forecast.effect, forecast.compared, forecast.held]
    plots = [forecast.caption, forecast.plot, forecast.effects, forecast.difference, forecast.text]
    view, everything = [forecast.view, *choices], [*plots, rough, standing]
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
    drawing.append(after(chosen, on_choice, [selection, standing, *view], [*plots, rough], **at_once))
    given, turned = [selection, standing, *choices], [forecast.view, *plots, rough]
    drawing.append(forecast.tabs.select(on_view, given, turned, concurrency_limit=4, **QUIET))
    given = [selection, standing, rough, *view, page.see.view]
    for event in drawing:  # what went past Gradio's queue does not tell of its states, so that it is asked
        event.then(on_rest, given, [*plots, page.see.microscope.aim, page.see.read], concurrency_limit=2, **QUIET)
    forecast.hold.click(on_hold, [selection, *page.form], [forecast.held, forecast.holding], **QUIET)
    after(selection.change, lambda: (None, NOT_HELD), None, [forecast.held, forecast.holding])
