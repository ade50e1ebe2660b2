"""Figures from numbers: empty, one-layer and 80-layer models all have every tensor in its place."""

from __future__ import annotations

import math

import pytest

from ui.figures.histogram import histogram_figure
from ui.plots import TALLEST, coefficients_figure, grid, norms_figure


def llama(layers: int) -> tuple[str, ...]:
    modules = ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "input_layernorm")
    inside = (f"model.layers.{i}.{module}.weight" for i in range(layers) for module in modules)
    return ("model.embed_tokens.weight", *inside, "model.norm.weight", "lm_head.weight")


def test_layers_are_rows_modules_are_columns_and_the_rest_stands_apart() -> None:
    layout = grid(llama(2))

    assert layout.rows == ["0", "1"]
    assert layout.modules == ["q", "k", "up", "attn norm"]
    assert layout.cells["model.layers.1.mlp.up_proj.weight"] == ("1", "up")
    assert list(layout.apart.values()) == ["embed", "final norm", "head"]


@pytest.mark.parametrize("layers", [0, 1, 80])
@pytest.mark.parametrize("experts", [1, 3, 5])
def test_every_tensor_of_every_expert_has_one_cell_with_its_number(layers: int, experts: int) -> None:
    names = llama(layers)
    table = [[10.0 * row + column for column in range(experts)] for row in range(len(names))]

    figure = norms_figure(names, tuple(f"e{i}" for i in range(experts)), table, "norm")

    shown = {
        (trace.name, name): number
        for trace in figure.data
        for cells, numbers in zip(trace.customdata, trace.z, strict=True)
        for name, number in zip(cells, numbers, strict=True)
    }
    assert shown == {
        (f"e{column}", name): table[row][column] for row, name in enumerate(names) for column in range(experts)
    }
    assert figure.layout.coloraxis.cmax == max(map(max, table))


def test_a_tensor_that_a_layer_lacks_and_one_that_is_not_finite_are_holes() -> None:
    names = ("layers.0.a.weight", "layers.0.b.weight", "layers.1.a.weight")

    figure = norms_figure(names, ("e",), [[1.0], [math.nan], [3.0]], "norm")

    assert [list(row) for row in figure.data[0].z] == [[1.0, None], [3.0, None]]


def test_a_hole_says_why_there_is_no_number() -> None:
    table, gaps = [[1.0, math.nan], [math.nan, 0.125]], {(0, 1): "does not have this tensor"}

    figure = norms_figure(("a", "b"), ("one", "two"), table, "norm", gaps)

    assert [list(trace.text[0]) for trace in figure.data] == [
        ["1 norm", "no number"],
        ["does not have this tensor", "0.125 norm"],
    ]


def test_coefficients_have_a_row_per_tensor_and_a_gap_between_layers() -> None:
    names = llama(2)

    figure = coefficients_figure(names, ("a", "b"), [[0.25, 0.75]] * len(names), "coefficient")

    rows = [cells[0] for cells in figure.data[0].customdata]
    assert [name for name in rows if name] == list(names)
    assert rows[1] is None
    assert rows[6] is None
    assert list(figure.data[0].z[0]) == [0.25, 0.75]


def test_negative_coefficients_get_a_scale_with_zero_in_its_middle() -> None:
    figure = coefficients_figure(("a", "b"), ("e",), [[-0.4], [0.4]], "coefficient")

    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax


def test_numbers_of_both_signs_have_zero_in_the_middle_of_their_scale() -> None:
    mixed, below, above = (
        norms_figure(("a", "b"), ("e",), table, "mean").layout.coloraxis
        for table in ([[-0.4], [0.1]], [[-0.4], [-0.2]], [[0.4], [0.1]])
    )

    assert (mixed.cmin, mixed.cmax) == (below.cmin, below.cmax) == (-0.4, 0.4)
    assert (above.cmin, above.cmax) == (0, 0.4)
    assert mixed.colorscale != above.colorscale


def test_the_scale_does_not_follow_every_small_move() -> None:
    ends = {coefficients_figure(("a",), ("e",), [[x]], "c").layout.coloraxis.cmax for x in (0.26, 0.3, 0.4, 0.5)}

    assert ends == {0.5}


@pytest.mark.parametrize(
    ("table", "start"),
    [([[0.26], [0.44]], 0.25), ([[0.1], [0.44]], 0.0), ([[0.26], [math.nan], [0.44]], 0.25), ([[0.44], [0.44]], 0.0)],
)
def test_coefficients_that_differ_and_are_far_from_zero_use_the_whole_scale(
    table: list[list[float]], start: float
) -> None:
    names = tuple("abc"[: len(table)])

    scale = coefficients_figure(names, ("e",), table, "c").layout.coloraxis

    assert (scale.cmin, scale.cmax) == (start, 0.5)


@pytest.mark.parametrize("layers", [0, 1, 6, 80, 400])
def test_labels_of_the_coefficients_have_room_at_any_depth(layers: int) -> None:
    names = llama(layers)

    figure = coefficients_figure(names, ("e",), [[1.0]] * len(names), "c")

    assert figure.layout.height <= TALLEST
    labels = len(figure.layout.yaxis.ticktext)
    assert 2 <= labels <= figure.layout.height / 10


def test_names_of_models_are_never_markup() -> None:
    figure = norms_figure(("a",), ("<b>x</b>",), [[1.0]], "norm")

    assert figure.layout.annotations[0].text == "<b>&lt;b&gt;x&lt;/b&gt;</b>"


def test_a_histogram_has_a_line_per_expert() -> None:
    figure = histogram_figure([0.0, 1.0, 2.0], {"a": [1.0, 0.0], "b": [2.0, 3.0]})

    assert [(line.name, line.x, line.y) for line in figure.data] == [
        ("a", (0.5, 1.5), (1.0, None)),
        ("b", (0.5, 1.5), (2.0, 3.0)),
    ]


def test_a_hole_that_says_why_has_a_ground_and_space_between_layers_has_none() -> None:
    names = tuple(
        f"model.layers.{layer}.mlp.{module}.weight" for layer in (0, 1) for module in ("up_proj", "down_proj")
    )
    table = [[math.nan, math.nan], [math.nan, math.nan], [1.0, math.nan], [1.0, 2.0]]
    gaps = dict.fromkeys(((0, 0), (0, 1), (1, 0), (1, 1), (2, 1)), "no number")

    figure = coefficients_figure(names, ("one", "two"), table, "weight", gaps)

    boxes = [(shape.x0, shape.x1, shape.y0, shape.y1) for shape in figure.layout.shapes]
    assert boxes == [(-0.5, 1.5, -0.5, 1.5), (0.5, 1.5, 2.5, 3.5)]  # row 2 is between the layers
