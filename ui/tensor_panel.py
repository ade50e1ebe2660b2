"""A tensor under the microscope: experts against each other, directions, and what the method does, step by step."""

from __future__ import annotations

import html
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from merging.adapter import open_base, open_expert
from merging.adapter_tracing import trace_adapters
from merging.changes import changes
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.hub.room import using
from merging.lens import Lens, lens
from merging.methods.knots import BASIS
from merging.microscope import scatter
from merging.plan import Plan, plan
from merging.recent import Recent
from merging.recipe import Recipe
from merging.spectra import Spectra, spectra
from merging.tracing import Trace, trace
from ui.draft import Standing
from ui.errors import notice
from ui.figures.tensor import scatter_figure, spectra_figure, steps_figure
from ui.models_panel import Selection
from ui.plot_view import PlotView

CHOOSE = '<p class="caption">Click a cell of any heatmap to put its tensor under the microscope.</p>'

_found = Recent[Spectra](64)  # of all visitors: singular values follow from the files, whatever the settings are


@dataclass(frozen=True)
class Microscope:
    """The components of the view."""

    head: gr.HTML
    steps: PlotView
    one: gr.Dropdown
    other: gr.Dropdown
    scatter: PlotView
    spectra: PlotView
    aim: gr.State  # `Standing`: what the controls stood for, as far as the view was open then

    @property
    def shown(self) -> list[Any]:
        return [self.head, self.steps, self.scatter, self.spectra]


def tensor_panel() -> Microscope:
    head = gr.HTML(CHOOSE, elem_id="microscope", padding=False)
    steps = PlotView(label="The method's steps on some entries", empty="", elem_id="steps")
    with gr.Row():
        one = gr.Dropdown([], label="Expert", elem_id="scatter-one", filterable=False)
        other = gr.Dropdown([], label="Against", elem_id="scatter-other", filterable=False)
    against = PlotView(label="One expert's entries against another's", empty="", elem_id="scatter")
    values = PlotView(label="Singular values of the task vectors", empty="", elem_id="spectra")
    return Microscope(head, steps, one, other, against, values, gr.State(Standing()))


def pairs(selection: Selection) -> tuple[Any, Any]:
    """Which experts can be set against each other."""
    titles = [(name, index) for index, name in enumerate(selection.names)]
    return gr.Dropdown(titles, value=0 if titles else None), gr.Dropdown(
        titles, value=min(1, len(titles) - 1) if titles else None
    )


def look(
    selection: Selection, recipe: Recipe, name: str, one: int | None, other: int | None, stop: threading.Event
) -> Iterator[tuple[Any, ...]]:
    """What there is to see of a tensor, as it is found: values for `Microscope.shown`."""
    with using(selection.base, *selection.fitting):
        yield from _seen(selection, recipe, name, one, other, stop)


def _seen(
    selection: Selection, recipe: Recipe, name: str, one: int | None, other: int | None, stop: threading.Event
) -> Iterator[tuple[Any, ...]]:
    work = _plan(selection)
    if name not in work.merged:
        yield CHOOSE, None, None, None
        return
    having = tuple(selection.names[index] for index in work.merged[name])
    title = _title(work, name)
    shown: list[Any] = [title, gr.skip(), gr.skip(), gr.skip()]
    yield (title + notice("Looking …", "info"), *shown[1:])
    told = ""
    try:
        if recipe.settings().method.ranks:
            found, shown[2] = _of_adapters(selection, recipe, name, stop), None
        else:
            found, shown[2] = _of_models(selection, work, recipe, name, (one, other), stop)
        shown[1] = steps_figure(found, having) if found.steps else None
        told = _caption(found)
    except MergeError as error:
        told = notice(str(error), "info")
        shown[1:3] = None, None
    yield (title + told, *shown[1:])
    try:
        shown[3] = spectra_figure(_spectra(selection, work, name, stop), having)
    except MergeError:
        shown[3] = None  # no matrix
    yield (title + told, *(gr.skip(),) * 2, shown[3])


def _of_models(
    selection: Selection,
    work: Plan,
    recipe: Recipe,
    name: str,
    pair: tuple[int | None, int | None],
    stop: threading.Event,
) -> tuple[Trace, Any]:
    """The steps of a method that merges models, and a pair of experts entry by entry."""
    with closing(lens(work, recipe.settings(), name, stop)) as seen:
        return trace(seen, stop=stop), _scatter(seen, selection.names, *pair)


def _of_adapters(selection: Selection, recipe: Recipe, name: str, stop: threading.Event) -> Trace:
    """The steps of a method that makes one adapter of several."""
    found = changes([open_checkpoint(path) for path in selection.fitting], open_base(selection.base), alone=True)
    return trace_adapters(found, recipe.settings(), recipe.rank, name, stop=stop)


def against(selection: Selection, recipe: Recipe, name: str, one: int | None, other: int | None) -> Any:
    """Another pair of experts, entry by entry."""
    with using(selection.base, *selection.fitting):
        work = _plan(selection)
        if name not in work.merged:
            return None
        try:
            with closing(lens(work, recipe.settings(), name)) as seen:
                return _scatter(seen, selection.names, one, other)
        except MergeError:
            return None


def _spectra(selection: Selection, work: Plan, name: str, stop: threading.Event) -> Spectra:
    key = selection.key, name
    return _found.get(key) or _found.put(key, spectra(work, name, stop))


def _scatter(seen: Lens, names: tuple[str, ...], one: int | None, other: int | None) -> Any:
    """One expert's entries against another's; None where either lacks the tensor. `names` are all experts'."""
    if one is None or other is None or not {one, other} <= {*seen.work.merged[seen.name]}:
        return None
    return scatter_figure(replace(scatter(seen, one, other), experts=(names[one], names[other])))


def _plan(selection: Selection) -> Plan:
    base = open_base(selection.base)
    return plan(base, [open_expert(path, base) for path in selection.fitting])


def _title(work: Plan, name: str) -> str:
    shape = " × ".join(map(str, work.base.entries[name].shape)) or "a single number"
    return f'<h3>{html.escape(name)}</h3><p class="caption">{shape}</p>'


def _caption(found: Trace) -> str:
    """Which entries are shown, and what is not as exact or not as plain as it looks."""
    if all(pick.why == "unmoved" for pick in found.picks):
        return '<p class="caption">No expert moved an entry here.</p>'
    how = " Thresholds and norms are estimated from a sample of the model." if found.estimated else ""
    if any(told.label.endswith(BASIS) for told in found.steps):
        how += f" What is told{BASIS} is of the direction that most of an entry comes from."
    number = f"{len(found.picks)} entries" if len(found.picks) > 1 else "An entry"
    return (
        f'<p class="caption">{number} by row and column: the largest, some in conflict, some typical, small or '
        f"unmoved.{how}</p>"
    )
