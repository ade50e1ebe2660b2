"""What step 2 shows of a comparison: only the view that is open is drawn, and its table is harmless to open."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import plotly.graph_objects as go
import pytest
import torch

from merging.compare import Comparison
from tests.conftest import Family, largest, random_tensors, write_model
from tests.ui.screens import Screen, parts, select
from ui.comparing import known_comparison
from ui.measures import CONFLICT, MEASURES, RELATIVE, awaited
from ui.models_panel import Selection, read_models
from ui.plot_view import Words
from ui.see_panel import COSINE, DRAWN, HEADS, KEPT, PAIRS, UNSORTED, VIEWS, WHOLE, WHOLE_MODEL
from ui.views import Look, as_csv, draw_curves, draw_pairs, draw_view, places_of, show_tensor


def compared(selection: Selection) -> Comparison:
    known = known_comparison(selection)
    assert known
    return known


@pytest.mark.parametrize("view", VIEWS)
def test_only_the_open_view_is_drawn(family: Family, view: str) -> None:
    selection = select(*family())

    shown = dict(zip(DRAWN, draw_view(compared(selection), selection.names, Look(view)), strict=True))

    assert {name for name, figure in shown.items() if figure != gr.skip()} == {n for n in DRAWN if DRAWN[n] == view}
    assert all(figure is not None for figure in shown.values())


def test_without_models_nothing_of_the_last_ones_stays() -> None:
    assert draw_view(None, (), Look("depth")) == (None,) * len(DRAWN)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=list(MEASURES))
def test_every_measure_is_drawn_over_the_depth(family: Family, measure: Any) -> None:
    selection = select(*family())

    figure = draw_curves(compared(selection), selection.names, measure)

    assert figure is not None
    assert [line.name for line in figure.data] == ["expert-1", "expert-2"]
    assert [list(line.x) for line in figure.data] == [["0", "1"]] * 2
    assert all(value is not None for line in figure.data for value in line.y)


def test_a_model_without_layers_has_no_depth(tmp_path: Path) -> None:
    base, expert = (
        write_model(tmp_path / name, {"weight": torch.full((2, 3), value)}) for name, value in (("a", 1.0), ("b", 2.0))
    )
    selection = select(base, [expert])

    assert draw_curves(compared(selection), selection.names, RELATIVE) is None


def test_experts_are_set_against_each_other_in_the_model_and_in_a_layer(family: Family) -> None:
    base, experts = family()
    selection = select(base, experts)
    start, *ends = (random_tensors(seed) for seed in (0, 1, 2))
    known = compared(selection)

    for where, names in ((WHOLE_MODEL, list(start)), ("1", ["model.layers.1.mlp.up_proj.weight"])):
        one, other = (torch.cat([end[name].flatten() for name in names]).double() for end in ends)
        cosine, conflict = (draw_pairs(known, selection.names, pair, WHOLE, where) for pair in PAIRS)
        assert isinstance(cosine, go.Figure)
        assert isinstance(conflict, go.Figure)
        assert cosine.data[0].z[0][1] == pytest.approx(float(one @ other / (one.norm() * other.norm())), rel=1e-3)
        assert conflict.data[0].z[1][0] == pytest.approx(float((one.sign() != other.sign()).double().mean()))
    whole, gone = (draw_pairs(known, selection.names, COSINE, WHOLE, where) for where in (WHOLE_MODEL, "99"))
    assert whole == gone  # a layer of other models, which these do not have


@pytest.mark.parametrize("kept", list(KEPT)[1:3])  # of so few entries, 10 % are one more than were asked for
def test_experts_are_set_against_each_other_after_trimming_too(family: Family, kept: str) -> None:
    base, experts = family()
    selection, density = select(base, experts), KEPT[kept] or 0.0
    known = compared(selection)

    for where, names in ((WHOLE_MODEL, known.names), ("1", ["model.layers.1.mlp.up_proj.weight"])):
        cosine, conflict = (draw_pairs(known, selection.names, pair, kept, where) for pair in PAIRS)
        assert isinstance(cosine, go.Figure)
        assert isinstance(conflict, go.Figure)
        one, other = (largest(path, base, density, names) for path in experts)
        apart = [float((one * other < 0).sum() / both) if (both := int((one * other != 0).sum())) else None]
        assert cosine.data[0].z[0][1] == pytest.approx(float(one @ other / (one.norm() * other.norm())), rel=1e-3)
        assert conflict.data[0].z[0][1:] == pytest.approx(apart)
        assert cosine.layout.title.text == f"Cosine of the task vectors<br>each trimmed to density {density:g}"
        assert conflict.layout.title.text == f"Entries in sign conflict<br>each trimmed to density {density:g}"


def shown(known: Comparison, view: str, **chosen: str) -> list[Any]:
    """What the view shows of it."""
    plots = draw_view(known, ("one", "two"), Look(view)._replace(**chosen), closed=None)
    return [plot for plot, of in zip(plots, DRAWN.values(), strict=True) if of == view]


def test_every_view_is_drawn_of_what_is_known_so_far(family: Family) -> None:
    found = parts(*family())
    early = next(part for part in found if 1 < part.unread.sum() < 3)
    there = [name for name, unread in zip(early.names, early.unread, strict=True) if not unread]
    assert there == ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]

    (norms,) = shown(early, "layers")
    words = [word for trace in norms.data for cells in trace.text for word in cells]
    assert words.count("not read yet") == 2 * 2
    (curves,) = shown(early, "depth")
    assert [[value is None for value in line.y] for line in curves.data] == [[False, True]] * 2
    matrix, energy = shown(early, "experts")
    assert matrix.layout.title.text == "Cosine of the task vectors<br>2 of 4 tensors so far"
    assert energy == Words("Known when all is read: the largest entries are those of the whole model.")
    (table,) = shown(early, "table")
    assert [row[1] for row in table.value["data"]] == [name for name in there for _ in range(2)]


def test_the_part_of_a_layer_that_is_read_is_not_taken_for_the_layer(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.mlp.{module}_proj.weight" for layer in (0, 1) for module in ("up", "down")]
    paths = [
        write_model(tmp_path / str(number), {name: torch.full((4, 4), number + 1.0) for name in names})
        for number in range(3)
    ]
    early = next(part for part in parts(paths[0], paths[1:]) if part.unread.sum() == 1)

    (curves,) = shown(early, "depth")

    assert [line.y[1] for line in curves.data] == [None, None]
    assert all(line.y[0] > 0 for line in curves.data)


@pytest.mark.parametrize("kept", list(KEPT)[1:])
def test_what_trimming_leaves_is_drawn_in_the_second_pass_and_words_say_so_before(family: Family, kept: str) -> None:
    found = parts(*family())
    early, late = (next(part for part in found if part.unread.sum() == wanted) for wanted in (1, 0))
    late = next(part for part in found if 0 < int(awaited(part, KEPT[kept]).sum()) < 3 and not part.unread.any())

    before, _ = shown(early, "experts", kept=kept)
    during, energy = shown(late, "experts", kept=kept)
    beyond, _ = shown(late, "experts", kept=kept, where="final norm")
    done, _ = shown(found[-1], "experts", kept=kept)

    assert before == Words("Known when all is read: trimming ranks the entries of the whole model.")
    assert during.layout.title.text.endswith(" of 4 tensors so far")
    assert isinstance(energy, go.Figure)
    assert beyond == Words("Not read yet.")
    assert done.layout.title.text.endswith(f"each trimmed to density {KEPT[kept]:g}")


def test_a_weight_that_is_not_finite_is_not_waited_for(family: Family) -> None:
    base, experts = family()
    tensors = random_tensors(1)
    tensors["model.norm.weight"][0] = torch.nan
    write_model(experts[0], tensors)
    known = compared(select(base, experts))

    assert not any(awaited(known, density).any() for density in KEPT.values())


def test_the_places_are_layers_and_what_is_outside_them(family: Family) -> None:
    known = compared(select(*family()))

    one, gone = (places_of(known, where) for where in ("1", "99"))

    assert [name for _, name in one.choices] == [WHOLE_MODEL, "embed", "0", "1", "final norm"]
    assert (one.value, gone.value) == ("1", WHOLE_MODEL)


def test_the_table_has_a_row_for_each_tensor_of_each_expert(family: Family) -> None:
    base, experts = family()
    tensors = random_tensors(1)
    del tensors["model.norm.weight"]
    write_model(experts[0], tensors)
    selection = select(base, experts)

    file = as_csv(selection)

    assert file
    name, text = file
    heads, *rows = csv.reader(io.StringIO(text))
    assert name == "task-vectors.csv"
    assert len(rows) == 2 * 4 - 1
    assert heads[:5] == ["expert", "tensor", "layer", "module", "entries"]
    assert heads[5 : 5 + len(MEASURES)] == [measure.label for measure in MEASURES.values()]
    by_name = {(row[1], row[0]): dict(zip(heads, row, strict=True)) for row in rows}
    up = by_name["model.layers.1.mlp.up_proj.weight", "expert-2"]
    assert (up["layer"], up["module"], up["entries"]) == ("1", "up", "24")
    known = compared(selection)
    at = known.names.index("model.layers.1.mlp.up_proj.weight")
    assert float(up[RELATIVE.label]) == pytest.approx(float(known.relative[at, 1]), rel=1e-4)
    assert by_name["model.norm.weight", "expert-2"][CONFLICT.label] == ""  # no other expert has it
    assert "nan" not in text.lower()


def test_what_is_shown_is_chosen_for_layers_and_depth_at_once(family: Family, screen: Screen) -> None:
    screen.choose(*family())

    for name, other, view, plot in (
        ("measure-depth", "measure", "Depth", "curves"),
        ("measure", "measure-depth", "Layers", "norms"),
    ):
        screen.fire("views", "select", value=view)
        for title, measure in list(MEASURES.items())[:2]:
            screen[name] = title
            screen.fire(name, "input")
            assert screen[other] == title
            assert measure.label in str(screen[plot])


def test_what_is_shown_stands_in_the_views_that_obey_it(screen: Screen) -> None:
    def view(name: str) -> str:
        block = screen.named[name]
        while not isinstance(block, gr.Tab):
            assert block.parent
            block = block.parent
        return str(block.label)

    assert [view(name) for name in ("measure", "measure-depth")] == ["Layers", "Depth"]


@pytest.mark.parametrize("falling", [False, True])
def test_the_table_is_sorted_by_any_column_without_a_mouse(family: Family, screen: Screen, falling: bool) -> None:
    base, experts = family()
    tensors = random_tensors(1)
    del tensors["model.norm.weight"]
    write_model(experts[0], tensors)
    screen.choose(base, experts)
    screen.fire("views", "select", value="Table")
    before = [[*row] for row in screen["statistics"]]

    screen["statistics-sort"], screen["statistics-falling"] = CONFLICT.label, falling
    screen.fire("statistics-sort", "input")

    numbers = [row[2] for row in screen["statistics"]]  # beside expert and tensor
    known = [number for number in numbers if number is not None]
    assert known == sorted(known, reverse=falling)
    assert numbers == known + [None] * (len(before) - len(known))  # what has none is last
    column = HEADS.index(CONFLICT.label)
    moved = [[*row[:2], row[column], *row[2:column], *row[column + 1 :]] for row in before]
    assert sorted(map(str, screen["statistics"])) == sorted(map(str, moved))
    screen["statistics-sort"] = UNSORTED
    screen.fire("statistics-falling", "input")
    assert screen["statistics"] == before[:: -1 if falling else 1]


def test_layers_are_sorted_as_numbers_and_what_is_in_none_is_last(tmp_path: Path) -> None:
    tensors = {f"model.layers.{layer}.mlp.up_proj.weight": torch.ones(2, 2) for layer in (10, 2)}
    base, expert = (
        write_model(tmp_path / name, {**tensors, "model.norm.weight": torch.ones(2) * size})
        for name, size in (("base", 1), ("expert", 2))
    )
    selection = select(base, [expert])

    told = draw_view(compared(selection), selection.names, Look("table", sort="layer"))

    assert [row[2] for row in dict(zip(DRAWN, told, strict=True))["table"].constructor_args["value"]] == ["2", "10", ""]


def test_the_file_tells_what_each_two_experts_have_in_common_before_and_after_trimming(family: Family) -> None:
    base, experts = family()
    selection = select(base, experts)
    name = "model.layers.1.mlp.up_proj.weight"

    file = as_csv(selection)

    assert file
    (row,) = (
        row for row in csv.DictReader(io.StringIO(file[1])) if (row["tensor"], row["expert"]) == (name, "expert-1")
    )
    for at, density in (("", 1.0), (" at density 0.5", 0.5)):
        one, other = (largest(path, base, density, [name]) for path in experts)
        cosine, conflict = (float(row[f"{words} with expert-2{at}"]) for words in ("cosine", "in conflict"))
        assert cosine == pytest.approx(float(one @ other / (one.norm() * other.norm())), rel=1e-3)
        assert conflict == pytest.approx(float((one * other < 0).sum() / (one * other != 0).sum()), rel=1e-4)
        assert row[f"cosine with expert-1{at}"] == ""
    (alone,) = {len(line) for line in csv.reader(io.StringIO(as_csv(select(base, experts[:1]))[1]))}  # type: ignore[index]
    assert alone == 5 + len(MEASURES)


def test_no_name_is_a_formula_in_a_spreadsheet(tmp_path: Path) -> None:
    hostile = ['=HYPERLINK("//evil")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]
    tensors = {name: torch.ones(2) for name in hostile}
    base = write_model(tmp_path / "base", tensors)
    expert = write_model(tmp_path / "=cmd", {name: tensor * 2 for name, tensor in tensors.items()})

    file = as_csv(select(base, [expert]))

    assert file
    cells = [cell for row in csv.reader(io.StringIO(file[1], newline="")) for cell in row]
    words = [cell for cell in cells if any(name in cell for name in (*hostile, "=cmd"))]
    assert len(words) >= 2 * len(hostile)
    assert all(cell.startswith("'") for cell in words)


def test_nothing_is_downloaded_before_models_are_compared() -> None:
    assert as_csv(Selection()) is None


def test_the_table_is_downloaded_as_it_stands(screen: Screen, family: Family) -> None:
    selection = screen.choose(*family())
    file = as_csv(selection)
    assert file

    told, _ = screen.fire("statistics-save")

    assert told == {"name": file[0], "text": file[1], "type": "text/csv"}


def test_the_table_of_models_that_are_not_read_is_not_downloaded(family: Family, screen: Screen) -> None:
    base, experts = family()
    screen.put(read_models(str(base), [str(path) for path in experts])[1])

    file, _ = screen.fire("statistics-save")

    assert file == {}
    assert "These models are not read to their end." in screen["statistics-unsaved"]


def test_a_tensor_from_near_tells_the_shape_of_each_task_vector(family: Family) -> None:
    base, experts = family()
    tensors = random_tensors(1)
    del tensors["model.norm.weight"]
    write_model(experts[0], tensors)
    selection = select(base, experts)
    name = "model.layers.1.mlp.up_proj.weight"

    near, _ = show_tensor(selection, name)
    lacking, _ = show_tensor(selection, "model.norm.weight")

    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in near.split("<tr>")[1:]]
    assert rows[0] == ["Expert", "‖τ‖", "‖τ‖ / ‖W₀‖", "entries unmoved", "mean of τ", "kurtosis of τ"]
    for row, path in zip(rows[1:], experts, strict=True):
        tau = largest(path, base, 1.0, [name])
        apart = tau - tau.mean()
        assert float(row[4]) == pytest.approx(float(tau.mean()), rel=0.05)
        assert float(row[5]) == pytest.approx(float(apart.pow(4).mean() / apart.square().mean() ** 2), rel=0.01)
    assert '<td colspan="5">does not have this tensor</td>' in lacking


def test_a_histogram_of_a_sample_says_so(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    selection = select(*family())
    known = compared(selection)
    name = "model.layers.0.mlp.up_proj.weight"
    at = known.names.index(name)
    shapes = (*known.shapes[:at], (600, 4), *known.shapes[at + 1 :])  # of which the 24 entries at hand are a part

    _, whole = show_tensor(selection, name)
    monkeypatch.setattr("ui.views.known_comparison", lambda _: replace(known, shapes=shapes))
    _, part = show_tensor(selection, name)

    assert whole is not None
    assert part is not None
    assert whole.layout.yaxis.title.text == "entries"
    assert part.layout.yaxis.title.text == "entries, estimated from 24"
    assert sum(count or 0 for count in part.data[0].y) == 2400
