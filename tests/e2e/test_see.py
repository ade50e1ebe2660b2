"""Step 2 in a browser: what each expert changed, in every view, by mouse and by keyboard, and as numbers."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import gradio as gr
import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors.torch import load_file, save_file

from tests.conftest import largest
from tests.e2e.conftest import ROOT, choose_models, drawn, expect_experts, figure, numbers, open_tab, saved
from ui.figures.curves import curves_figure
from ui.plot_view import PlotView, Words, serve_plotly

pytestmark = pytest.mark.e2e

ZOO = ROOT / "zoo"
EXPERTS = ["shakespeare", "bible", "python"]
Q = "model.layers.1.self_attn.q_proj.weight"
K = "model.layers.1.self_attn.k_proj.weight"


def step(expert: str) -> torch.Tensor:
    """An expert's task vector in one tensor."""
    base, other = (load_file(ZOO / name / "model.safetensors")[Q].double() for name in ("base", expert))
    return other - base


def choose(page: Page, dropdown: str, title: str) -> None:
    page.locator(f"{dropdown} input").click()
    page.get_by_role("option", name=title, exact=True).click()


def test_every_view_shows_what_the_files_hold(visit: Page) -> None:
    choose(visit, "#measure", "Norm of the task vector")
    visit.wait_for_function("() => document.querySelector('#norms .pv-box').data[0].text[0][0].endsWith(' ‖τ‖')")
    trace = next(trace for trace in figure(visit, "#norms") if trace["name"] == "bible")
    shown = trace["z"][trace["y"].index("layer 1")][trace["x"].index("q")]
    assert shown == pytest.approx(float(step("bible").norm()), rel=1e-4)
    tables = dict(numbers(visit, "#norms")[::2])
    assert [*tables] == EXPERTS
    assert tables["bible"][0][1 + trace["x"].index("q")] == "q"
    assert float(tables["bible"][2][1 + trace["x"].index("q")]) == pytest.approx(shown, rel=1e-4)
    name, text = saved(visit, visit.locator("#norms .pv-numbers a"))
    assert name == "numbers.csv"
    assert next(csv.reader(io.StringIO(text)))[:4] == ["shakespeare", "", "q", "k"]

    open_tab(visit, "#views", "Depth")
    drawn(visit, "#curves")
    expect(visit.locator("#measure-depth input")).to_have_value("Norm of the task vector")
    assert [trace["name"] for trace in figure(visit, "#curves")] == EXPERTS
    title, rows = numbers(visit, "#curves")[0]
    assert (title, rows[0]) == ("", ["layer", *EXPERTS])
    assert [row[0] for row in rows[1:]] == list("012345")

    open_tab(visit, "#views", "Experts")
    expect(visit.locator("[id^=measure]:visible")).to_have_count(0)
    drawn(visit, "#matrix")
    drawn(visit, "#energy")
    choose(visit, "#where", "1")
    cosines = figure(visit, "#matrix")[0]["z"]
    assert [row[index] for index, row in enumerate(cosines)] == pytest.approx([1, 1, 1])
    visit.locator("#matrix .pv-box").focus()
    visit.keyboard.press("ArrowRight")
    visit.keyboard.press("ArrowRight")
    expect(visit.locator("#matrix .pv-live")).to_contain_text("shakespeare, bible: 0.")
    visit.locator("#kept").get_by_label("20 %").click()
    title = "Cosine of the task vectors; each trimmed to density 0.2"
    expect(visit.locator("#matrix .gtitle")).to_contain_text("each trimmed to density 0.2")
    assert numbers(visit, "#matrix")[0][0] == title
    layer = [name for name in load_file(ZOO / "base/model.safetensors") if ".layers.1." in name]
    trimmed = [largest(ZOO / name, ZOO / "base", 0.2, layer) for name in EXPERTS]
    for one, row in zip(trimmed, figure(visit, "#matrix")[0]["z"], strict=True):
        cosines = [float(one @ other / (one.norm() * other.norm())) for other in trimmed]
        assert row == pytest.approx(cosines, abs=0.005)
    visit.locator("#pair").get_by_label("entries in sign conflict").click()
    expect(visit.locator("#matrix .gtitle")).to_contain_text("Entries in sign conflict")
    assert 0 < figure(visit, "#matrix")[0]["z"][0][1] < 1


