"""Numbers about models as Plotly figures: norms by layer and module, and coefficients by tensor and expert."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.colors import get_colorscale
from plotly.subplots import make_subplots

from merging.places import Place, module_order, place
from ui.figures.looks import SCALE, SIGNED, plain
from ui.figures.sketch import Sketch
from ui.figures.stacked import NARROW, stacked

SPARSE = 10_000  # cells of a heatmap, most of which may be holes
COLUMNS = 3  # panels side by side
LEVEL = 36  # pixels of labels that do not stand upright
TALLEST = 560  # pixels of the coefficient heatmap, so that it can stay in sight beside the sliders
Trace = dict[str, Any]  # in Plotly's words
Row = tuple[str | None, Place | None]  # a tensor and its place, or neither between two layers
Gaps = dict[tuple[int, int], str]  # why there is no number, by the row and the column of the table
STEPS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # where the scale of coefficients may end: it must not jump about


@dataclass(frozen=True)
class Grid:
    """Where each tensor's cell is: rows are layers, columns modules; tensors outside the layers stand apart."""

    rows: list[str]
    modules: list[str]
    cells: dict[str, tuple[str, str]]  # a tensor's row and column
    apart: dict[str, str]  # a tensor outside the layers, and its label


def grid(names: tuple[str, ...]) -> Grid:
    """Sort tensors into layers and modules by their names."""
    places = {name: place(name) for name in names}
    inside = {name: at for name, at in places.items() if at.layer is not None}
    rows = list(dict.fromkeys(at.row for at in inside.values()))
    modules = sorted(dict.fromkeys(at.module for at in inside.values()), key=module_order)
    cells = {name: (at.row, at.module) for name, at in inside.items()}
    apart = {name: at.module for name, at in places.items() if at.layer is None}
    if len(rows) * len(modules) > max(SPARSE, 10 * len(names)):  # nearly all holes, and more than a page can hold
        return Grid([], [], {}, {name: name for name in names})
    return Grid(rows, modules, cells, apart)


