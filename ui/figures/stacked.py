"""Panels that stand side by side, one below the other for where there is little room."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

NARROW = 400  # pixels: with less, panels stand below each other
TALLEST = 300  # pixels of a panel then
BAR, TITLE = 58, 26  # pixels below all panels, and above each group of them


def stacked(figure: go.Figure, parts: list[tuple[int, int]]) -> dict[str, Any]:
    """What of a figure's layout is another one then, for `plot_view.js`.

    Its traces come in groups, each below its title; `parts` are the heights of a group's panels, which have a bound,
    and the gaps below them.
    """
    heights, gaps = [min(height, TALLEST) for height, _ in parts], [gap for _, gap in parts]
    each = TITLE + sum(heights) + sum(gaps)
    height = each * (len(figure.data) // len(parts)) + BAR
    layout: dict[str, Any] = {"height": height, "margin": {"l": 48, "r": 12, "t": 0, "b": 0}}
    for index, trace in enumerate(figure.data):
        group, part = divmod(index, len(parts))
        top = height - group * each - TITLE - sum(heights[:part]) - sum(gaps[:part])
        down = {"domain": [(top - heights[part]) / height, top / height], "showticklabels": True}
        for axis, changed in ((trace.xaxis, {"domain": [0, 1]}), (trace.yaxis, down)):
            name = f"{axis[0]}axis{axis[1:]}"
            layout[name] = {**figure.layout[name].to_plotly_json(), **changed}
    layout["annotations"] = [
        {**title.to_plotly_json(), "x": 0.5, "y": (height - group * each - TITLE) / height}
        for group, title in enumerate(figure.layout.annotations)
    ]
    scale = figure.layout.coloraxis.to_plotly_json()
    layout["coloraxis"] = {**scale, "colorbar": _below(scale["colorbar"]["title"]["text"], BAR / height)}
    return layout


def _below(label: str, under: float) -> dict[str, Any]:
    return {
        "orientation": "h", "thickness": 12, "outlinewidth": 0, "len": 1, "xpad": 0, "ypad": 6, "x": 0.5,
        "xanchor": "center", "y": under, "yanchor": "top", "nticks": 6, "tickfont": {"size": 11},
        "title": {"text": label, "side": "bottom", "font": {"size": 12}},
    }  # fmt: skip
