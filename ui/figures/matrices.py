"""Experts against experts: how alike their task vectors are, and how often their signs contradict each other."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from ui.figures.looks import SCALE, SIGNED, plain

CELL = 64  # pixels


def cosines_figure(experts: tuple[str, ...], table: list[list[float]], title: str = "") -> go.Figure:
    """Cosines between task vectors, (experts, experts); NaN leaves a hole. Each part of a title has a line."""
    return _matrix(experts, table, "cosine", ".3f", title, {"colorscale": SIGNED, "zmin": -1, "zmax": 1})


def conflicts_figure(experts: tuple[str, ...], table: list[list[float]], title: str = "") -> go.Figure:
    """Shares of entries that both moved, and in opposite directions; half of them is what chance gives."""
    return _matrix(experts, table, "in conflict", ".1%", title, {"colorscale": SCALE, "zmin": 0, "zmax": 1})


def _matrix(
    experts: tuple[str, ...], table: list[list[float]], what: str, form: str, title: str, scale: dict[str, object]
) -> go.Figure:
    names = [plain(expert) for expert in experts]
    known = [[value if math.isfinite(value) else None for value in row] for row in table]
    words = [["" if value is None else format(value, f"z{form}") for value in row] for row in known]
    lines = [plain(part.strip()) for part in title.split("; ")]
    figure = go.Figure(
        go.Heatmap(
            name=title, z=known, x=names, y=names, text=words, texttemplate="%{text}" if len(names) <= 8 else "",
            hovertemplate=f"%{{y}} and %{{x}}: <b>%{{text}}</b> {what}<extra></extra>",
            xgap=2, ygap=2, showscale=False, **scale,
        )
    )  # fmt: skip
    figure.update_layout(
        height=68 + 18 * len(lines) + CELL * max(2, min(len(names), 8)),
        margin={"l": 8, "r": 8, "t": 16 + 18 * len(lines), "b": 8},
        dragmode=False,
        title={"text": "<br>".join(lines), "font": {"size": 13}, "x": 0, "y": 1, "yanchor": "top", "pad": {"t": 6}},
    )
    figure.update_xaxes(type="category", side="top", ticks="", showgrid=False, automargin=True)
    figure.update_yaxes(type="category", autorange="reversed", ticks="", showgrid=False, automargin=True)
    return figure
