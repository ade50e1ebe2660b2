"""A tensor under the microscope: experts against each other, directions, and what the method does, step by step."""

from __future__ import annotations

import html
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from merging.adapter import open_base, open_expert
from merging.errors import MergeError
from merging.lens import Lens, lens
from merging.microscope import histogram, scatter
from merging.plan import Plan, plan
from merging.recent import Recent
from merging.recipe import Recipe
from merging.spectra import Spectra, spectra
from merging.tracing import Pick, trace
from ui.draft import Standing
from ui.errors import notice
from ui.figures.tensor import histogram_figure, scatter_figure, spectra_figure, steps_figure
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
    work = _plan(selection)
    if name not in work.merged:
        yield CHOOSE, None, None, None
        return
    having = tuple(selection.names[index] for index in work.merged[name])
    title = _title(work, name)
    shown: list[Any] = [title, gr.skip(), gr.skip(), gr.skip()]
    yield (title + notice("Looking …", "info"), *shown[1:])
    words = []
    try:
        seen = lens(work, recipe.settings(), name, stop)
        try:
            found = trace(seen, stop=stop)
            shown[1] = steps_figure(found, having) if found.steps else None
            words.append(_estimated(found.estimated, found.picks))
            shown[2] = _scatter(seen, selection.names, one, other)
        finally:
            seen.close()
    except MergeError as error:
        words.append(notice(str(error), "info"))
        shown[1:3] = None, None
    yield (title + "".join(words), *shown[1:])
    try:
        shown[3] = spectra_figure(_spectra(selection, work, name, stop), having)
    except MergeError:
        shown[3] = None  # no matrix
    yield (title + "".join(words), *(gr.skip(),) * 2, shown[3])


def against(selection: Selection, recipe: Recipe, name: str, one: int | None, other: int | None) -> Any:
    """Another pair of experts, entry by entry."""
    work = _plan(selection)
    if name not in work.merged:
        return None
    try:
        seen = lens(work, recipe.settings(), name)
    except MergeError:
        return None
    try:
        return _scatter(seen, selection.names, one, other)
    finally:
        seen.close()


def _spectra(selection: Selection, work: Plan, name: str, stop: threading.Event) -> Spectra:
    key = selection.key, name
    return _found.get(key) or _found.put(key, spectra(work, name, stop))


def _scatter(seen: Lens, names: tuple[str, ...], one: int | None, other: int | None) -> Any:
    """One expert's entries against another's; None where either lacks the tensor. `names` are all experts'."""
    if one is None or other is None or not {one, other} <= {*seen.work.merged[seen.name]}:
        return None
    return scatter_figure(replace(scatter(seen, one, other), experts=(names[one], names[other])))


def entries(selection: Selection, name: str) -> Any:
    """How the entries of a tensor are spread; none where it is not merged, or not finite."""
    work = _plan(selection)
    if name not in work.merged:
        return None
    try:
        return histogram_figure(histogram(work, name), tuple(selection.names[index] for index in work.merged[name]))
    except MergeError:
        return None


def _plan(selection: Selection) -> Plan:
    base = open_base(selection.base)
    return plan(base, [open_expert(path, base) for path in selection.fitting])


def _title(work: Plan, name: str) -> str:
    shape = " × ".join(map(str, work.base.entries[name].shape)) or "a single number"
    return f'<h3>{html.escape(name)}</h3><p class="caption">{shape}</p>'


def _estimated(estimated: bool, picks: Sequence[Pick]) -> str:
    if all(pick.why == "unmoved" for pick in picks):
        return '<p class="caption">No expert moved an entry here.</p>'
    how = " Thresholds and norms are estimated from a sample of the model." if estimated else ""
    number = f"{len(picks)} entries" if len(picks) > 1 else "An entry"
    return (
        f'<p class="caption">{number} by row and column: the largest, some in conflict, some typical, small or '
        f"unmoved.{how}</p>"
    )
