"""Weights are changed by hand: on the heatmap's cell that was chosen, or by a preset; and taken back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from merging.as_task_arithmetic import as_task_arithmetic
from merging.edits import PRESETS, Edit, Edits, applied, uneditable
from merging.errors import MergeError
from merging.places import place
from merging.recipe import Recipe
from ui.comparing import known_comparison, predicted
from ui.draft import Draft, converted
from ui.edit_panel import MODEL, Picked, chips, column_of, edit_of, numbers_of, row_of, shown, told
from ui.errors import notice
from ui.events import EACH, PRIVATE, QUIET, after, heard
from ui.method_panel import chosen as chosen_method
from ui.models_panel import Selection
from ui.page import Page
from ui.plots import labels_each


class Changes:
    """What is changed by hand, as recipes of the page allow it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def made(self, chosen: Selection, now: Draft, edit: Edit, values: tuple[Any, ...]) -> Any:
        known = known_comparison(chosen)
        if known and not edit.part.of(known.names):
            words = f"These models have no {edit.part.words}, so nothing would change. Choose another part."
            return refused(chosen, now, words)
        edits = now.edits.and_then(edit)
        try:
            self.page.recipe(chosen, (*values[:-1], replace(now, edits=edits)))
        except MergeError as error:
            return refused(chosen, now, str(error))
        return replace(now, edits=edits), *shown(chosen.by_path, edits)

    def on_apply(self, chosen: Selection, now: Draft, picked: Picked, *given: Any) -> Any:
        controls, values = given[:5], given[5:]
        edit = edit_of(picked, *controls, experts=chosen.fitting)
        if isinstance(edit, str):
            return refused(chosen, now, edit)
        return self.made(chosen, now, edit, values)

    def on_preset(self, chosen: Selection, now: Draft, preset: str | None, *values: Any) -> Any:
        if preset not in PRESETS:
            return (gr.skip(),) * 6
        return *self.made(chosen, now, PRESETS[preset], values), None

    def on_method(self, chosen: Selection, picked: Picked, *values: Any) -> tuple[Any, Any, Any]:
        """What is chosen, what stands in the way of changing weights with this method, and the way around."""
        if not chosen.ready:
            return told(picked), gr.skip(), gr.skip()
        try:
            words = uneditable(self.plain(chosen, values))
        except MergeError as error:
            words = str(error)
        return told(picked, words), gr.Button(visible="Turn it" in words), gr.Button(interactive=not words)

    def on_convert(self, chosen: Selection, *values: Any) -> Any:
        """The coefficients become weights; changes by hand stand on top of them, as they do on those of any recipe."""
        now: Draft = values[-1]
        try:
            recipe = self.plain(chosen, values)
            known = predicted(chosen, recipe)
            if not known:
                return (gr.skip(),) * 7
            found = as_task_arithmetic(recipe, known.weights.tolist(), known.names)
            applied(found, now.edits, known.names)
        except MergeError as error:
            return *(gr.skip(),) * 6, shown(chosen.by_path, now.edits, notice(str(error)))[0]
        weights = dict(zip(chosen.fitting, found.weights, strict=True))
        more = "Your changes stand on top of them" if now.edits.standing else "Change them now"
        words = notice(f"These are the same coefficients, as weights of task arithmetic. {more}.", "good")
        return (
            chosen_method(found.method),
            *(found.values[key] for key in ("lambda", "normalize")),
            json.dumps(weights),
            object(),
            converted(now),
            shown(chosen.by_path, now.edits, words)[0],
        )

    def plain(self, chosen: Selection, values: tuple[Any, ...]) -> Recipe:
        """The recipe without what was changed by hand."""
        return self.page.recipe(chosen, (*values[:-1], replace(values[-1], edits=Edits())))


