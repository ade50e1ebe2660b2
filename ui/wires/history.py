"""A merge of this visit is compared, repeated, reported on, or removed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from merging.apart import weights_apart
from merging.errors import MergeError, MergeStopped
from merging.history import differences
from ui.comparing import known_predictor, predicted
from ui.downloads import offer
from ui.errors import notice
from ui.events import PRIVATE, after
from ui.figures.effects import DECIDING, DISTANCE, effect_figure
from ui.forecast import weights_figure
from ui.history_panel import apart_figure, apart_in_words, changed, choices, listed
from ui.jobs import announce, stoppable
from ui.measures import RELATIVE
from ui.models_panel import Selection
from ui.page import Page
from ui.report_page import Picture, report_page
from ui.views import draw_norms
from ui.visit import Visit
from ui.wires.recipes import Filling


def wire(page: Page, filling: Filling) -> None:
    past, visit = page.past, page.visit

    def on_visit(now: Visit) -> tuple[Any, ...]:
        return listed(now.history), *choices(now.history)

    def on_compare(request: gr.Request, now: Visit, one: int | None, other: int | None) -> Iterator[tuple[Any, Any]]:
        if one is None or other is None:
            return
        try:
            first, second = now.history.of(one), now.history.of(other)
            table = changed(differences(first.recipe, second.recipe), one, other)
            yield table + notice("Reading both …", "info"), None
            visitor = request.session_hash or ""
            announce(visitor, "apart")
            with stoppable(visitor, "apart") as stop:
                found = weights_apart(first, second, stop=stop)
            yield table + apart_in_words(found), apart_figure(found)
        except MergeStopped:
            return
        except MergeError as error:
            yield notice(str(error)), None

    def on_repeat(now: Visit, one: int | None) -> tuple[Any, ...]:
        if one is None:
            return filling.unchanged()
        return filling.tried(lambda: now.history.of(one).recipe, f"Merge {one}")

    def on_delete(now: Visit, one: int | None, folder: bool) -> tuple[Visit, str]:
        try:
            return replace(now, history=now.history.without(one or 0, folder=folder)), ""
        except MergeError as error:
            return now, notice(str(error))

    def on_report(now: Visit, chosen: Selection, one: int | None) -> tuple[str, str] | None:
        if one is None:
            return None
        told = now.history.of(one)
        text = report_page(told.recipe, told.report, _pictures(chosen, told.recipe), when=told.when)
        return f"{told.report.out.name}.html", text

    after(visit.change, on_visit, visit, [past.listed, past.row, past.one, past.other])
    past.compare.click(
        on_compare, [visit, past.one, past.other], [past.said, past.apart], show_progress="hidden", **PRIVATE
    )
    past.repeat.click(on_repeat, [visit, past.one], filling.outputs, show_progress="hidden", **PRIVATE)
    past.delete.click(on_delete, [visit, past.one, past.folder], [visit, past.said], show_progress="hidden", **PRIVATE)
    offer(past.report, past.unsaved, on_report, [visit, page.models.selection, past.one], "text/html")


def _pictures(chosen: Selection, recipe: Any) -> list[Picture]:
    """What the page shows of a merge, where its models are still those on the page."""
    predictor = known_predictor(chosen)
    if not predictor or str(recipe.base) != chosen.base or tuple(map(str, recipe.experts)) != chosen.fitting:
        return []
    norms = draw_norms(predictor.comparison, chosen.names, RELATIVE)
    pictures = [Picture("How far each expert is from the base", norms, "Norms of task vectors over those of the base.")]
    try:
        found = predicted(chosen, recipe)
    except MergeError:
        return pictures
    makes = known_predictor(chosen, recipe.makes)
    if not found or not makes:
        return pictures
    if weights := weights_figure(found, chosen.names, makes.comparison):
        pictures.append(Picture("Merge coefficients", weights, "By tensor and expert."))
    for effect in (DISTANCE, DECIDING):
        if figure := effect_figure(found, chosen.names, effect):
            pictures.append(Picture(effect, figure, "Layer by layer."))
    return pictures
