"""After the merge, in a browser: merges of a visit are compared, repeated, reported on and deleted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import drawn, figure, numbers, open_tab, set_number

pytestmark = pytest.mark.e2e


def write(page: Page, folder: str) -> None:
    """Merge as the page stands, to the end."""
    page.locator("#output input, #output textarea").fill(folder)
    page.locator("#run").click()
    expect(page.locator("#merge-status")).to_contain_text("Merged.", timeout=120_000)


def expect_compared(page: Page) -> None:
    """Wait until two merges are compared, and their weights and recipes differ."""
    drawn(page, "#history-apart")
    said = page.locator("#history-said")
    expect(said).to_contain_text("‖merge 2 − merge 1‖ is")
    expect(said.locator("tr").filter(has_text="merge_method")).to_contain_text("from")
    expect(page.locator("#history-compare")).to_be_enabled()
    expect(page.locator("#history-stop")).to_be_disabled()
    assert figure(page, "#history-apart")[0]["name"] == "Merge 2 − merge 1"
    assert numbers(page, "#history-apart")[0][0] == "Merge 2 − merge 1"


def expect_report(browser: Browser, report: Path, method: str, note: str) -> None:
    """A report is read offline, with its pictures, and asks nothing of anybody."""
    offline, strays = browser.new_context(offline=True), []
    reader = offline.new_page()
    reader.on("request", lambda request: strays.append(request.url))
    reader.goto(report.as_uri())
    expect(reader.locator("body")).to_contain_text(method)
    expect(reader.locator("p.note")).to_have_text(note)
    for number in range(2):
        expect(reader.locator(f"#plot-{number} .heatmaplayer image").first).to_be_attached()
    assert [url for url in strays if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
    offline.close()


def test_merges_of_a_visit_are_compared_repeated_reported_deleted_and_told_apart(
    visit: Page, browser: Browser, workplace: Path, tmp_path: Path
) -> None:
    rows, note = visit.locator("#history tbody tr"), visit.locator("#history-note textarea")
    expect(visit.locator("#history-tools")).to_be_hidden()
    write(visit, "history/one")
    expect(rows).to_have_count(1)
    visit.get_by_label("TIES-Merging").click()
    expect(visit.locator("#forecast-note")).to_contain_text("TIES-Merging")
    write(visit, "history/two")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("TIES-Merging")

    note.fill("nearer to the base\nthan FroM")
    visit.locator("#history-compare").click()
    expect(rows.first.locator(".note")).to_have_text("nearer to the base than FroM")
    expect_compared(visit)
    with visit.expect_download() as caught:
        visit.locator("#history-report").click()
    assert caught.value.suggested_filename == "two.html"
    caught.value.save_as(tmp_path / "two.html")
    expect_report(browser, tmp_path / "two.html", "TIES-Merging", "nearer to the base than FroM")

    visit.locator("#history-one input").click()
    visit.get_by_role("option", name="1. FroM").click()
    expect(note).to_have_value("")
    visit.locator("#history-repeat").click()
    expect(visit.locator("#method").get_by_label("FroM", exact=True)).to_be_checked()
    visit.locator("#history-folder").get_by_role("checkbox").check()
    visit.locator("#history-delete").click()
    expect(rows).to_have_count(1)
    assert not (workplace / "history/one").exists()
    assert (workplace / "history/two").is_dir()

    tell_apart(visit)


def tell_apart(page: Page) -> None:
    """Merge once more with another value of the merge that is left: their names say which is which."""
    rows = page.locator("#history tbody tr")
    open_tab(page, "#forecast", "Recipe")
    page.get_by_label("TIES-Merging").click()
    set_number(page, "ties-density", "0.6")
    expect(page.locator("#recipe-text")).to_contain_text("density: 0.6")
    write(page, "history/three")
    expect(rows).to_have_count(2)

    expect(rows.first.locator(".set span")).to_contain_text("density 0.6")
    expect(rows.last.locator(".set span")).to_contain_text("density 0.2")
    expect(page.locator("#history-one input")).to_have_value(re.compile(r"^3\. TIES-Merging, density 0\.6 at "))
    expect(page.locator("#history-other input")).to_have_value(re.compile(r"^2\. TIES-Merging, density 0\.2 at "))
