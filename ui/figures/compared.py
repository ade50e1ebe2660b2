"""Two settings side by side and by how much they differ: three panels with the same rows, which are tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

from ui.figures.looks import plain
from ui.figures.sketch import Sketch
from ui.plots import STEPS, Gaps, Row, scaled, tensor_map, tensor_rows, tensor_ticks, told

ENDS = (0.01, 0.02, 0.05, 0.1, *STEPS)  # where a scale may end
NARROW = 360  # pixels: with less, the difference stands below the two settings
TALLEST = {False: 390, True: 300}  # pixels of a panel, where all three are side by side and where they are not
BETWEEN = 0.03  # of the width
BAR, TITLE = 58, 20  # pixels below and above a panel
LONGEST = 14  # characters of a name above a column
AXES = (("x", "y", "coloraxis"), ("x2", "y", "coloraxis"), ("x3", "y2", "coloraxis2"))
QUIET = {"type": "category", "ticks": "", "showgrid": False}


class Side(NamedTuple):
    """A panel: its title, what its numbers are, a row of them per tensor, and why some are not known."""

    title: str
    label: str
    table: list[list[float]]
    gaps: Gaps


def compared_figure(names: tuple[str, ...], columns: tuple[str, ...], sides: tuple[Side, Side, Side]) -> Sketch:
    """Two settings on one scale, and the third side, which is their difference, on its own.

    It brings another layout for where there is little room, which `plot_view.js` takes.
    """
    rows, traces, shapes = tensor_rows(names), [], []
    for side, (x, y, colours) in zip(sides, AXES, strict=True):
        known = told(names, side.table, side.label, side.gaps)
        trace, holes = tensor_map(rows, columns, known, meta=side.title, xaxis=x, yaxis=y)
        traces.append({**trace, "coloraxis": colours})
        shapes += [{**hole, "xref": x, "yref": y} for hole in holes]
    held, now, differs = (side.table for side in sides)
    scales = scaled([held, now], ENDS), scaled([differs], ENDS, signed=True)
    layout, narrow = (_layout(rows, columns, sides, scales, below) for below in (False, True))
    meta = {"narrow": {"below": NARROW, "layout": narrow}}
    return Sketch(traces, {**layout, "meta": meta, "shapes": shapes, "dragmode": False})


def _layout(
    rows: list[Row], columns: tuple[str, ...], sides: tuple[Side, ...], scales: tuple[Any, Any], below: bool
) -> dict[str, Any]:
    """Where the panels are, their titles and their colour bars: side by side, or the difference `below` both."""
    upright = len(columns) > 1
    short = [plain(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…") for name in columns]
    above = TITLE + (8 + 6 * min(max(map(len, columns)), LONGEST) if upright else 18)
    body = min(28 * len(rows), TALLEST[below])
    height = (above + body + BAR) * (2 if below else 1)
    tops = [height - above, body + BAR if below else height - above]  # of the two settings, and of their difference
    spread = [(top - body) / height for top in tops], [top / height for top in tops]
    downs = [[low, high] for low, high in zip(*spread, strict=True)]
    acrosses = [*_spread(2), [0.0, 1.0]] if below else _spread(3)
    ticks, texts = tensor_ticks(rows, body)
    across = {
        **QUIET, "side": "top", "tickfont": {"size": 11}, "tickangle": -90 if upright else 0,
        "tickvals": [*map(plain, columns)], "ticktext": short,
    }  # fmt: skip
    down = {**QUIET, "autorange": "reversed", "tickfont": {"size": 10}, "tickvals": ticks, "ticktext": texts}
    layout: dict[str, Any] = {
        "height": height,
        "margin": {"l": 54, "r": 8, "t": 0, "b": 0},
        "yaxis": {**down, "domain": downs[0], "anchor": "x"},
        "yaxis2": {**down, "domain": downs[1], "anchor": "x3", "showticklabels": below},
        "annotations": [],
    }
    for number, (side, span) in enumerate(zip(sides, acrosses, strict=True)):
        x, y, _ = AXES[number]
        layout[f"xaxis{x[1:]}"] = {**across, "domain": span, "anchor": y}
        middle, top = (span[0] + span[1]) / 2, (tops[number == 2] + above) / height
        title = {"text": f"<b>{side.title}</b>", "x": middle, "y": top}
        look = {"xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "top", "showarrow": False}
        layout["annotations"].append({**title, **look, "font": {"size": 12}})
    bars = [acrosses[0][0], acrosses[1][1]], acrosses[2]
    for which, (scale, span) in enumerate(zip(scales, bars, strict=True)):
        bar = _bar(sides[1 + which].label, span, (tops[which] - body) / height)
        layout[f"coloraxis{'2' if which else ''}"] = {**scale, "colorbar": bar}
    return layout


def _spread(count: int) -> list[list[float]]:
    """Where so many panels begin and end, of the width."""
    wide = (1 - BETWEEN * (count - 1)) / count
    return [[index * (wide + BETWEEN), index * (wide + BETWEEN) + wide] for index in range(count)]


def _bar(label: str, span: list[float], under: float) -> dict[str, Any]:
    """A colour bar that lies below its panels."""
    return {
        "orientation": "h", "thickness": 10, "outlinewidth": 0, "len": span[1] - span[0], "xpad": 0, "ypad": 6,
        "x": sum(span) / 2, "xanchor": "center", "y": under, "yanchor": "top", "nticks": 5, "tickfont": {"size": 10},
        "title": {"text": label, "side": "bottom", "font": {"size": 11}},
    }  # fmt: skip
