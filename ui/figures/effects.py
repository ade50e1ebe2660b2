"""What a merge will do, over the depth of the model."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from merging.predictions import DECIDED, Prediction
from ui.figures.curves import curves_figure
from ui.figures.looks import MERGE, colour, quiet

KEPT = "Entries kept of each expert"
DECIDING = "Entries decided by one expert, by several, by none"
DISTANCE = "Distance of the merge from the base"
WEIGHTS = "Weight of each expert"
EFFECTS = (KEPT, DECIDING, DISTANCE, WEIGHTS)
# The tables that each is exact with; what is kept is averaged by entries that moved, which are counted with `decided`.
NEEDED = {KEPT: {"kept", "decided"}, DECIDING: {"decided"}, DISTANCE: {"norms"}, WEIGHTS: {"weights"}}
SHADES = {"none": "#94a3b8", "one": "#E69F00", "several": "#0072B2"}


def effect_figure(prediction: Prediction, names: tuple[str, ...], effect: str) -> go.Figure | None:
    """One of EFFECTS, layer by layer; `names` are the experts'. None where the model has no layers."""
    layers = prediction.by_layer()
    if not layers.names:
        return None
    rows = list(layers.names)
    if effect == DECIDING:
        return _decided(rows, layers)
    if effect == DISTANCE:
        own = (layers.expert_norms / layers.base_norms[:, None]).T.tolist()
        curves = {"merge": layers.relative.tolist(), **dict(zip(names, own, strict=True))}
        figure = curves_figure(rows, curves, "‖merged τ‖ / ‖W₀‖")
        figure.data[0].line.update(width=4, color=MERGE)
        for index, trace in enumerate(figure.data[1:]):  # in the colours that they have elsewhere
            trace.line.color = colour(index)
        return figure
    table, label, form = (layers.kept, "kept", ".0%") if effect == KEPT else (layers.weights, "weight", ".3g")
    return curves_figure(rows, dict(zip(names, table.T.tolist(), strict=True)), label, form)


def _decided(rows: list[str], layers: Prediction) -> go.Figure:
    figure = go.Figure()
    for index, name in enumerate(DECIDED):
        shares = [value if math.isfinite(value) else None for value in layers.decided[:, index].tolist()]
        figure.add_bar(
            x=rows, y=shares, name={"none": "no expert", "one": "one expert"}.get(name, name),
            marker={"color": SHADES[name], "line": {"width": 0}}, hovertemplate="%{y:.1%}",
        )  # fmt: skip
    quiet(figure, 280, barmode="stack", bargap=0.08, hovermode="x unified")
    figure.update_xaxes(title="layer", type="category", nticks=24)
    figure.update_yaxes(title="share of entries", tickformat=".0%", range=[0, 1])
    return figure
