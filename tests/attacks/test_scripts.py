"""Names, notes and texts that are HTML, or script, in a real browser: nothing of them runs, wherever it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors.torch import save_file

from tests.attacks.conftest import App
from tests.e2e.conftest import choose_models, drawn, open_tab, saved

pytestmark = pytest.mark.e2e

IMAGE = "<img src=x onerror=hit()>"
LINK = '<a href="javascript:hit()">a</a>'
FRAME = "</textarea></pre><iframe srcdoc='<script>parent.hit()</script>'>"
EVILS = [IMAGE, LINK, "<script>hit()</script>", '"><svg onload=hit()>', FRAME]
WATCH = "window.hits = []; window.hit = () => window.hits.push(document.activeElement.outerHTML.slice(0, 200));"
LOOSE = "img[onerror], svg[onload], [onclick*=hit], a[href^='javascript:'], iframe[srcdoc]"


def hostile(folder: Path) -> tuple[Path, Path]:
    """A base and an expert whose files, tensors, layers and cards are named to do harm."""
    names = [f"model.layers.{number}.{evil}.weight" for number, evil in enumerate(EVILS)]
    names += [f"{evil}.layers.0.mlp.up_proj.weight" for evil in EVILS] + EVILS
    paths = []
    for number, name in enumerate([IMAGE, '"><svg onload=hit()>']):
        generator = torch.Generator().manual_seed(number)
        tensors = {name: torch.randn(8, 8, generator=generator) for name in names}
        (folder / name).mkdir(parents=True)
        save_file(tensors, folder / name / "model.safetensors", {"format": IMAGE, "recipe": IMAGE})
        (folder / name / "config.json").write_text(json.dumps({"model_type": IMAGE, "architectures": [IMAGE]}))
        (folder / name / "README.md").write_text(f"---\nlicense: '{IMAGE}'\n---\n{IMAGE}")
        paths.append(folder / name)
    return paths[0], paths[1]


@pytest.fixture
def watched(page: Page, attacked: App) -> Page:
    """A page that notes when something runs that must not."""
    page.add_init_script(WATCH)
    page.on("dialog", lambda dialog: dialog.dismiss())
    return page


def expect_nothing_ran(page: Page) -> None:
    assert page.evaluate("window.hits") == []
    assert page.locator(LOOSE).count() == 0


def test_addresses_names_and_texts_are_shown_and_never_run(watched: Page, attacked: App) -> None:
    for address in (f"?lesson={IMAGE}&step={IMAGE}&__theme={IMAGE}", f"?recipe={IMAGE}#{IMAGE}"):
        watched.goto(f"{attacked.url}/{address}")
        drawn(watched, "#weights")
        expect_nothing_ran(watched)
    expect(watched.locator("#recipe-opened .notice.error")).to_be_visible()
    expect_names_and_texts(watched, attacked)


def expect_names_and_texts(page: Page, attacked: App) -> None:
    """Choose models that are named to do harm, open all views of them, merge, sample, report and publish them."""
    base, expert = hostile(attacked.place / "models/evil")

    choose_models(page, base, [expert])
    expect(page.locator("#models-table b").first).to_have_text(IMAGE)
    drawn(page, "#weights")
    expect_nothing_ran(page)
    for tabs in ("#views", "#forecast"):
        for title in page.locator(tabs).get_by_role("tab").all_inner_texts():
            open_tab(page, tabs, title)
            expect_nothing_ran(page)
    open_tab(page, "#forecast", "Coefficients")
    page.locator("#weights .pv-box").press("ArrowDown")
    page.locator("#weights .pv-box").press("Enter")
    page.locator("#weights .pv-numbers summary").click()
    expect(page.locator("#weights .pv-numbers")).to_contain_text("model.layers.1.")  # without what looks like markup
    expect_nothing_ran(page)

    page.locator("#output input, #output textarea").fill(f"{IMAGE}.{LINK.replace('/', '')}")
    page.locator("#run").click()
    expect(page.locator("#merge-status")).to_contain_text("Merged.", timeout=60_000)
    expect(page.locator("#history")).to_contain_text(IMAGE)
    page.locator("#history-note textarea").fill(EVILS[2] + IMAGE)
    page.locator("#history-note textarea").blur()
    expect(page.locator("#history .note")).to_contain_text(IMAGE)
    page.locator("#prompt textarea").fill(EVILS[4] + IMAGE)
    page.locator("#sample-run").click()
    expect(page.locator("#answers [aria-busy=false], #answers .notice.error").first).to_be_visible(timeout=60_000)
    expect_nothing_ran(page)

    _, report = saved(page, page.locator("#history-report"))
    file = attacked.around / "home/report.html"
    file.write_text(report, encoding="utf-8")
    page.locator("#publish button").first.click()
    page.locator("#publish-prepare").click()
    expect(page.locator("#publish-card textarea, #publish-said .notice.error").first).to_be_visible(timeout=60_000)
    expect_nothing_ran(page)
    page.goto(file.as_uri())
    expect(page.get_by_role("heading").first).to_be_visible()
    assert page.evaluate("window.hits") == []
