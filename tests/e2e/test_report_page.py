"""The report of a merge in a real browser that is offline: its pictures are drawn, on light, dark and paper."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from merging.adapter import open_base, open_expert
from merging.coefficients import coefficients
from merging.compare import compare
from merging.engine import merge
from merging.lazy import torch
from merging.recipe import Recipe
from ui.plots import coefficients_figure, norms_figure
from ui.report_page import Picture, report_page

ZOO = Path(__file__).parents[2] / "zoo"
EXPERTS = (ZOO / "shakespeare", ZOO / "bible-lora", ZOO / "python")
HOSTILE = "</script><b>bold</b>"

pytestmark = pytest.mark.e2e


def written(folder: Path) -> Path:
    """The report of a merge of the embedded family, with its heatmaps."""
    recipe = Recipe("ties", ZOO / "base", EXPERTS, warnings=(HOSTILE,))
    base = open_base(ZOO / "base")
    comparison = compare(base, [open_expert(path, base) for path in EXPERTS])
    method, values, weights = recipe.checked()
    table = coefficients(method, values | {"weight": torch.tensor(weights)}, comparison, comparison.probe)
    names, experts = comparison.names, comparison.experts
    pictures = [
        Picture("Norms", norms_figure(names, experts, comparison.relative.tolist(), "‖τ‖ / ‖W₀‖"), "Relative to W₀."),
        Picture("Coefficients", coefficients_figure(names, experts, table.tolist(), "effective weight")),
        Picture(HOSTILE, coefficients_figure(names, experts, table.tolist(), "effective weight")),
    ]
    file = folder / "report.html"
    text = report_page(recipe, merge(recipe, folder / "merged"), pictures)
    file.write_text(text, encoding="utf-8")
    return file


def test_a_report_shows_its_pictures_offline(page: Page, tmp_path: Path) -> None:
    strays, errors = [], []
    page.on("request", lambda request: strays.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.context.set_offline(True)
    file = written(tmp_path)

    for scheme, ink in (("light", "rgb(30, 41, 59)"), ("dark", "rgb(226, 232, 240)")):
        page.emulate_media(color_scheme=scheme)
        page.goto(file.as_uri())
        for number in range(3):
            expect(page.locator(f"#plot-{number} .heatmaplayer image").first).to_be_attached()
        expect(page.locator("#plot-0 .xaxislayer-above text").first).to_have_css("fill", ink)
        expect(page.locator("#plot-0 .infolayer .annotation-text").first).to_have_css("fill", ink)
        expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
        page.screenshot(path=tmp_path / f"report-{scheme}.png", full_page=True)

    tables = page.locator("figure").nth(1).locator("details")
    tables.locator("summary").click()
    expect(tables.get_by_role("columnheader", name="python")).to_be_visible()
    expect(tables.get_by_role("rowheader", name="model.layers.0.mlp.up_proj.weight")).to_be_visible()
    page.emulate_media(color_scheme="light")  # drawn again, without loading anything
    expect(page.locator("#plot-0 .xaxislayer-above text").first).to_have_css("fill", "rgb(30, 41, 59)")
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(page.locator("#plot-0 .main-svg").first).to_have_attribute("width", "680")
    expect(page.locator("#plot-0 .xaxislayer-above text").first).to_have_css("fill", "rgb(30, 41, 59)")
    assert [url for url in strays if not url.startswith(("data:", "blob:"))] == [file.as_uri()] * 2
    assert errors == []