def test_a_cell_is_looked_into_by_mouse_and_by_keyboard(visit: Page) -> None:
    visit.locator("#norms").scroll_into_view_if_needed()
    area = visit.locator("#norms .nsewdrag").first.bounding_box()
    assert area
    columns, rows = len(figure(visit, "#norms")[0]["x"]), len(figure(visit, "#norms")[0]["y"])
    x, y = area["x"] + area["width"] * 0.5 / columns, area["y"] + area["height"] * 1.5 / rows
    visit.mouse.move(x - 3, y)
    visit.mouse.move(x, y)
    visit.wait_for_timeout(200)
    visit.mouse.click(x, y)
    expect(visit.locator("#tensor-detail h3")).to_have_text(Q)
    expect(visit.locator("#tensor-detail tbody tr")).to_have_count(3)
    expect(visit.locator("#tensor-detail th").last).to_have_text("kurtosis of τ")
    drawn(visit, "#tensor-histogram")

    visit.locator("#norms .pv-box").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        visit.keyboard.press(key)
    expect(visit.locator("#norms .pv-live")).to_contain_text("shakespeare, layer 1, k")
    visit.keyboard.press("Enter")
    expect(visit.locator("#tensor-detail h3")).to_have_text(K)
    for keys, cell in (
        ("End ArrowRight", "bible, layer 1, q"),  # beside the panel is the next expert, in the same row
        ("ArrowLeft", "shakespeare, layer 1, mlp norm"),
        ("Home", "shakespeare, layer 1, q"),
        ("PageDown", "shakespeare, layer 5, q"),
        ("ArrowDown", "shakespeare, embed"),  # below it is what belongs to the same expert
        ("End ArrowRight", "bible, embed"),
        ("ArrowUp", "bible, layer 5, q"),
        ("PageUp ArrowUp", "bible, layer 0, q"),
        ("End ArrowRight End ArrowRight", "python, layer 0, mlp norm"),  # and beside the last there is nothing
    ):
        for key in keys.split():
            visit.keyboard.press(key)
        expect(visit.locator("#norms .pv-live")).to_contain_text(f"{cell}: ")

    open_tab(visit, "#views", "Tensor")
    expect(visit.locator("#microscope h3")).to_have_text(K)
    for plot in ("#steps", "#scatter", "#spectra"):
        drawn(visit, plot)
    titles = [title for title, _ in numbers(visit, "#steps")]
    assert titles[0].startswith("1. ")
    assert len(set(titles)) == len(titles) > 1
    assert numbers(visit, "#spectra")[0][1][0][0] == "direction, the strongest first"

    visit.get_by_label("TIES-Merging").click()
    visit.wait_for_function("""() => (document.querySelector('#steps .pv-box').layout.annotations || [])
      .some((title) => title.text.includes('elected'))""")

    visit.locator("#weights .pv-box").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "Enter"):
        visit.keyboard.press(key)
    first = "model.layers.0.self_attn.q_proj.weight"
    expect(visit.locator("#weights .pv-live")).to_contain_text(f"{first}, shakespeare: ")
    expect(visit.locator("#microscope h3")).to_have_text(first)


def test_models_of_any_depth_are_drawn_whole(visit: Page, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for layers in (0, 1, 80):
        shapes = {"model.embed_tokens.weight": (16, 8), "lm_head.weight": (16, 8)}
        for layer in range(layers):
            modules = ("self_attn.q_proj", "mlp.up_proj")
            shapes |= {f"model.layers.{layer}.{module}.weight": (8, 8) for module in modules}
        paths = [tmp_path / f"{name}-{layers}.safetensors" for name in ("ground", "one", "two")]
        for path in paths:
            save_file({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}, path)

        choose_models(visit, paths[0], paths[1:])
        names = f"one-{layers},two-{layers}"
        for plot in ("weights", "norms"):
            visit.wait_for_function(
                """([plot, names]) => { const data = document.querySelector(`#${plot} .pv-box`).data;
                return [data[0].x.join(), data.map((trace) => trace.name).join()].some((told) => told.includes(names)
                  || told.split(',').filter((name, at, all) => all.indexOf(name) === at).join() === names); }""",
                arg=[plot, names],
            )
        cells = [cell for cells in figure(visit, "#weights")[0]["cells"] for cell in cells[:1] if cell]
        assert set(cells) == set(shapes)
        drawn_cells = {cell for trace in figure(visit, "#norms") for cells in trace["cells"] for cell in cells}
        assert drawn_cells == set(shapes)
        labels = visit.locator("#weights .ytick text").evaluate_all("all => all.map(t => t.getBoundingClientRect().y)")
        assert all(after - before > 8 for before, after in zip(sorted(labels), sorted(labels)[1:], strict=False))


def test_a_table_of_many_tensors_says_how_much_it_shows_and_the_file_has_all(visit: Page, tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.mlp.{module}_proj.weight" for layer in range(260) for module in "abcd"]
    paths = [tmp_path / f"{name}.safetensors" for name in ("ground", "one", "two")]
    for number, path in enumerate(paths):
        save_file({name: torch.full((2, 2), 1.0 + number) for name in names}, path)

    choose_models(visit, paths[0], paths[1:])
    expect_experts(visit, "one", "two")
    [(title, rows)] = numbers(visit, "#weights")
    _, text = saved(visit, visit.locator("#weights .pv-numbers a"))

    assert title == "the first 1000 of 1040 rows; the CSV has them all"
    assert [row[0] for row in rows[1:]] == names[:1000]
    assert [row[0] for row in csv.reader(io.StringIO(text))] == ["", *names]


def test_words_stand_where_there_is_no_picture_yet(page: Page) -> None:
    with gr.Blocks() as demo:
        plot = PlotView(Words("Known <later>."), label="A plot", empty="", elem_id="plot")
        figure = curves_figure(["0", "1"], {"one": [1.0, 2.0]}, "‖τ‖")
        for name, value in (("picture", figure), ("nothing", None), ("words", Words("Not yet."))):
            gr.Button(name, elem_id=name).click(lambda value=value: value, None, plot)
    serve_plotly()
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    try:
        page.goto(url)
        empty = page.locator("#plot .pv-empty")
        expect(empty).to_have_text("Known <later>.")
        page.locator("#picture").click()
        drawn(page, "#plot")
        expect(empty).to_be_hidden()
        page.locator("#words").click()
        expect(empty).to_have_text("Not yet.")
        expect(page.locator("#plot .pv-box")).to_be_hidden()
        page.locator("#nothing").click()
        expect(empty).to_have_text("")
    finally:
        demo.close()
