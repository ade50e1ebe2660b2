"""Lessons in a browser: a link opens one at its step, which is set up, done, checked, and left."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import drawn, figure, open_tab, set_number

pytestmark = pytest.mark.e2e


def test_a_learner_follows_a_link_sets_up_checks_and_goes_on(watched: Page, app_url: str) -> None:
    page = watched
    page.goto(f"{app_url.rstrip('/')}/?lesson=averaging&step=4")
    drawn(page, "#weights")
    head, verdict = page.locator("#lesson-head"), page.locator("#lesson-verdict")
    expect(head.locator("h3")).to_have_text("A longer step")
    expect(page.locator("#lesson-text .katex").first).to_be_visible()

    page.locator("#lesson-check").click()
    expect(verdict).to_contain_text("This step is about Task arithmetic, and another method is chosen.")
    open_tab(page, "#forecast", "Recipe")
    page.locator("#lesson-arrange").click()
    expect(page.locator("#method").get_by_label("Task arithmetic", exact=True)).to_be_checked()
    drawn(page, "#effects")
    assert figure(page, "#effects")[0]["name"] == "merge"
    begins(page, "#step-weights")
    open_tab(page, "#forecast", "Recipe")
    page.locator("#lesson-arrange").click()  # again, where nothing but the view is to change
    expect(page.locator("#effects .nsewdrag").first).to_be_visible()
    page.locator("#lesson-check").click()
    expect(verdict.locator(".notice.info")).to_contain_text("λ = 0.2 is too short")
    set_number(page, "task_arithmetic-lambda", "0.45")
    expect(page.locator("#forecast-note")).to_contain_text("Task arithmetic")
    page.wait_for_function("() => document.querySelector('#effects .pv-box').data[0].y[0] > 0.08")
    page.locator("#lesson-check").click()
    expect(verdict.locator(".notice.good")).to_contain_text("At λ = 0.45")
    expect(head.locator(".lesson-dots .done")).to_have_count(1)

    with page.expect_popup() as caught:
        head.locator(".lesson-link").click()
    expect(caught.value.locator("#lesson-head h3")).to_have_text("A longer step")
    caught.value.close()
    expect(page.locator("#task_arithmetic-lambda input[type=number]")).to_have_value("0.45")

    page.locator("#lesson-next").click()
    expect(head.locator("h3")).to_have_text("Too far")
    expect(page).to_have_url(re.compile(r"lesson=averaging&step=5"))
    page.locator("#lesson-leave").click()
    expect(page.locator("#lesson-averaging")).to_contain_text("1 of 5 steps done")
    page.locator("#lesson-task-vectors").click()
    expect(head.locator(".lesson-name")).to_have_text("What a task vector is")
    page.set_viewport_size({"width": 400, "height": 850})  # a sheet at the bottom, the page above it
    expect(page.locator("#lesson-do")).to_be_attached()
    page.wait_for_function("""() => {
      const sheet = document.querySelector('#lessons').getBoundingClientRect();
      return sheet.top > 200 && sheet.left === 0 && sheet.width <= 400;
    }""")
    page.locator("#lesson-check").click()
    expect(verdict.locator(".notice")).to_be_in_viewport()
    # What closes the sheet, and what leaves the lesson, are above what scrolls, and in sight.
    bottoms = page.evaluate("""() => ['#lesson-leave', '#lessons .toggle-button'].map((name) =>
      document.querySelector(name).getBoundingClientRect().bottom)""")
    top = page.locator("#lessons .sidebar-content").evaluate("content => content.getBoundingClientRect().top")
    assert all(top - 46 < bottom <= top for bottom in bottoms)
    assert page.locator("#step-models").evaluate("step => step.getBoundingClientRect().left") <= 10
    page.locator("#lesson-next").click()
    expect(head.locator("h3")).to_be_in_viewport()
    page.locator("#lessons .toggle-button").click()
    expect(page.locator("#lessons.open")).to_have_count(0)


def begins(page: Page, section: str) -> None:
    """Wait until a section of the page begins where the window does, or the page ends; the focus is where it was."""
    page.wait_for_function(
        """(section) => {
          const {top, height} = document.querySelector(section).getBoundingClientRect();
          const end = scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
          return Math.abs(top - 16) < 2 || (end && top > 0 && top + Math.min(height, 300) < innerHeight);
        }""",
        arg=section,
    )
    expect(page.locator("#lesson-arrange")).to_be_focused()


@pytest.mark.parametrize(
    ("motion", "step", "section"), [("no-preference", 1, "#step-see"), ("reduce", 5, "#step-sample")]
)
def test_a_step_that_was_set_up_has_what_it_is_about_in_sight(
    watched: Page, app_url: str, motion: Any, step: int, section: str
) -> None:
    watched.emulate_media(reduced_motion=motion)
    watched.set_viewport_size({"width": 1280, "height": 900})
    watched.goto(f"{app_url.rstrip('/')}/?lesson=interference&step={step}")
    drawn(watched, "#weights")
    assert watched.evaluate("scrollY") == 0

    watched.locator("#lesson-arrange").click()
    begins(watched, section)
    expect(watched.locator("#see-note .caption")).to_contain_text("did not move at all")
    begins(watched, section)  # also when all is there
