"""What step 2 shows of a comparison: heatmaps, curves, matrices, a table, warnings, and one tensor from near."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gradio as gr
import plotly.graph_objects as go

from merging.compare import Comparison
from merging.errors import MergeError
from merging.lazy import torch
from merging.places import place
from merging.statistics.magnitudes import DENSITIES
from ui.comparing import known_comparison
from ui.errors import notice
from ui.figures.curves import curves_figure, energy_figure
from ui.figures.histogram import histogram_figure
from ui.figures.matrices import conflicts_figure, cosines_figure
from ui.measures import ABSOLUTE, KURTOSIS, MEAN, MEASURES, RELATIVE, TOP, UNMOVED, Measure, awaited, grouped, pairs_of
from ui.models_panel import Selection
from ui.plot_view import Words
from ui.plots import norms_figure
from ui.see_panel import COSINE, DRAWN, HEADS, KEPT, UNSORTED, WHOLE, WHOLE_MODEL

# What is told of a tensor from near, and how it is written.
NEAR = {
    "‖τ‖": (ABSOLUTE, ".4g"),
    "‖τ‖ / ‖W₀‖": (RELATIVE, ".2%"),
    "entries unmoved": (UNMOVED, ".1%"),
    "mean of τ": (MEAN, ".2g"),
    "kurtosis of τ": (KURTOSIS, ".3g"),
}
LATER = "Known when all is read"
SKIP = gr.skip()


class Look(NamedTuple):
    """Which view is open, and what is chosen in it."""

    view: str = "layers"
    measure: str = RELATIVE.title
    pair: str = COSINE
    kept: str = WHOLE
    where: str = WHOLE_MODEL
    sort: str = UNSORTED
    falling: bool = False


def draw_view(known: Comparison | None, experts: tuple[str, ...], look: Look, closed: Any = SKIP) -> tuple[Any, ...]:
    """What the open view shows of what is known so far, and what becomes of the others: values for `See.plots`."""
    if not known:
        return (None,) * len(DRAWN)
    draw: dict[str, Callable[[], Any]] = {
        "norms": lambda: draw_norms(known, experts, MEASURES[look.measure]),
        "curves": lambda: draw_curves(known, experts, MEASURES[look.measure]),
        "matrix": lambda: draw_pairs(known, experts, look.pair, look.kept, look.where),
        "energy": lambda: draw_energy(known, experts),
        "table": lambda: _table(known, experts, look),
    }
    return tuple(draw[plot]() if of == look.view else closed for plot, of in DRAWN.items())


def draw_energy(known: Comparison, experts: tuple[str, ...]) -> go.Figure | Words | None:
    """How much of each expert's ‖τ‖² is left at each density, over the whole model."""
    if not len(known.energies):
        return None
    if known.unread.any():
        return Words(f"{LATER}: the largest entries are those of the whole model.")
    return energy_figure(DENSITIES, dict(zip(experts, known.energies.tolist(), strict=True)), TOP)


def draw_norms(known: Comparison, experts: tuple[str, ...], measure: Measure) -> go.Figure:
    """A number per tensor and expert as heatmaps: layers and modules."""
    table = measure.table(known)
    return norms_figure(known.names, experts, table.tolist(), measure.label, known.gaps(table))


def draw_curves(known: Comparison, experts: tuple[str, ...], measure: Measure) -> go.Figure | None:
    """The same over the depth, a line per expert; None where the names tell of no layers."""
    rows = [place(name).row for name in known.names]
    layers = [row for row in dict.fromkeys(rows) if row]
    if not layers:
        return None
    groups = grouped(rows, layers)
    part = groups @ known.unread.double() > 0  # layers that are not read to their end
    table = measure.over(known, groups).masked_fill(part[:, None], torch.nan)
    curves = {expert: table[:, index].tolist() for index, expert in enumerate(experts)}
    return curves_figure(layers, curves, measure.label, measure.form)


def draw_pairs(known: Comparison, experts: tuple[str, ...], pair: str, kept: str, where: str) -> go.Figure | Words:
    """Experts against each other, before trimming or after it, in one layer or in the whole model.

    A layer that these models do not have stands for all of it.
    """
    density, where = KEPT[kept], _among(known, where)
    inside = torch.tensor([where in (WHOLE_MODEL, _where(name)) for name in known.names])
    there = inside & ~awaited(known, density)
    if not there.any():
        whole = density is not None and bool(known.unread.any())
        return Words(f"{LATER}: trimming ranks the entries of the whole model." if whole else "Not read yet.")
    found = pairs_of(known, density).of(there)
    title = pair.capitalize() + ("" if density is None else f"; each trimmed to density {density:g}")
    if there.sum() < inside.sum():
        title += f"; {there.sum()} of {inside.sum()} tensors so far"
    if pair == COSINE:
        return cosines_figure(experts, found.cosines[0].tolist(), title)
    return conflicts_figure(experts, found.rates[0].tolist(), title)


def places_of(known: Comparison | None, where: str) -> Any:
    """The layers, and what is outside them, to choose from; what was chosen stays if these models have it."""
    return gr.Dropdown([WHOLE_MODEL, *_places(known)], value=_among(known, where))


def _places(known: Comparison | None) -> dict[str, None]:
    return dict.fromkeys(map(_where, known.names if known else ()))


def _where(name: str) -> str:
    return place(name).row or place(name).module


def _among(known: Comparison | None, where: str) -> str:
    return where if where in _places(known) else WHOLE_MODEL


