"""Numbers over the depth of a model, a line for each expert or each setting."""

from __future__ import annotations

import math
from collections.abc import Mapping

import plotly.graph_objects as go

from ui.figures.looks import colour, plain, quiet

DASHES = ("solid", "dot", "dash", "dashdot")


def curves_figure(
    layers: list[str], curves: Mapping[str, list[float]], label: str, form: str = ".4g", height: int = 280
) -> go.Figure:
    """A line for each of the curves over the layers; NaN interrupts a line.

    Lines are told apart by colour, and from the ninth on by dashes, too; each layer has a mark while there are few.
    """
    figure = go.Figure()
    for index, (name, values) in enumerate(curves.items()):
        figure.add_scatter(
            x=layers,
            y=[float(f"{value:.5g}") if math.isfinite(value) else None for value in values],
            name=plain(name),
            mode="lines+markers" if len(layers) <= 40 else "lines",
            line={"color": colour(index), "width": 2, "dash": DASHES[index // 8 % len(DASHES)]},
            hovertemplate=f"%{{y:{form}}}",
        )
    quiet(figure, height, hovermode="x unified", showlegend=len(curves) > 1)
    figure.update_xaxes(title="layer", type="category", nticks=24)
    figure.update_yaxes(title=label, rangemode="tozero", tickformat="~g" if form.endswith("g") else ".0%")
    return figure


def energy_figure(densities: tuple[float, ...], curves: Mapping[str, list[float]], marked: float) -> go.Figure:
    """The share of each ‖τ‖² that the largest entries hold, against the share of entries that they are."""
    figure = go.Figure()
    for index, (name, values) in enumerate(curves.items()):
        figure.add_scatter(
            x=list(densities), y=[float(f"{value:.5g}") if math.isfinite(value) else None for value in values],
            name=plain(name), mode="lines", line={"color": colour(index), "width": 2}, hovertemplate="%{y:.1%}",
        )  # fmt: skip
    figure.add_vline(x=marked, line={"width": 1, "dash": "dot", "color": "#94a3b8"})
    quiet(figure, 260, hovermode="x unified", showlegend=len(curves) > 1)
    figure.update_xaxes(title="share of entries kept, largest first", tickformat=".0%", range=[0, 1])
    figure.update_yaxes(title="share of ‖τ‖² kept", tickformat=".0%", range=[0, 1.02])
    return figure
