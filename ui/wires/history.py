"""A merge of this visit is compared, repeated, noted on, reported on, or removed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from merging.apart import Apart, weights_apart
from merging.errors import MergeError, MergeStopped
from merging.history import differences
from merging.hub.room import using
from merging.progress import Step
from ui.downloads import offer
from ui.errors import notice, worded
from ui.events import PRIVATE, QUIET, after
from ui.history_panel import apart_figure, apart_in_words, changed, choices, chosen, listed, note_of
from ui.jobs import Job, announce, stoppable
from ui.merge_panel import progress
from ui.models_panel import Selection
from ui.pace import bar
from ui.page import Page
from ui.report_page import report_page
from ui.report_pictures import pictures_of
from ui.visit import Visit
from ui.wires.ends import stopper, wire_end, working
from ui.wires.recipes import Filling


def wire(page: Page, filling: Filling) -> None:
    past, visit = page.past, page.visit

    def on_repeat(now: Visit, one: int | None) -> tuple[Any, ...]:
        if one is None:
            return filling.unchanged()
        return filling.tried(lambda: now.history.of(one).recipe, f"Merge {one}")

    both, noted = [past.one, past.other], [past.note, past.count]
    after(visit.change, on_visit, [visit, *both, *noted], [past.listed, past.row, *both, *noted])
    past.one.input(on_choose, [visit, past.one], past.note, **QUIET)
    past.note.blur(on_note, [visit, past.one, past.note], visit, **QUIET)
    ran = past.compare.click(
        on_click, None, [past.compare, past.stop, past.said], queue=False, show_progress="hidden", **PRIVATE
    ).then(on_compare, [visit, *both], [past.said, past.apart], show_progress="hidden", **PRIVATE)
    wire_end(ran, past.compare, past.stop, past.said)
    past.stop.click(stopper("apart"), None, None, queue=False, **PRIVATE)
    past.repeat.click(on_repeat, [visit, past.one], filling.outputs, show_progress="hidden", **PRIVATE)
    left = [visit, past.said, past.apart, past.folder]
    past.delete.click(on_delete, [visit, past.one, past.folder], left, show_progress="hidden", **PRIVATE)
    offer(past.report, past.unsaved, on_report, [visit, page.models.selection, past.one, past.note], "text/html")


def on_visit(now: Visit, one: int | None, other: int | None, note: str, count: int) -> tuple[Any, ...]:
    history = now.history
    if history.count != count and note.strip() == note_of(history, one):
        one = other = None  # the new merge is chosen, unless a note is being written on another one
    before, (one, other) = one, chosen(history, one, other)
    noted = gr.skip() if one == before else note_of(history, one)
    return listed(history), *choices(history, one, other), noted, history.count


def on_choose(now: Visit, one: int | None) -> str:
    return note_of(now.history, one)


def on_note(now: Visit, one: int | None, note: str) -> Any:
    if note.strip() == note_of(now.history, one):
        return gr.skip()
    try:
        return replace(now, history=now.history.noted(one or 0, note))
    except MergeError:
        return gr.skip()  # it was removed from the list meanwhile


def on_click(request: gr.Request) -> tuple[Any, Any, str]:
    announce(request.session_hash or "", "apart")
    return *working(), bar(0, "Reading headers", "")


def on_compare(request: gr.Request, now: Visit, one: int | None, other: int | None) -> Iterator[tuple[Any, Any]]:
    with stoppable(request.session_hash or "", "apart") as stop:
        yield from _compared(now, one or 0, other or 0, stop)


def on_delete(now: Visit, one: int | None, folder: bool) -> tuple[Visit, str, None, bool]:
    """The list without it, and without what was drawn of it; the next one's folder is not deleted unasked."""
    try:
        return replace(now, history=now.history.without(one or 0, folder=folder)), "", None, False
    except MergeError as error:
        return now, notice(str(error)), None, False


def on_report(now: Visit, selection: Selection, one: int | None, note: str) -> tuple[str, str] | None:
    if one is None:
        return None
    told = now.history.of(one)
    pictures, missing = pictures_of(selection, told)
    text = report_page(told.recipe, told.report, pictures, when=told.when, note=note, missing=missing)
    return f"{told.report.out.name}.html", text


def _compared(now: Visit, one: int, other: int, stop: threading.Event) -> Iterator[tuple[str, Any]]:
    """How two merges differ in their recipes at once, and in their weights when they have been read."""
    table, started = "", time.monotonic()

    def work(tell: Callable[[Step], None]) -> Apart:
        with using(first.recipe.base, second.recipe.base):
            return weights_apart(first, second, tell, stop)

    if one == other:
        yield notice(f"Both are merge {one}. Choose another one to compare it with.", "info"), None
        return
    try:
        first, second = now.history.of(one), now.history.of(other)
        table = changed(differences(first.recipe, second.recipe), one, other)
        yield table + bar(0, "Reading headers", ""), None
        job = Job(work)
        for step in job:
            yield table + progress(step, time.monotonic() - started), None
        found = job.result()
    except MergeStopped:
        yield table + notice("Stopped.", "info"), None
    except (MergeError, OSError) as error:  # of the system: a folder was deleted meanwhile
        yield table + notice(worded(error)), None
    else:
        yield table + apart_in_words(found, one, other), apart_figure(found, one, other)