def norms_figure(
    names: tuple[str, ...], experts: tuple[str, ...], table: list[list[float]], label: str, gaps: Gaps | None = None
) -> go.Figure:
    """One panel per expert on one colour scale: rows layers, columns modules; embeddings and head underneath.

    `table` has a row per tensor and a column per expert; NaN leaves a hole, which says why. Where a number is negative,
    the scale has zero in its middle. It brings another layout for where there is little room.
    """
    layout = grid(names)
    across = min(len(experts), COLUMNS)
    down = math.ceil(len(experts) / COLUMNS)
    tall = min(max(26 * len(layout.rows), 52), 620) if layout.rows else 0
    flat = 26 if layout.apart else 0
    heights = [height for height in (tall, flat) if height] * down
    gap = 24 + 6 * max(map(len, layout.modules), default=4)  # the labels under a panel stand upright
    height = sum(heights) + gap * len(heights) + 60
    figure = make_subplots(
        len(heights),
        across,
        row_heights=heights,
        horizontal_spacing=0.03 if across > 1 else 0,
        vertical_spacing=(gap / (height - 60)) if len(heights) > 1 else 0,
        subplot_titles=_titles(experts, across, down, per_panel=len(heights) // down),
    )
    figure.update_xaxes(type="category", ticks="", showgrid=False, tickfont={"size": 11}, tickangle=-90)
    figure.update_yaxes(type="category", ticks="", showgrid=False, tickfont={"size": 11})
    values = [value for row in table for value in row if math.isfinite(value)]
    signed = min(values, default=0.0) < 0
    top = max(map(abs, values), default=1.0) or 1.0
    known = told(names, table, label, gaps or {})
    for index, expert in enumerate(experts):
        mine = {name: row[index] for name, row in known.items()}
        first, column = index // COLUMNS * (len(heights) // down) + 1, index % COLUMNS + 1
        if tall:
            figure.add_trace(_layers(layout, mine, expert), first, column)
            figure.update_yaxes(autorange="reversed", showticklabels=column == 1, row=first, col=column)
        if flat:
            figure.add_trace(_apart(layout, mine, expert), first + bool(tall), column)
            figure.update_yaxes(showticklabels=False, row=first + bool(tall), col=column)
            figure.update_xaxes(tickangle=0, row=first + bool(tall), col=column)
    figure.update_layout(
        height=height,
        margin={"l": 48, "r": 12, "t": 34, "b": 26},
        coloraxis={
            "colorscale": SIGNED if signed else SCALE,
            "cmin": -top if signed else 0,
            "cmax": top,
            "colorbar": _bar(label, height - 60),
        },
        dragmode=False,
    )
    figure.update_annotations(font={"size": 13})
    below = [(room, gap) for room, gap in ((tall, gap), (flat, LEVEL)) if room]
    figure.update_layout(meta={"narrow": {"below": NARROW, "layout": stacked(figure, below)}})
    return figure


def _titles(experts: tuple[str, ...], across: int, down: int, per_panel: int) -> list[str]:
    titles = []
    for row in range(down):
        shown = [*experts[row * across : (row + 1) * across]]
        titles += [f"<b>{plain(expert)}</b>" for expert in shown] + [""] * (across - len(shown))
        titles += [""] * across * (per_panel - 1)
    return titles


def _bar(label: str, height: int) -> dict[str, Any]:
    bar = {"thickness": 12, "outlinewidth": 0, "lenmode": "pixels", "len": min(height, 320), "y": 1, "yanchor": "top"}
    return {**bar, "title": {"text": label, "side": "right"}, "tickfont": {"size": 11}}


class Told(NamedTuple):
    """A cell: its number, or None where there is none, and what is said of it."""

    number: float | None
    words: str


NOTHING = Told(None, "")  # where the models have no such tensor


def told(names: tuple[str, ...], table: list[list[float]], label: str, gaps: Gaps) -> dict[str, list[Told]]:
    def cell(value: float, at: tuple[int, int]) -> Told:
        if not math.isfinite(value):
            return Told(None, gaps.get(at, "no number"))
        return Told(float(f"{value:.5g}"), f"{value:.4g} {label}")

    return {
        name: [cell(value, (row, column)) for column, value in enumerate(values)]
        for row, (name, values) in enumerate(zip(names, table, strict=True))
    }


def _layers(layout: Grid, values: dict[str, Told], expert: str) -> Trace:
    found = {cell: name for name, cell in layout.cells.items()}
    names = [[found.get((row, module)) for module in layout.modules] for row in layout.rows]
    rows = [plain(_row_label(row)) for row in layout.rows]
    cells = [[values.get(name or "", NOTHING) for name in row] for row in names]
    return _heatmap(cells, [*map(plain, layout.modules)], rows, names, expert, ygap=1 if len(rows) <= 40 else 0)


def _apart(layout: Grid, values: dict[str, Told], expert: str) -> Trace:
    cells = [[values[name] for name in layout.apart]]
    return _heatmap(cells, [*map(plain, layout.apart.values())], [""], [list(layout.apart)], expert)


def _row_label(row: str) -> str:
    return f"layer {row}" if row.isdigit() else row


def _heatmap(cells: list[list[Told]], x: list[str], y: list[str], names: Any, expert: str, **extra: Any) -> Trace:
    where = "%{customdata}<br>" + f"{plain(expert)}: " if expert else "%{customdata}<br>%{x}: "
    return {
        "type": "heatmap",
        "z": [[cell.number for cell in row] for row in cells],
        "x": x,
        "y": y,
        "text": [[cell.words for cell in row] for row in cells],
        "customdata": names,
        "name": expert,
        "hovertemplate": f"{where}<b>%{{text}}</b><extra></extra>",
        "coloraxis": "coloraxis",
        "xgap": 1,
        "ygap": 1,
        **extra,
    }


def coefficients_figure(
    names: tuple[str, ...],
    experts: tuple[str, ...],
    table: list[list[float]],
    label: str,
    gaps: Gaps | None = None,
) -> Sketch:
    """Rows are tensors, layer by layer; columns are experts. NaN leaves a hole, which says why.

    Where a number is negative, the scale has zero in its middle.
    """
    rows = tensor_rows(names)
    height = _tall(rows)
    trace, holes = tensor_map(rows, experts, told(names, table, label, gaps or {}))
    ticks, texts = tensor_ticks(rows, height - 50)
    scale = {**scaled([table], STEPS), "colorbar": _bar(label, height - 48)}
    quiet = {"type": "category", "ticks": "", "showgrid": False}
    layout = {
        "height": height,
        "margin": {"l": 96, "r": 8, "t": 40, "b": 8},
        "coloraxis": scale,
        "dragmode": False,
        "shapes": holes,
        "xaxis": {**quiet, "side": "top", "tickfont": {"size": 12}},
        "yaxis": {**quiet, "autorange": "reversed", "tickvals": ticks, "ticktext": texts, "tickfont": {"size": 10}},
    }
    return Sketch([trace], layout)


def _tall(rows: list[Row]) -> int:
    return min(48 + 28 * len(rows), TALLEST)


def labels_each(names: tuple[str, ...]) -> bool:
    """Whether there is room for a label of each tensor beside its coefficients, or only of each layer."""
    rows = tensor_rows(names)
    return _roomy(rows, _tall(rows) - 50)


def _roomy(rows: list[Row], height: int) -> bool:
    return height / max(len(rows), 1) >= 11


def tensor_rows(names: tuple[str, ...]) -> list[Row]:
    """A row for each tensor, and an empty one between two layers."""
    rows: list[Row] = []
    for name in names:
        at = place(name)
        if rows and rows[-1][1] and rows[-1][1].row != at.row:
            rows.append((None, None))
        rows.append((name, at))
    return rows


def tensor_map(
    rows: list[Row], columns: tuple[str, ...], known: dict[str, list[Told]], **extra: Any
) -> tuple[Trace, list[dict[str, Any]]]:
    """A heatmap of these rows, whatever they are named in `known`, and the grounds of its holes."""
    cells = [known[name] if name else [NOTHING] * len(columns) for name, _ in rows]
    names = [[name] * len(columns) for name, _ in rows]
    places = [str(index) for index in range(len(rows))]
    gap = 1 if len(rows) < 120 else 0
    trace = _heatmap(cells, [plain(column) for column in columns], places, names, "", ygap=gap, xgap=2, **extra)
    return trace, _holes(cells)


def scaled(tables: list[list[list[float]]], steps: tuple[float, ...], signed: bool = False) -> dict[str, Any]:
    """The colours for all numbers of some tables; they end at one of `steps`, so that they do not jump about.

    They begin at 0, or where the numbers differ, and are all well above it, at a quarter of the end, a half or more.
    """
    values = [value for table in tables for row in table for value in row if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    signed, far = signed or low < 0, max(high, -low)
    reach = next((step for step in steps if step >= far), far)
    start = math.floor(4 * low / reach) * reach / 4 if high - low > reach / 50 else 0.0
    return {
        "colorscale": get_colorscale(SIGNED if signed else SCALE),
        "cmin": -reach if signed else start,
        "cmax": reach,
    }


def _holes(cells: list[list[Told]]) -> list[dict[str, Any]]:
    """A faint ground for cells without a number that say why, so that they are not taken for empty space."""
    wide = {row for row, told in enumerate(cells) if all(cell.number is None and cell.words for cell in told)}
    runs = [[row, row] for row in sorted(wide) if row - 1 not in wide]
    for run in runs:
        while run[1] + 1 in wide:
            run[1] += 1
    boxes = [(0, len(cells[first]) - 1, first, last) for first, last in runs]
    boxes += [
        (column, column, row, row)
        for row, told in enumerate(cells)
        for column, cell in enumerate(told)
        if row not in wide and cell.number is None and cell.words
    ]
    look = {"type": "rect", "layer": "below", "fillcolor": "rgba(128,128,128,.16)", "line": {"width": 0}}
    return [
        {**look, "x0": left - 0.5, "x1": right + 0.5, "y0": top - 0.5, "y1": bottom + 0.5}
        for left, right, top, bottom in boxes
    ]


def tensor_ticks(rows: list[Row], height: int) -> tuple[list[str], list[str]]:
    """A label for each tensor while they have the room; then for each layer; then for every so many."""
    if _roomy(rows, height):
        shown = [(str(i), f"{at.row} · {at.module}" if at.row else at.module) for i, (_, at) in enumerate(rows) if at]
    else:
        first = {at.row or at.module: i for i, (_, at) in reversed(list(enumerate(rows))) if at}
        layers = sorted((i, _row_label(row)) for row, i in first.items())
        every = math.ceil(len(layers) * 13 / height)
        shown = [(str(i), row) for i, row in layers[::every]]
    return [tick for tick, _ in shown], [plain(text) for _, text in shown]
