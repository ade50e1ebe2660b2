"""The page itself in a browser: of the window's width in light and dark, and reachable by keyboard."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import open_tab

pytestmark = pytest.mark.e2e

NAMELESS = """() => [...document.querySelectorAll('button, input, textarea, [role=application], [role=img]')]
  .filter((part) => part.offsetParent && part.getAttribute('aria-hidden') !== 'true')
  .filter((part) => !(part.ariaLabel || part.title || part.placeholder || part.textContent.trim()
    || (part.labels && part.labels.length) || part.getAttribute('aria-labelledby')))
  .map((part) => part.outerHTML.slice(0, 160))"""


def test_the_page_fits_its_window_and_everything_has_a_name_and_the_keyboard_reaches_it(visit: Page) -> None:
    for width in (1280, 400):
        visit.set_viewport_size({"width": width, "height": 900})
        visit.locator("#theme").click()
        expect(visit.locator("body.dark")).to_have_count(1 if width == 1280 else 0)
        visit.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)
    visit.set_viewport_size({"width": 1280, "height": 700})
    side = visit.locator("#step-weights").bounding_box()
    assert side
    assert side["height"] <= 700

    for tabs, title in (("#forecast", "Recipe"), ("#views", "Experts")):
        assert visit.evaluate(NAMELESS) == []
        open_tab(visit, tabs, title)
    assert visit.evaluate(NAMELESS) == []

    reached = set()
    visit.locator("#lessons-open").focus()
    for _ in range(120):
        visit.keyboard.press("Tab")
        reached.add(
            visit.evaluate("""() => { const part = document.activeElement;
              return part.closest('[id]:not([id^=component], [id^=html-])')?.id || ''; }""")
        )
    wanted = {
        "theme",
        "measure",
        "matrix",
        "pair",
        "kept",
        "where",
        "recipe-drop",
        "method",
        "from-k",
        "run",
        "sample-run",
    }
    assert wanted - {name.removesuffix("-button") for name in reached} == set()
