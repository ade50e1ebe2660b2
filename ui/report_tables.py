"""The numbers of a figure as tables: what is drawn, for those who read it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from ui.figures.sketch import Sketch


@dataclass(frozen=True)
class Table:
    """Heads and rows of text; the first cell of a row names it."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def tables_of(figure: go.Figure | Sketch) -> list[Table]:
    """A table for each heatmap of a figure, and one for all its lines and bars together."""
    told = json.loads(figure.to_json())
    cells = [_of_cells(trace) for trace in told["data"] if trace["type"] == "heatmap"]
    points = [trace for trace in told["data"] if trace["type"] != "heatmap"]
    return [*cells, *([_of_points(points, told["layout"])] if points else [])]


def _of_cells(trace: dict[str, Any]) -> Table:
    words = trace.get("text") or [[]] * len(trace["z"])
    rows = [
        [
            _name(trace, row),
            *(_shown(told[column] if value is None and told else value) for column, value in enumerate(line)),
        ]
        for row, (line, told) in enumerate(zip(trace["z"], words, strict=True))
    ]
    heads = ["", *map(_shown, trace["x"])]
    return Table(_shown(trace.get("name")), heads, [row for row in rows if row[0]])


def _name(trace: dict[str, Any], row: int) -> str:
    """What a row is of: a layer of an expert, or a tensor; empty for the gap between two layers."""
    if trace.get("name") or not trace.get("customdata"):
        return _shown(trace["y"][row]) or "outside the layers"
    return next((_shown(name) for name in trace["customdata"][row] if name), "")


def _of_points(traces: list[dict[str, Any]], layout: dict[str, Any]) -> Table:
    def axis(which: str) -> str:
        return _shown((layout.get(which, {}).get("title") or {}).get("text"))

    places = list(dict.fromkeys(x for trace in traces for x in trace["x"]))
    values = [dict(zip(trace["x"], trace["y"], strict=True)) for trace in traces]
    heads = [axis("xaxis"), *(_shown(trace.get("name")) or axis("yaxis") for trace in traces)]
    rows = [[_shown(place), *(_shown(known.get(place)) for known in values)] for place in places]
    return Table(axis("yaxis"), heads, rows)


def _shown(value: Any) -> str:
    """A number to five digits, or a text without the markup that Plotly would act on."""
    if isinstance(value, float):
        return f"{value:.5g}"
    text = re.sub(r"<[^>]*>", "", "" if value is None else str(value))
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