def wire(page: Page) -> None:
    changes, editing, selection, draft = Changes(page), page.forecast.editing, page.models.selection, page.draft
    preset = [editing.picked, editing.part, editing.who]
    pressed: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}
    for plot in (page.see.norms, page.forecast.plot):
        plot.cell_select(on_pick, [selection, editing.picked], preset, **EACH)
        plot.line_select(on_line, [selection, editing.picked], [*preset, editing.section], **EACH)

    changing = [draft, editing.done, editing.undo, editing.redo, editing.reset]
    controls = [editing.part, editing.who, editing.change, editing.first, editing.last]
    editing.change.change(numbers_of, editing.change, [editing.first, editing.last], **QUIET)
    given = [selection, draft, editing.picked, *controls]
    page.with_form(heard(editing.apply.click), changes.on_apply, given, changing, **pressed)
    given, changed = [selection, draft, editing.preset], [*changing, editing.preset]
    page.with_form(heard(editing.preset.change), changes.on_preset, given, changed, **QUIET)
    for button, go in ((editing.undo, Edits.undo), (editing.redo, Edits.redo), (editing.reset, Edits.reset)):
        button.click(step(go), [selection, draft], changing, **pressed)

    known = page.merging.form
    method = known["method"]
    spoken, others = (
        [editing.said, editing.convert, editing.apply],
        heard([method.change, selection.change, editing.picked.change]),
    )
    page.with_form(others, changes.on_method, [selection, editing.picked], spoken, **QUIET)
    weights = [known["task_arithmetic.lambda"], known["task_arithmetic.normalize"], page.merging.weights]
    turned = [method, *weights, page.merging.filled, draft, editing.done]
    page.with_form(heard(editing.convert.click), changes.on_convert, [selection], turned, **pressed)

    after(selection.change, lambda before: (Picked(), *chips(Picked(), before)), editing.picked, preset)
    after(selection.change, _others, [selection, draft], changing)


def on_pick(chosen: Selection, before: Picked, event: gr.EventData) -> tuple[Any, ...]:
    picked = cell_of(chosen, event)
    return picked, *chips(picked, before)


def on_line(chosen: Selection, before: Picked, event: gr.EventData) -> tuple[Any, ...]:
    picked = line_of(chosen, event)
    return picked, *chips(picked, before), gr.Accordion(open=True) if picked.part else gr.skip()


def cell_of(chosen: Selection, event: gr.EventData) -> Picked:
    """A cell of the coefficients, whose columns are experts; or of the norms, whose panels are."""
    comparison, tensor = known_comparison(chosen), str(event.cell)
    if not comparison or tensor not in comparison.names:
        return Picked()
    column = chosen.names.index(event.panel) if event.panel in chosen.names else event.column
    known = isinstance(column, int) and 0 <= column < len(chosen.names)
    return Picked(tensor, chosen.fitting[column], chosen.names[column]) if known else Picked(tensor)


def line_of(chosen: Selection, event: gr.EventData) -> Picked:
    """What a label stands for. Panels are of the norms: without one, columns are experts, and rows may be tensors."""
    comparison, tensor = known_comparison(chosen), str(event.cell)
    if not comparison or tensor not in comparison.names or (event.panel and event.panel not in chosen.names):
        return Picked()
    if event.line == "row":
        alone = not event.panel and (labels_each(comparison.names) or not place(tensor).row)
        return row_of(tensor, alone=alone)
    if event.line == "column" and event.panel:
        return column_of(tensor)
    column = chosen.names.index(event.panel) if event.panel else event.column
    known = isinstance(column, int) and 0 <= column < len(chosen.names)
    return Picked("", chosen.fitting[column], chosen.names[column], MODEL) if known else Picked()


def step(go: Callable[[Edits], Edits]) -> Callable[..., Any]:
    """Back or forth, which is never refused: it may be the way out of changes that do not fit."""

    def on_step(chosen: Selection, now: Draft) -> tuple[Any, ...]:
        edits = go(now.edits)
        return replace(now, edits=edits), *shown(chosen.by_path, edits)

    return on_step


def refused(chosen: Selection, now: Draft, words: str) -> tuple[Any, ...]:
    return gr.skip(), *shown(chosen.by_path, now.edits, notice(words))


def _others(chosen: Selection, now: Draft) -> Any:
    """Other models: changes of tensors that they do not have would be wrong to keep unseen."""
    return now, *shown(chosen.by_path, now.edits)
