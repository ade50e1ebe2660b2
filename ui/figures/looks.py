"""What all figures share: colours that colour-blind eyes tell apart, quiet axes, and text without markup."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

SCALE = "Cividis"  # readable for colour-blind eyes, and in grey
SIGNED = "RdBu"
GRID = "rgba(128,128,128,.2)"
# Okabe and Ito's, which colour-blind eyes tell apart.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999"]
MERGE = "#64748B"  # which is no expert's


def colour(index: int) -> str:
    """The colour of an expert; the ninth has the first one's."""
    return COLOURS[index % len(COLOURS)]


def plain(text: str) -> str:
    """Text without the markup that Plotly would act on."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def quiet(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """The figure with light grid lines, a legend above it, and no dragging."""
    figure.update_layout(
        height=height,
        margin={"l": 56, "r": 8, "t": 34, "b": 44},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        dragmode=False,
        **layout,
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False)
    figure.update_yaxes(gridcolor=GRID, zeroline=False)
    return figure
