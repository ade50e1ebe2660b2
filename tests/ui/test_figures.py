"""Figures of every kind: a mark for each number, holes for what is not known, and no markup from names."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest
import torch

from merging.microscope import Scatter
from merging.spectra import Spectra
from merging.trace import Told
from merging.tracing import Pick, Trace
from ui.figures.compared import Side, compared_figure
from ui.figures.curves import curves_figure
from ui.figures.histogram import histogram_figure
from ui.figures.looks import COLOURS, colour
from ui.figures.matrices import conflicts_figure, cosines_figure
from ui.figures.tensor import scatter_figure, spectra_figure, steps_figure
from ui.plot_view import PlotView
from ui.plots import coefficients_figure, norms_figure

HOSTILE = ('<img src=x onerror="alert(1)">', "a&b")
NAN = math.nan


def scatter(kept: bool = True) -> Scatter:
    tau = torch.tensor([[0.1, -0.2, 0.3, 0.0], [0.0, 0.5, -0.1, 0.2]])
    return Scatter(HOSTILE, (2, 2), torch.arange(4), tau, torch.tensor([0, 1, 2, 3]) if kept else None)


def spectra(exact: bool = True) -> Spectra:
    values = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    return Spectra(HOSTILE, values, torch.tensor([1.1, NAN]), exact)


def trace() -> Trace:
    steps = (
        Told("base", "entry", torch.tensor([1.0, 2.0])),
        Told("<b>task vectors</b>", "expert and entry", torch.tensor([[0.1, -0.2], [NAN, 0.3]])),
        Told("norms", "expert", torch.tensor([1.0, math.inf])),
        Told("scale", "tensor", torch.tensor(0.5)),
        Told("directions", "expert and direction", torch.tensor([[3.0, 2.0, 1.0], [1.0, 0.5, 0.1]])),
        Told("nothing", "expert and entry", torch.zeros(2, 0)),
        Told("merged", "entry", torch.tensor([1.1, 2.2])),
    )
    picks = (Pick(0, (0, 0), "largest"), Pick(5, (1, 2), "typical"))
    return Trace("w", (2, 3), HOSTILE, picks, steps, True)


def sides(pairs: int) -> tuple[Side, Side, Side]:
    table = [[0.25, NAN], [NAN, 0.01]] * pairs
    held, now, differs = (Side(title, "w", table, {(0, 1): "why"}) for title in ("Held", "Now", "Now − held"))
    return held, now, differs


FIGURES: dict[str, Any] = {
    "curves": lambda: curves_figure(["0", "1", "2"], {name: [1.0, NAN, math.inf] for name in HOSTILE}, "‖τ‖"),
    "cosines": lambda: cosines_figure(HOSTILE, [[1.0, NAN], [NAN, 1.0]]),
    "conflicts": lambda: conflicts_figure(HOSTILE, [[0.0, 0.5], [0.5, NAN]]),
    "histogram": lambda: histogram_figure([0.0, 1.0, 2.0], {name: [0.0, 3.0] for name in HOSTILE}),
    "scatter": lambda: scatter_figure(scatter()),
    "plain scatter": lambda: scatter_figure(scatter(kept=False)),
    "spectra": lambda: spectra_figure(spectra(), HOSTILE),
    "steps": lambda: steps_figure(trace(), HOSTILE),
    "norms": lambda: norms_figure(
        (f"layers.0.{HOSTILE[0]}", HOSTILE[0]), HOSTILE, [[1.0, NAN], [math.inf, 2.0]], "norm"
    ),
    "coefficients": lambda: coefficients_figure(
        (f"layers.0.{HOSTILE[0]}", "b"), HOSTILE, [[1.0, NAN], [NAN, 2.0]], "c"
    ),
    "compared": lambda: compared_figure(("a", "b"), HOSTILE, sides(1)),
}


def texts(value: Any) -> list[str]:
    """All texts in JSON that Plotly draws; what is told to our own script alone, and no tooltip has, is not drawn."""
    if isinstance(value, dict):
        quiet = {"name"} if value.get("type") == "heatmap" else set()
        drawn = [part for key, part in value.items() if key not in {"customdata", "legendgroup", "template"} | quiet]
        return [text for part in drawn for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("make", FIGURES.values(), ids=list(FIGURES))
def test_a_figure_goes_to_the_browser_without_nan_and_without_markup_of_names(make: Any) -> None:
    figure = make()

    sent = json.loads(PlotView(label="x", empty="").postprocess(figure), parse_constant=pytest.fail)

    assert not [text for text in texts(sent["data"]) + texts(sent["layout"]) if "<img" in text or "a&b" in text]
    assert figure.layout.height <= 5000


def test_colours_come_again_only_after_all_were_used() -> None:
    assert len({colour(index) for index in range(8)}) == len(COLOURS) == 8
    assert colour(8) == colour(0)


@pytest.mark.parametrize("count", [1, 9, 20])
def test_lines_of_the_same_colour_have_other_dashes(count: int) -> None:
    figure = curves_figure(["0", "1"], {str(index): [1.0, 2.0] for index in range(count)}, "x")

    assert len({(line.line.color, line.line.dash) for line in figure.data}) == count
    assert figure.layout.showlegend == (count > 1)


def test_a_line_is_interrupted_where_there_is_no_number() -> None:
    figure = curves_figure(["0", "1", "2"], {"a": [0.25, NAN, 0.5]}, "share", ".0%")

    assert list(figure.data[0].y) == [0.25, None, 0.5]
    assert figure.layout.yaxis.tickformat == ".0%"


def test_marks_make_room_when_there_are_many_layers() -> None:
    few, many = (curves_figure([*map(str, range(count))], {"a": [1.0] * count}, "x").data[0].mode for count in (40, 41))

    assert (few, many) == ("lines+markers", "lines")


def test_a_matrix_says_each_number_while_there_is_room() -> None:
    small, large = (cosines_figure(tuple(map(str, range(n))), [[0.5] * n] * n) for n in (2, 12))

    assert small.data[0].text[0][1] == "0.500"
    assert (small.data[0].texttemplate, large.data[0].texttemplate) == ("%{text}", "")
    assert large.layout.height == 86 + 64 * 8
    assert (small.data[0].zmin, small.data[0].zmax) == (-1, 1)


def test_entries_are_told_apart_by_who_keeps_them() -> None:
    kept, plain = scatter_figure(scatter()), scatter_figure(scatter(kept=False))

    assert [(mark.x[0], mark.y[0]) for mark in kept.data] == [
        pytest.approx(pair) for pair in ((0.1, 0.0), (-0.2, 0.5), (0.3, -0.1), (0.0, 0.2))
    ]
    assert len({mark.marker.symbol for mark in kept.data}) == 4
    assert [mark.name for mark in kept.data][0::3] == ["kept of neither", "kept of both"]
    assert [(mark.name, len(mark.x)) for mark in plain.data] == [("entries", 4)]


def test_where_no_entry_is_dropped_they_are_told_apart_by_who_moves_them() -> None:
    tau = torch.tensor([[0.0, 0.1, 0.0, 0.2], [0.0, 0.0, 0.3, 0.4]])
    found = replace(scatter(), tau=tau, experts=("a", "b"))

    assert [mark.name for mark in scatter_figure(found).data] == [
        "moved by neither",
        "only by a",
        "only by b",
        "moved by both",
    ]


def test_a_matrix_has_no_zero_below_zero() -> None:
    figure = cosines_figure(("a", "b"), [[1.0, -0.0001], [-0.0006, 1.0]])

    assert [*figure.data[0].text] == [["1.000", "0.000"], ["-0.001", "1.000"]]


def test_the_legend_of_a_scatter_stands_below_it() -> None:
    legend = scatter_figure(scatter()).layout.legend

    assert (legend.orientation, legend.yanchor) == ("h", "top")
    assert legend.y < 0


def test_singular_values_stop_where_there_are_none() -> None:
    figure = spectra_figure(spectra(), ("a", "b"))

    assert [line.name for line in figure.data] == ["a, stable rank 1.1", "b, did not move"]
    assert list(figure.data[0].y) == [3.0, 1.0, None]


def test_every_step_has_a_row_but_one_without_numbers() -> None:
    figure = steps_figure(trace(), ("a", "b"))

    titles = [note.text for note in figure.layout.annotations]
    assert titles == [
        "1. base",
        "2. &lt;b&gt;task vectors&lt;/b&gt;",
        "3. norms",
        "4. scale",
        "5. directions",
        "6. merged",
    ]
    bars = [(bar.yaxis, tuple(bar.x), tuple(bar.y)) for bar in figure.data]
    assert bars[0] == ("y", ("0, 0", "1, 2"), (1.0, 2.0))
    assert bars[2] == ("y2", ("0, 0", "1, 2"), (None, pytest.approx(0.3)))
    assert bars[3] == ("y3", ("a", "b"), (1.0, None))
    assert bars[4][1:] == (("all",), (0.5,))
    assert bars[5][1] == ("1", "2", "3")
    assert sum(bool(bar.showlegend) for bar in figure.data) == 2  # each expert once


def test_steps_without_a_number_are_an_empty_figure() -> None:
    nothing = Trace("w", (2,), ("a",), (), (Told("base", "entry", torch.zeros(0)),), False)

    assert isinstance(steps_figure(nothing, ("a",)), go.Figure)


def test_what_is_estimated_says_so() -> None:
    exact, sketched = (spectra_figure(spectra(known), ("a", "b")) for known in (True, False))

    assert [figure.layout.yaxis.title.text for figure in (exact, sketched)] == [
        "singular value",
        "singular value, estimated",
    ]
    assert [figure.data[0].name for figure in (exact, sketched)] == ["a, stable rank 1.1", "a, stable rank about 1.1"]


def test_a_scatter_says_how_many_entries_it_shows() -> None:
    some, all_of_them = (scatter_figure(replace(scatter(), shape=shape)) for shape in ((2000, 3), (2, 2)))

    assert some.layout.title.text == "4 of 6,000 entries"
    assert all_of_them.layout.title.text == "all 4 entries"


def test_with_little_room_the_difference_stands_below_both_settings() -> None:
    figure = compared_figure(
        tuple(f"model.layers.{at}.mlp.up_proj.weight" for at in range(8)), ("one", "two"), sides(4)
    )

    wide, narrow = figure.layout, {**figure.layout.to_plotly_json(), **figure.layout.meta["narrow"]["layout"]}
    assert [wide[axis].domain[0] for axis in ("xaxis", "xaxis2", "xaxis3")] == pytest.approx([0, 0.34, 0.69], abs=0.02)
    assert wide.yaxis.domain == wide.yaxis2.domain
    assert narrow["xaxis3"]["domain"] == [0, 1]
    assert narrow["xaxis"]["domain"][1] < narrow["xaxis2"]["domain"][0]
    below, above = narrow["yaxis2"]["domain"], narrow["yaxis"]["domain"]
    assert 0 < below[0] < below[1] < above[0] < above[1] < 1
    assert narrow["yaxis2"]["showticklabels"]
    assert narrow["height"] > wide.height
    assert {shape.xref + shape.yref for shape in wide.shapes} == {"xy", "x2y", "x3y2"}


@pytest.mark.parametrize("experts", [("one",), ("one", "two", "three", "four", "five")])
@pytest.mark.parametrize("inside", [0, 6])
def test_with_little_room_the_experts_stand_below_each_other(experts: tuple[str, ...], inside: int) -> None:
    names = ("model.norm.weight", *(f"model.layers.{at}.mlp.up_proj.weight" for at in range(inside)))
    figure = norms_figure(names, experts, [[1.0] * len(experts)] * len(names), "norm")

    narrow = figure.layout.meta["narrow"]["layout"]
    parts = [tuple(f"{axis[0]}axis{axis[1:]}" for axis in (trace.xaxis, trace.yaxis)) for trace in figure.data]
    assert len(parts) == len(experts) * (2 if inside else 1)
    assert all(narrow[across]["domain"] == [0, 1] for across, _ in parts)
    assert all(narrow[down]["showticklabels"] for _, down in parts)
    edges = [edge for _, down in parts for edge in reversed(narrow[down]["domain"])]
    assert edges == sorted(edges, reverse=True)
    titles = [title["y"] for title in narrow["annotations"]]
    assert [title["text"] for title in narrow["annotations"]] == [f"<b>{expert}</b>" for expert in experts]
    assert titles == pytest.approx(edges[:: len(edges) // len(experts)])
    bar = narrow["coloraxis"]["colorbar"]
    assert (bar["orientation"], bar["title"]["text"]) == ("h", "norm")
    assert 0 < bar["y"] < edges[-1]
    assert narrow["coloraxis"]["cmax"] == figure.layout.coloraxis.cmax
