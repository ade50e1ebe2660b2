"""Other models are chosen: they are read, compared, and drawn as far as that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from merging.compare import Comparison
from merging.errors import MergeError, MergeStopped
from ui.comparing import FAR, forget_left, known_comparison, left_comparison, make_comparison, unread
from ui.errors import notice, worded
from ui.events import PRIVATE, QUIET
from ui.jobs import announce, dismiss, stop
from ui.models_panel import Selection, choose
from ui.page import Page
from ui.plot_view import AWAY, READING, Words
from ui.see_panel import DRAWN
from ui.views import Look, describe, draw_view, places_of, show_tensor

STOPPED = "Stopped. Press “Read them” to read these models after all, or choose others."
INCOMPLETE = "Stopped: what is drawn is incomplete. Press “Read them” to read these models to their end."


def buttons(reading: bool, unread: bool) -> tuple[Any, Any]:
    """Those beside the note: to stop the reading, and to read what is not read."""
    return gr.Button(visible=reading), gr.Button(visible=unread)


def instead(words: Words, view: str) -> tuple[Any, ...]:
    """Words in place of the pictures of the open view, and nothing in the others: values for `See.plots`."""
    return tuple(words if of == view != "table" else None for of in DRAWN.values())


def filling(
    steps: Iterator[tuple[str, Comparison | None]], experts: tuple[str, ...], look: Callable[[], Look]
) -> Iterator[tuple[Any, ...]]:
    """Words for each step, and the open view as far as it is known: values for `See.plots`, and the places in it.

    A view that is opened is drawn of what is known by then, or says that this is being read. What others showed of
    other models is gone.
    """
    known, seen, still = None, None, (gr.skip(),) * len(DRAWN)
    for words, part in steps:
        first, known, now = not known, part or known, look()
        if not known and now != seen:
            seen = now
            yield words, *instead(READING, now.view), gr.skip()
            continue
        if not known or (not part and now == seen):
            yield words, *still, gr.skip()
            continue
        seen = now
        closed, places = (None, places_of(known, now.where)) if first else (gr.skip(), gr.skip())
        yield words, *draw_view(known, experts, now, closed), places


class Reading:
    """Reads and compares the models that each visitor chose; `looks` tells which view is open meanwhile."""

    def __init__(self, page: Page, looks: dict[str, Look]) -> None:
        self.page, self.looks = page, looks
        self.count: Counter[str] = Counter()  # how often each visitor chose models
        self.chosen = dict[str, Any]()  # the models that each visitor chose last, by what is read of them
        self.stopped = dict[str, Any]()  # those of which each visitor stopped the reading
        self.still = (gr.skip(),) * (len(page.see.plots) + 1)  # what is drawn, as it is

    def on_leave(self, request: gr.Request) -> None:
        visitor = request.session_hash or ""
        for kept in (self.count, self.chosen, self.stopped, self.looks):
            kept.pop(visitor, None)
        forget_left(visitor)

    def on_stop(self, request: gr.Request) -> None:
        """Stop, also for what the fields tell once more of the same models: they tell of a change more than once."""
        visitor = request.session_hash or ""
        self.stopped[visitor] = self.chosen.get(visitor)
        stop(visitor, "compare")

    def on_again(self, request: gr.Request) -> object:
        self.stopped.pop(request.session_hash or "", None)
        return object()

    def on_choose(self, request: gr.Request, base: str | None, experts: list[str] | None) -> Iterator[tuple[Any, Any]]:
        announce(request.session_hash or "", "compare")  # it begins as soon as their headers are read
        known = {Path(str(path)).name: str(path) for _, path in self.page.models.base.choices}
        yield from choose(base, experts, known)

    def on_models(self, request: gr.Request, selection: Selection, *given: Any) -> Iterator[tuple[Any, ...]]:
        """Read the weights, and fill the open view meanwhile; all else is drawn of them when they are read."""
        visitor = request.session_hash or ""
        self.looks[visitor] = Look(*given)
        self.count[visitor] += 1
        self.chosen[visitor] = selection.key
        if selection.here and self.stopped.get(visitor) != selection.key:
            self.stopped.pop(visitor, None)
            yield from self._read(visitor, selection)
            return
        dismiss(visitor, "compare")
        if selection.here:
            yield self._incomplete(visitor, selection), *self.still, *buttons(False, True)
            return
        words, shown = "", self.still
        if selection.far:
            words, shown = notice(FAR, "info"), (*instead(AWAY, self.looks[visitor].view), gr.skip())
        yield words, *shown, *buttons(False, False)

    def _read(self, visitor: str, selection: Selection) -> Iterator[tuple[Any, ...]]:
        mine, problem = self.count[visitor], ""
        try:
            steps = make_comparison(selection, visitor)
            for words, *drawn in filling(steps, selection.names, lambda: self.looks.get(visitor, Look())):
                if self.count[visitor] != mine:  # what others show is not to be drawn over
                    break
                yield notice(words, "info"), *drawn, *buttons(True, False)
        except MergeStopped:
            problem = self._incomplete(visitor, selection)
        except (MergeError, OSError) as error:
            problem = notice(worded(error))
        if self.count[visitor] == mine:  # no others were chosen meanwhile
            yield problem or describe(selection), *self.still, *buttons(False, bool(problem))

    @staticmethod
    def _incomplete(visitor: str, selection: Selection) -> str:
        return notice(INCOMPLETE if left_comparison(selection, visitor) else STOPPED, "info")

    def on_draw(self, request: gr.Request, selection: Selection, tensor: str, *given: Any) -> tuple[Any, ...]:
        """Everything that is in sight; nothing of the last models stays where these could not be read."""
        visitor, look = request.session_hash or "", Look(*given)
        apart = (gr.skip(),) * 2  # what is told of the tensor that was clicked, as it is
        known = known_comparison(selection)
        left = known or left_comparison(selection, visitor)
        if selection.far:
            return *instead(AWAY, look.view), gr.skip(), *apart
        if selection.ready and not left and not unread(selection, visitor):
            return *self.still, *apart  # they are still being read
        near = show_tensor(selection, tensor) if known and tensor else apart  # it was clicked before all was known
        return *draw_view(left, selection.names, look), places_of(left, look.where), *near


def wire(page: Page, looks: dict[str, Look]) -> Any:
    """The event after which the chosen models are known and drawn in step 2.

    `looks` tells of visitors whose models are being read which view is open.
    """
    see, models, reading = page.see, page.models, Reading(page, looks)
    look, filled = [see.view, *see.choices], [*see.plots, see.where]
    page.demo.unload(reading.on_leave)
    see.stop.click(reading.on_stop, None, None, queue=False, **PRIVATE)
    again = gr.State(None)
    see.read.click(reading.on_again, None, again, **QUIET)
    choosing = [models.base.change, models.experts.change, models.hub.fetched.change, again.change]
    chosen = gr.on(
        [page.demo.load, *choosing],
        reading.on_choose,
        [models.base, models.experts],
        [models.table, models.selection],
        **QUIET,
    )
    # Not `always_last`: choosing other models stops the reading of those that were chosen before.
    read = chosen.then(
        reading.on_models,
        [models.selection, *look],
        [see.note, *filled, see.stop, see.read],
        **{**QUIET, "trigger_mode": "multiple"},
        concurrency_limit=4,
    )
    return read.then(
        reading.on_draw,
        [models.selection, see.tensor, *look],
        [*filled, see.detail, see.histogram],
        **PRIVATE,
        show_progress="hidden",
    )
