"""How the entries of one tensor's task vectors are spread."""

from __future__ import annotations

from itertools import pairwise

import plotly.graph_objects as go

from ui.figures.looks import GRID, colour, plain


def histogram_figure(edges: list[float], counts: dict[str, list[float]], counted: str = "entries") -> go.Figure:
    """A line per expert, on a logarithmic scale."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    figure = go.Figure()
    for index, (expert, count) in enumerate(counts.items()):
        figure.add_scatter(
            x=middles, y=[value or None for value in count], name=plain(expert), mode="lines",
            line={"color": colour(index), "width": 2, "shape": "hvh"}, hovertemplate="%{y:,} entries near %{x:.3g}",
        )  # fmt: skip
    figure.update_layout(
        height=242,
        margin={"l": 48, "r": 8, "t": 30, "b": 40},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hovermode="x",
        dragmode=False,
    )
    figure.update_xaxes(title="entry of the task vector", gridcolor=GRID, zeroline=False)
    figure.update_yaxes(type="log", title=counted, gridcolor=GRID, dtick=1)
    return figure
