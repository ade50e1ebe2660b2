"""The table of step 2 in a browser: it is sorted by a click, as numbers, and its file holds what the models hold."""

from __future__ import annotations

import csv
import io

import pytest
from playwright.sync_api import Page, expect
from safetensors.torch import load_file

from tests.e2e.conftest import ROOT, open_tab, saved

pytestmark = pytest.mark.e2e

ZOO = ROOT / "zoo"
EXPERTS = ("shakespeare", "bible", "python")


def norms() -> dict[tuple[str, str], float]:
    """‖τ‖ of each tensor and expert, from the files."""
    base, *experts = (load_file(ZOO / name / "model.safetensors") for name in ("base", *EXPERTS))
    return {
        (tensor, name): float((moved[tensor].double() - start.double()).norm())
        for name, moved in zip(EXPERTS, experts, strict=True)
        for tensor, start in base.items()
    }


def sort(page: Page, column: str, order: str) -> None:
    """Choose an order in the menu of a column's head."""
    head = page.locator(f"#statistics th[title='{column}']")
    head.hover()
    head.locator(".cell-menu-button").click()
    page.get_by_role("menuitem", name=order).click()


def walk_to(page: Page, title: str) -> None:
    """Press ArrowDown in the menu that has the focus, until that option is the active one."""
    menu = page.get_by_role("listbox")
    expect(menu).to_be_visible()
    for _ in range(menu.get_by_role("option").count() + 1):
        page.keyboard.press("ArrowDown")
        expect(menu.locator("[role=option].active")).to_have_count(1)
        if menu.locator("[role=option].active").get_attribute("aria-label") == title:
            return
    pytest.fail(f"{title} was never active.")


def test_the_table_is_sorted_as_numbers_and_downloaded_whole(visit: Page) -> None:
    found = norms()
    open_tab(visit, "#views", "Table")
    first = visit.locator("#statistics [role=gridcell][aria-rowindex='2']")  # the head is row 1
    expect(visit.locator("#statistics [role=grid]")).to_have_attribute("aria-rowcount", str(1 + len(found)))

    heads = visit.locator("#statistics th[title]").evaluate_all("heads => heads.map((head) => head.title)")
    least, *_, most = sorted(found, key=found.__getitem__)
    for order, best in (("Sort descending", most), ("Sort ascending", least)):
        sort(visit, "‖τ‖", order)
        for column, text in (("‖τ‖", f"{found[best]:.5g}"), ("tensor", best[0]), ("expert", best[1])):
            expect(first.nth(heads.index(column))).to_have_text(text)

    name, text = saved(visit, visit.locator("#statistics-save"))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert name == "task-vectors.csv"
    assert {(row["tensor"], row["expert"]): float(row["‖τ‖"]) for row in rows} == pytest.approx(found, rel=1e-4)
    # In the order of the models, whatever the page's is.
    assert (rows[0]["tensor"], rows[0]["expert"]) == ("model.embed_tokens.weight", "shakespeare")


def test_the_table_is_sorted_with_the_keyboard(visit: Page) -> None:
    open_tab(visit, "#views", "Table")
    expect(visit.locator("#statistics")).to_contain_text("model.embed_tokens.weight")
    visit.locator("#statistics-sort input").focus()
    walk_to(visit, "expert")
    visit.keyboard.press("Enter")
    first = visit.locator("#statistics [role=gridcell][aria-rowindex='2']").first
    expect(first).to_have_text("bible")
    visit.keyboard.press("Tab")
    expect(visit.locator("#statistics-falling input")).to_be_focused()
    visit.keyboard.press("Space")
    expect(first).to_have_text("shakespeare")
    expect(visit.locator("#statistics-falling input")).to_be_checked()
