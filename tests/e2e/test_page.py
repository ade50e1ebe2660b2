"""The page itself in a browser: of the window's width in light and dark, and reachable by keyboard."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import drawn, open_tab

pytestmark = pytest.mark.e2e

NAMELESS = """() => [...document.querySelectorAll('button, input, textarea, [role=application], [role=img]')]
  .filter((part) => part.offsetParent && part.getAttribute('aria-hidden') !== 'true')
  .filter((part) => !(part.ariaLabel || part.title || part.placeholder || part.textContent.trim()
    || (part.labels && part.labels.length) || part.getAttribute('aria-labelledby')))
  .map((part) => part.outerHTML.slice(0, 160))"""

# What has the focus: its name, and whether it is in the window and not in the panel that is closed.
FOCUSED = """() => {
  const part = document.activeElement, {left, right, top, bottom} = part.getBoundingClientRect();
  const inside = left < innerWidth && right > 0 && top < innerHeight && bottom > 0;
  return {
    name: part.closest('[id]:not([id^=component], [id^=html-])')?.id || '',
    astray: inside && !part.closest('#lessons:not(.open)') ? '' : part.outerHTML.slice(0, 160),
  };
}"""

# How far things moved by themselves, as browsers sum it up: a share of the window, times how much of it moved.
SHIFTS = """window.shifts = [];
  new PerformanceObserver((list) => list.getEntries().forEach((entry) => window.shifts.push(
    {value: entry.value, moved: entry.sources.map(({node}) => node && (node.id || node.className || node.nodeName))},
  ))).observe({type: 'layout-shift', buffered: true});"""


def fill(watched: Page, app_url: str, width: int) -> None:
    """Open the page in a window of that width, where nothing moves while it fills."""
    watched.set_viewport_size({"width": width, "height": 900})
    watched.add_init_script(SHIFTS)
    watched.goto(app_url)
    expect(watched.locator("#models-table tbody tr")).to_have_count(4)
    for plot in ("#norms", "#weights"):
        drawn(watched, plot)
        expect(watched.locator(plot)).to_be_visible()

    shifts = watched.evaluate("shifts")
    assert sum(shift["value"] for shift in shifts) < 0.05, shifts


def test_nothing_moves_while_the_page_fills_a_narrow_window(watched: Page, app_url: str) -> None:
    fill(watched, app_url, 400)


def test_the_page_fills_and_fits_its_window_and_is_reached_by_keyboard(watched: Page, app_url: str) -> None:
    fill(watched, app_url, 1280)
    watched.set_viewport_size({"width": 1280, "height": 720})
    stays_beside(watched)
    frames_a_cell(watched)
    watched.evaluate("window.scrollTo(0, 0)")
    fits_and_names(watched)
    is_reached_by_keyboard(watched)


def fits_and_names(visit: Page) -> None:
    """The page is as wide as its window, in light and dark, and everything on it has a name."""
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


def is_reached_by_keyboard(visit: Page) -> None:
    """One key goes through all of the page, and what it reaches is in sight."""
    reached = set()
    visit.locator("#lessons-open").focus()
    for _ in range(120):
        visit.keyboard.press("Tab")
        focused = visit.evaluate(FOCUSED)
        assert not focused["astray"]
        reached.add(focused["name"])
    wanted = {
        "theme",
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


def stays_beside(visit: Page) -> None:
    """What the merge will do stays beside the sliders."""
    visit.locator("#from-k").scroll_into_view_if_needed()
    visit.evaluate("window.scrollBy(0, 300)")

    expect(visit.locator("#forecast")).to_be_in_viewport()
    box = visit.locator("#step-weights").bounding_box()
    assert box
    assert box["y"] >= 0


def frames_a_cell(visit: Page) -> None:
    """The keyboard's place on a heatmap has a frame, as long as it is there."""
    visit.locator("#weights .pv-box").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        visit.keyboard.press(key)

    frame, image = (visit.locator(f"#weights {part}").first.bounding_box() for part in (".pv-cursor", ".hm image"))
    rows = visit.evaluate("() => document.querySelector('#weights .pv-box').data[0].y.length")
    assert frame
    assert image
    assert abs(frame["y"] - image["y"] - 2 * image["height"] / rows) < 2  # the third row, of the first expert
    assert abs(frame["x"] - image["x"]) < 2
    visit.locator("#base input").focus()
    expect(visit.locator("#weights .pv-cursor")).to_have_count(0)


def test_an_answer_that_was_left_with_the_app_comes_late(watched: Page, app_url: str) -> None:
    # A stream that the page takes for open is about to be closed: what is asked by then is answered in no stream.
    watched.add_init_script("""
      const real = window.fetch;
      window.fetch = (asked, ...more) => {
        if (!window.leave || !(asked.url || String(asked)).includes('queue/data')) return real(asked, ...more);
        window.leave = false;
        const told = 'data: {"msg": "close_stream"}\\n\\n';
        return Promise.resolve(new Response(told, {headers: {'content-type': 'text/event-stream'}}));
      };
    """)
    watched.goto(app_url)
    drawn(watched, "#weights")
    watched.wait_for_timeout(3000)  # whatever else fills the page is told by then
    watched.evaluate("() => { window.leave = true; }")
    watched.locator("#lessons-open").click()

    watched.wait_for_function("() => !window.leave", polling=50)
    expect(watched.locator("#lessons.open")).to_be_visible()
    watched.wait_for_function("() => window.askings.all === window.askings.told")  # it is at rest
    known = watched.evaluate("window.askings.all")
    watched.wait_for_timeout(9000)
    assert watched.evaluate("window.askings.all") == known
