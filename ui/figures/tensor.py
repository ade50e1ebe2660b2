"""One tensor seen close: expert against expert, its directions, and a method's steps."""

from __future__ import annotations

import math

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from merging.lazy import torch
from merging.microscope import Scatter
from merging.spectra import Spectra
from merging.trace import Told
from merging.tracing import Trace
from ui.figures.looks import GRID, colour, plain, quiet

TINTS = ("#94a3b8", "#0072B2", "#E69F00", "#009E73")
SHAPES = ("circle-open", "triangle-up", "triangle-down", "diamond")
STEP = 96  # pixels of one step
MERGED = "#0f766e"


def scatter_figure(found: Scatter) -> go.Figure:
    """One expert's task vector against another's, entry by entry, by who of the two puts the entry into the merge."""
    one, other = (plain(name) for name in found.experts)
    first, second = found.tau.tolist()
    kept = found.kept.tolist() if found.kept is not None else [3] * len(first)
    dropped = bool((torch.tensor(kept) != (found.tau[0] != 0) + 2 * (found.tau[1] != 0)).any())
    word, by = ("kept", "of") if dropped else ("moved", "by")  # where none is dropped, what is not kept did not move
    titles = (f"{word} {by} neither", f"only {by} {one}", f"only {by} {other}", f"{word} {by} both")
    figure = go.Figure()
    for mark, title in enumerate(titles):
        at = [index for index, who in enumerate(kept) if who == mark]
        if at:
            figure.add_scatter(
                x=[first[i] for i in at], y=[second[i] for i in at], mode="markers",
                name=title if found.kept is not None else "entries",
                marker={"color": TINTS[mark], "symbol": SHAPES[mark], "size": 6, "opacity": 0.7},
                hovertemplate=f"{one} %{{x:.3g}}<br>{other} %{{y:.3g}}",
            )  # fmt: skip
    quiet(figure, 360)
    size = math.prod(found.shape)
    words = f"{len(first):,} of {size:,} entries" if len(first) < size else f"all {size:,} entries"
    figure.update_layout(
        showlegend=True, legend={"y": -0.22, "yanchor": "top"},  # in rows, as many as it takes
        title={"text": words, "font": {"size": 12}, "x": 0, "y": 1, "yanchor": "top", "pad": {"t": 8, "l": 8}},
    )  # fmt: skip
    figure.update_xaxes(title=one, zeroline=True, zerolinecolor=GRID)
    figure.update_yaxes(title=other, zeroline=True, zerolinecolor=GRID)
    return figure


def spectra_figure(found: Spectra, names: tuple[str, ...]) -> go.Figure:
    """The largest singular values of each expert's task vector; its stable rank stands beside its name."""
    figure, about = go.Figure(), "" if found.exact else "about "
    for index, (name, values, rank) in enumerate(
        zip(names, found.values.tolist(), found.stable_ranks.tolist(), strict=True)
    ):
        told = (
            f"{plain(name)}, stable rank {about}{rank:.3g}" if math.isfinite(rank) else f"{plain(name)}, did not move"
        )
        figure.add_scatter(
            x=list(range(1, len(values) + 1)), y=[value or None for value in values], name=told, mode="lines",
            line={"color": colour(index), "width": 2}, hovertemplate="%{y:.3g}",
        )  # fmt: skip
    quiet(figure, 260, hovermode="x unified")
    figure.update_xaxes(title="direction, the strongest first")
    figure.update_yaxes(title="singular value" if found.exact else "singular value, estimated", rangemode="tozero")
    return figure


def steps_figure(found: Trace, names: tuple[str, ...]) -> go.Figure:
    """A method's steps on some entries, one below the other: bars by entry, by expert, or by both."""
    shown = [told for told in found.steps if told.values.numel()]
    if not shown:
        return go.Figure()
    heights = [STEP] * len(shown)
    figure = make_subplots(
        len(shown), 1, subplot_titles=[f"{number}. {plain(told.label)}" for number, told in enumerate(shown, 1)],
        row_heights=heights, vertical_spacing=min(0.5 / len(shown), 46 / (len(shown) * (STEP + 46))),
    )  # fmt: skip
    places = [", ".join(map(str, pick.index)) or "0" for pick in found.picks]
    first = next((row for row, told in enumerate(shown, 1) if told.per.startswith("expert and")), 0)
    for row, told in enumerate(shown, 1):
        _step(figure, row, told, names, places, row == first)
    figure.update_layout(
        height=len(shown) * (STEP + 46) + 60, margin={"l": 64, "r": 8, "t": 50, "b": 40}, dragmode=False,
        barmode="group", bargap=0.25, showlegend=len(names) > 1,
        legend={"orientation": "h", "y": 1 + 34 / (len(shown) * (STEP + 46)), "x": 0, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False, tickfont={"size": 10}, tickangle=0)
    stacked = [place.replace(", ", "<br>") for place in places]  # rows above columns fit narrow pages, too
    for row, told in enumerate(shown, 1):
        if told.per.endswith("entry"):
            figure.update_xaxes(tickvals=places, ticktext=stacked, tickfont={"size": 9}, row=row, col=1)
    figure.update_yaxes(gridcolor=GRID, zeroline=True, zerolinecolor="rgba(128,128,128,.6)", nticks=4)
    figure.update_annotations(font={"size": 13}, x=0, xanchor="left")
    return figure


def _step(figure: go.Figure, row: int, told: Told, names: tuple[str, ...], places: list[str], legend: bool) -> None:
    hover = "%{y:.4g}<extra></extra>"
    values = told.values.tolist()
    if told.per in ("expert and entry", "expert and direction"):
        x = places if told.per == "expert and entry" else [str(n) for n in range(1, told.values.shape[1] + 1)]
        for index, (name, numbers) in enumerate(zip(names, values, strict=True)):
            figure.add_bar(
                x=x, y=_known(numbers), name=plain(name), legendgroup=name, showlegend=legend,
                marker={"color": colour(index)}, hovertemplate=f"{plain(name)} {hover}", row=row, col=1,
            )  # fmt: skip
    elif told.per == "expert":
        tints = [colour(index) for index in range(len(names))]
        figure.add_bar(
            x=[plain(name) for name in names], y=_known(values), marker={"color": tints}, showlegend=False,
            hovertemplate="%{x} " + hover, row=row, col=1, width=0.4,
        )  # fmt: skip
    else:
        x = (
            places
            if told.per == "entry"
            else ["all"]
            if told.per == "tensor"
            else [str(n + 1) for n in range(len(values))]
        )
        numbers = [values] if told.per == "tensor" else values
        figure.add_bar(
            x=x, y=_known(numbers), marker={"color": MERGED}, showlegend=False, row=row, col=1,
            hovertemplate=hover, width=0.3 if told.per == "tensor" else None,
        )  # fmt: skip


def _known(values: list[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