def _table(known: Comparison, experts: tuple[str, ...], look: Look) -> Any:
    rows, heads = _rows(known, experts), HEADS
    if look.sort in HEADS:
        column = HEADS.index(look.sort)
        rows = _sorted(rows, column, look.falling)
        order = sorted(range(len(HEADS)), key=lambda at: (at > 1, at != column))  # beside the names, and so in sight
        rows, heads = [[row[at] for at in order] for row in rows], [HEADS[at] for at in order]
    elif look.falling:
        rows.reverse()
    return gr.Dataframe(rows, headers=heads)


def _sorted(rows: list[list[Any]], column: int, falling: bool) -> list[list[Any]]:
    """The rows by one of their columns; what has no number there comes last, and layers are numbers."""

    def key(row: list[Any]) -> tuple[bool, Any]:
        cell = row[column]
        return (False, int(cell)) if isinstance(cell, str) and cell.isdigit() else (isinstance(cell, str), cell)

    there = [row for row in rows if row[column] not in (None, "")]
    return sorted(there, key=key, reverse=falling) + [row for row in rows if row[column] in (None, "")]


def _rows(known: Comparison, experts: tuple[str, ...]) -> list[list[Any]]:
    """The numbers of all tensors and experts that are read, a row for each pair: what is in the columns of HEADS."""
    tables = [measure.table(known).tolist() for measure in MEASURES.values()]
    there = (known.has & ~known.unread[:, None]).tolist()
    return [
        [expert, name, place(name).row, place(name).module, math.prod(known.shapes[at]), *_numbers(tables, at, column)]
        for at, name in enumerate(known.names)
        for column, expert in enumerate(experts)
        if there[at][column]
    ]


def _numbers(tables: list[list[list[float]]], tensor: int, expert: int) -> Iterator[float | None]:
    for table in tables:
        yield _short(table[tensor][expert])


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _pairs(known: Comparison, experts: tuple[str, ...]) -> tuple[list[list[Any]], list[str]]:
    """What each expert has in common with each other one, for the rows of the table: too wide for the page."""
    heads, tables = list[str](), list[tuple[int, Any]]()
    for density in (None, *known.trimmed) if len(experts) > 1 else ():
        found = pairs_of(known, density)
        at = "" if density is None else f" at density {density:g}"
        for words, table in (("cosine with", found.cosines.tolist()), ("in conflict with", found.rates.tolist())):
            heads += [f"{words} {other}{at}" for other in experts]
            tables += [(other, table) for other in range(len(experts))]
    rows = [
        [None if other == column else _short(table[row][column][other]) for other, table in tables]
        for row, column in known.has.nonzero().tolist()
    ]
    return rows, heads


def as_csv(selection: Selection) -> tuple[str, str] | None:
    """The table as a file: its name and its text."""
    known = known_comparison(selection)
    if not known and selection.ready:
        raise MergeError("These models are not read to their end. Download the table when they are.")
    if not known:
        return None
    pairs, others = _pairs(known, selection.names)
    rows = [row + more for row, more in zip(_rows(known, selection.names), pairs, strict=True)]
    text = io.StringIO()
    csv.writer(text).writerows([HEADS + others, *([_inert(cell) for cell in row] for row in rows)])
    return "task-vectors.csv", text.getvalue()


def _inert(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" else cell


def describe(selection: Selection) -> str:
    """What to know before merging: warnings, and how much did not move at all."""
    comparison = known_comparison(selection)
    if not comparison:
        return ""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(selection.names, comparison.still, strict=True))
    words = f'<p class="caption">Entries that did not move at all: {html.escape(shares)}.</p>'
    return "".join(notice(warning, "warning") for warning in comparison.warnings()) + words


def show_tensor(selection: Selection, name: str) -> tuple[str, go.Figure | None]:
    """One tensor from near: its numbers per expert, and how the entries of its task vectors are spread."""
    comparison = known_comparison(selection)
    if not comparison and selection.ready:
        return f'<h3>{html.escape(name)}</h3><p class="caption">{LATER}.</p>', None
    if not comparison or name not in comparison.names:
        return "", None
    index = comparison.names.index(name)
    shape = " × ".join(map(str, comparison.shapes[index])) or "a single number"
    rows = "".join(_cells(comparison, index, column, name) for column, name in enumerate(selection.names))
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Expert", *NEAR))
    table = (
        f'<div class="scroll"><table class="numbers"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
    title = f'<h3>{html.escape(name)}</h3><p class="caption">{shape} · ‖W₀‖ = {comparison.base_norms[index]:.4g}</p>'
    return title + table, _histogram(comparison, selection.names, index)


def _cells(comparison: Comparison, tensor: int, expert: int, name: str) -> str:
    """A row of the table: what is known of a tensor of one expert."""
    if not comparison.has[tensor, expert]:
        return f'<tr><td>{html.escape(name)}</td><td colspan="{len(NEAR)}">does not have this tensor</td></tr>'
    numbers = [(float(measure.table(comparison)[tensor, expert]), form) for measure, form in NEAR.values()]
    cells = "".join(f"<td>{'–' if math.isnan(number) else format(number, form)}</td>" for number, form in numbers)
    return f"<tr><td>{html.escape(name)}</td>{cells}</tr>"


def _histogram(comparison: Comparison, names: tuple[str, ...], index: int, bins: int = 61) -> go.Figure | None:
    group = comparison.probe.groups[index]
    tau, names = group.tau, tuple(names[expert] for expert in group.which)
    reach = float(tau.abs().max())
    if not 0 < reach < float("inf"):
        return None
    edges = torch.linspace(-reach, reach, bins + 1).tolist()
    size, looked = math.prod(comparison.shapes[index]), tau.shape[1]
    whole = size / looked  # entries that one of the probe stands for
    counted = "entries" if looked == size else f"entries, estimated from {looked:,}"
    counts = {n: (row.histc(bins, -reach, reach) * whole).tolist() for n, row in zip(names, tau, strict=True)}
    return histogram_figure(edges, counts, counted)
