"""Step 2, See: norms of the task vectors, the weights each expert would have, and one tensor from near."""

from __future__ import annotations

import html
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from merging.adapter import open_base, open_expert
from merging.coefficients import coefficients
from merging.compare import Comparison, compare
from merging.errors import MergeError
from merging.lazy import torch
from merging.method import find_method
from merging.recipe import Recipe
from ui.errors import notice
from ui.jobs import Job, announce, running, stoppable
from ui.models_panel import Selection
from ui.plot_view import PlotView
from ui.plots import coefficients_figure, histogram_figure, norms_figure

ABSOLUTE, RELATIVE = "absolute ‖τ‖", "relative ‖τ‖ / ‖W₀‖"
KEEP = 8  # comparisons in memory, shared by all visitors: they follow from the files alone


@dataclass(frozen=True)
class See:
    """The components of the section."""

    norm: gr.Radio
    norms: PlotView
    note: gr.HTML
    detail: gr.HTML
    histogram: PlotView


@dataclass(frozen=True)
class Coefficients:
    """The components of the coefficient heatmap."""

    caption: gr.HTML
    plot: PlotView


def see_panel() -> See:
    with gr.Row(elem_classes="bar"):
        norm = gr.Radio([ABSOLUTE, RELATIVE], value=RELATIVE, label="Norm of the task vectors", elem_id="norm-kind")
    empty = "Choose a base and an expert that fits it, and the norms of its task vectors appear here."
    norms = PlotView(label="Norms of the task vectors by layer and module", empty=empty, elem_id="norms")
    note = gr.HTML(elem_id="see-note", padding=False)
    detail = gr.HTML(elem_id="tensor-detail", padding=False)
    histogram = PlotView(label="Entries of the chosen tensor", empty="", elem_id="tensor-histogram")
    return See(norm, norms, note, detail, histogram)


def coefficients_panel() -> Coefficients:
    caption = gr.HTML(elem_id="coefficients-note", padding=False)
    plot = PlotView(label="Merge coefficients by tensor and expert", empty="Nothing to weigh yet.", elem_id="weights")
    return Coefficients(caption, plot)


_known: OrderedDict[Any, Comparison] = OrderedDict()
_lock = threading.Lock()


def known_comparison(selection: Selection) -> Comparison | None:
    """The comparison of these models if it has been made."""
    with _lock:
        if selection.ready and selection.key in _known:
            _known.move_to_end(selection.key)
            return _known[selection.key]
    return None


def make_comparison(selection: Selection, visitor: str) -> Iterator[str]:
    """Compare the chosen models, telling how far that is; known_comparison has the result afterwards."""
    announce(visitor, "compare")
    with stoppable(visitor, "compare") as stop:
        if known_comparison(selection):
            return
        base = open_base(selection.base)
        experts = [open_expert(path, base) for path in selection.fitting]
        job = Job(lambda tell: compare(base, experts, lambda done, total: tell((done, total)), stop))
        for done, total in job:
            yield f"Reading the weights: {done} of {total} tensors"
        with _lock:
            _known[selection.key] = job.result()
            while len(_known) > KEEP:
                _known.popitem(last=False)


def comparison_of(selection: Selection, visitor: str) -> Comparison | None:
    """The comparison, made again if it has been put away meanwhile; none while it is being made."""
    if not selection.ready or running(visitor, "compare"):
        return None
    if not known_comparison(selection):
        list(make_comparison(selection, visitor))
    return known_comparison(selection)


def draw_norms(selection: Selection, kind: str) -> go.Figure | None:
    """The heatmap of norms, of the kind the switch says."""
    comparison = known_comparison(selection)
    if not comparison:
        return None
    relative = kind == RELATIVE
    table = comparison.relative if relative else comparison.norms
    label = "‖τ‖ / ‖W₀‖" if relative else "‖τ‖"
    return norms_figure(comparison.names, selection.names, table.tolist(), label, comparison.gaps(table))


