"""Other models are chosen: they are read, compared, and drawn as far as that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from merging.compare import Comparison
from merging.errors import MergeError, MergeStopped
from ui.comparing import forget_left, known_comparison, left_comparison, make_comparison, unread
from ui.errors import notice, worded
from ui.events import PRIVATE, QUIET
from ui.jobs import stop
from ui.models_panel import Selection, read_models
from ui.page import Page
from ui.see_panel import DRAWN
from ui.views import Look, describe, draw_view, places_of
from ui.wires.ends import stopper

STOPPED = "Stopped. Press “Read them” to read these models after all, or choose others."
INCOMPLETE = "Stopped: what is drawn is incomplete. Press “Read them” to read these models to their end."


def buttons(reading: bool, unread: bool) -> tuple[Any, Any]:
    """Those beside the note: to stop the reading, and to read what is not read."""
    return gr.Button(visible=reading), gr.Button(visible=unread)


def filling(
    steps: Iterator[tuple[str, Comparison | None]], experts: tuple[str, ...], look: Callable[[], Look]
) -> Iterator[tuple[Any, ...]]:
    """Words for each step, and the open view as far as it is known: values for `See.plots`, and the places in it.

    A view that is opened is drawn of what is known by then. What others showed of other models is gone.
    """
    known, seen, still = None, None, (gr.skip(),) * len(DRAWN)
    for words, part in steps:
        first, known, now = not known, part or known, look()
        if not known or (not part and now == seen):
            yield words, *still, gr.skip()
            continue
        seen = now
        closed, places = (None, places_of(known, now.where)) if first else (gr.skip(), gr.skip())
        yield words, *draw_view(known, experts, now, closed), places


def wire(page: Page, looks: dict[str, Look]) -> Any:
    """The event after which the chosen models are known and drawn in step 2.

    `looks` tells of visitors whose models are being read which view is open.
    """
    see = page.see
    still = (gr.skip(),) * (len(see.plots) + 1)  # what is drawn, as it is
    readings: Counter[str] = Counter()  # how often each visitor chose models

    def on_leave(request: gr.Request) -> None:
        visitor = request.session_hash or ""
        readings.pop(visitor, None)
        looks.pop(visitor, None)
        forget_left(visitor)

    def on_models(request: gr.Request, selection: Selection, *given: Any) -> Iterator[tuple[Any, ...]]:
        """Read the weights, and fill the open view meanwhile; all else is drawn of them when they are read."""
        visitor = request.session_hash or ""
        looks[visitor] = Look(*given)
        readings[visitor] += 1
        mine, problem = readings[visitor], ""
        if not selection.ready:
            stop(visitor, "compare")
            yield "", "", None, *still, *buttons(False, False)
            return
        looked: tuple[Any, Any] = "", None  # into a tensor of other models
        try:
            steps = make_comparison(selection, visitor)
            for words, *drawn in filling(steps, selection.names, lambda: looks.get(visitor, Look())):
                if readings[visitor] != mine:  # what others show is not to be drawn over
                    break
                yield notice(words, "info"), *looked, *drawn, *buttons(True, False)
                looked = gr.skip(), gr.skip()
        except MergeStopped:
            problem = notice(INCOMPLETE if left_comparison(selection, visitor) else STOPPED, "info")
        except (MergeError, OSError) as error:
            problem = notice(worded(error))
        if readings[visitor] == mine:  # no others were chosen meanwhile
            yield problem or describe(selection), "", None, *still, *buttons(False, bool(problem))

    def on_draw(request: gr.Request, selection: Selection, *given: Any) -> tuple[Any, ...]:
        """Everything that is in sight; nothing of the last models stays where these could not be read."""
        visitor, look = request.session_hash or "", Look(*given)
        known = known_comparison(selection) or left_comparison(selection, visitor)
        if selection.ready and not known and not unread(selection, visitor):
            return still  # they are still being read
        return *draw_view(known, selection.names, look), places_of(known, look.where)

    look = [see.view, see.measure, see.pair, see.kept, see.where]
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
        [page.models.selection, *look],
        [see.note, see.detail, see.histogram, *see.plots, see.where, see.stop, see.read],
        **{**QUIET, "trigger_mode": "multiple"},
        concurrency_limit=4,
    )
    return read.then(
        on_draw,
        [page.models.selection, *look],
        [*see.plots, see.where],
        **PRIVATE,
        show_progress="hidden",
    )