def describe(selection: Selection) -> str:
    """What to know before merging: warnings, and how much did not move at all."""
    comparison = known_comparison(selection)
    if not comparison:
        return ""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(selection.names, comparison.still, strict=True))
    words = f'<p class="caption">Entries that did not move at all: {html.escape(shares)}.</p>'
    return "".join(notice(warning, "warning") for warning in comparison.warnings()) + words


def draw_coefficients(selection: Selection, recipe: Recipe, quick: bool) -> tuple[go.Figure | None, str, bool]:
    """The heatmap of coefficients, its caption, and whether it is exact.

    With `quick` an entrywise method is tried on fewer entries, to keep up with a moving slider.
    """
    comparison = known_comparison(selection)
    if not comparison:
        return None, "", True
    try:
        method, values, weights = recipe.checked()
        values["weight"] = torch.tensor(weights)
        probe = comparison.quick if quick else comparison.probe
        table = coefficients(method, values, comparison, probe)
    except MergeError as error:
        return None, notice(str(error)), True
    exact = not method.entrywise or probe.exact
    label = "effective weight" if method.entrywise else "coefficient"
    gaps = comparison.gaps(table)
    figure = coefficients_figure(comparison.names, selection.names, table.tolist(), label, gaps)
    return figure, _caption(recipe, exact, probe.share), exact


def _caption(recipe: Recipe, exact: bool, share: float) -> str:
    method = find_method(recipe.method)
    what = "weighs every entry; shown is Σ s·|τ| / Σ |τ|" if method.entrywise else "gives each tensor one number"
    how = "exact" if exact else f"estimated from 1 entry in {max(2, round(1 / share))}"
    return f'<p class="caption">{html.escape(method.title)} {what} · <b>{how}</b></p>'


def show_tensor(selection: Selection, name: str) -> tuple[str, go.Figure | None]:
    """One tensor from near: its numbers per expert, and how the entries of its task vectors are spread."""
    comparison = known_comparison(selection)
    if not comparison or name not in comparison.names:
        return "", None
    index = comparison.names.index(name)
    shape = " × ".join(map(str, comparison.shapes[index])) or "a single number"
    rows = "".join(_numbers(comparison, index, column, name) for column, name in enumerate(selection.names))
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Expert", "‖τ‖", "‖τ‖ / ‖W₀‖", "entries unmoved"))
    table = f'<table class="numbers"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    title = f'<h3>{html.escape(name)}</h3><p class="caption">{shape} · ‖W₀‖ = {comparison.base_norms[index]:.4g}</p>'
    return title + table, _histogram(comparison, selection.names, index)


def _numbers(comparison: Comparison, tensor: int, expert: int, name: str) -> str:
    """A row of the table: what is known of a tensor of one expert."""
    if not comparison.has[tensor, expert]:
        return f'<tr><td>{html.escape(name)}</td><td colspan="3">does not have this tensor</td></tr>'
    tables = ((comparison.norms, ".4g"), (comparison.relative, ".2%"), (comparison.zeros, ".1%"))
    numbers = [(float(table[tensor, expert]), form) for table, form in tables]
    cells = "".join(f"<td>{'–' if math.isnan(number) else format(number, form)}</td>" for number, form in numbers)
    return f"<tr><td>{html.escape(name)}</td>{cells}</tr>"


def _histogram(comparison: Comparison, names: tuple[str, ...], index: int, bins: int = 61) -> go.Figure | None:
    group = comparison.probe.groups[index]
    tau, names = group.tau, tuple(names[expert] for expert in group.which)
    reach = float(tau.abs().max())
    if not 0 < reach < float("inf"):
        return None
    edges = torch.linspace(-reach, reach, bins + 1).tolist()
    whole = math.prod(comparison.shapes[index]) / tau.shape[1]  # entries that one of the probe stands for
    counts = {n: (row.histc(bins, -reach, reach) * whole).tolist() for n, row in zip(names, tau, strict=True)}
    return histogram_figure(edges, counts)
