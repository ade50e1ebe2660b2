"""Two visitors at once, in a browser: neither sees anything of the other, nor is disturbed when one of them leaves."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import (
    ROOT,
    choose_method,
    choose_models,
    drawn,
    expect_experts,
    expect_weights,
    open_tab,
    pick,
    saved,
    set_number,
    watching,
)

pytestmark = pytest.mark.e2e

ZOO = ROOT / "zoo"
Q, UP = (f"model.layers.1.{module}_proj.weight" for module in ("self_attn.q", "mlp.up"))
SCRIPTURE, CODE = "7 And the LORD said unto ", "    def read(self, "


class Wish(NamedTuple):
    """What a visitor is after."""

    experts: tuple[str, str]
    kind: str
    title: str
    method: str
    scaling: float
    example: str  # a prompt's button
    prompt: str
    folder: str


ONE = Wish(
    ("bible", "python"), "One number per tensor", "Task arithmetic", "task_arithmetic", 0.7, "Code", CODE, "mine"
)
TWO = Wish(("shakespeare", "bible"), "Three papers", "TIES-Merging", "ties", 0.9, "Scripture", SCRIPTURE, "yours")


@pytest.fixture
def other(browser: Browser, app_url: str) -> Iterator[Page]:
    """The page of another visitor, whose browser knows nothing of the first."""
    context = browser.new_context()
    page = context.new_page()
    with watching(page, app_url):
        page.goto(app_url)
        drawn(page, "#weights")
        yield page
    context.close()


def settle(page: Page, wish: Wish) -> None:
    """Choose models, a method, and how far it goes."""
    choose_models(page, ZOO / "base", [ZOO / name for name in wish.experts])
    expect_experts(page, *wish.experts)
    choose_method(page, wish.kind, wish.title)
    set_number(page, f"{wish.method}-lambda", str(wish.scaling))
    expect(page.locator("#forecast-note")).to_contain_text(wish.title)
    page.locator("#editing button").first.click()


def ask(page: Page, wish: Wish, length: int) -> None:
    """Press Sample, and do not wait for the answers."""
    page.locator("#step-sample").get_by_role("button", name=wish.example, exact=True).click()
    expect(page.locator("#prompt textarea")).to_have_value(wish.prompt)
    page.locator("#sample-length input[type=number]").fill(str(length))
    page.locator("#sample-run").click()


def expect_answers(page: Page, wish: Wish) -> None:
    """Wait until the visitor's own models have answered the visitor's own prompt."""
    cards = page.locator("#answers [aria-busy=false] article")
    expect(cards.locator("h3")).to_have_text(["base", *wish.experts, "merge: as it stands"], timeout=120_000)
    expect(cards.locator("pre span")).to_have_text([wish.prompt] * 4, use_inner_text=False)


def expect_mine(page: Page, wish: Wish, edits: list[str]) -> None:
    """Whatever the page shows and hands out is this visitor's."""
    expect(page.locator("#models-table tbody tr")).to_have_count(3)
    expect(page.locator("#edit-done li")).to_have_text(edits)
    rows = page.locator("#history tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(wish.title)
    expect(rows).to_contain_text(", ".join(wish.experts))
    expect(rows.locator(".path")).to_contain_text(wish.folder)
    expect(page.locator("#merge-status")).to_contain_text(wish.folder)
    open_tab(page, "#forecast", "Recipe")
    _, text = saved(page, page.locator("#recipe-save"))
    expect_recipe(text, wish)
    open_tab(page, "#views", "Table")
    _, text = saved(page, page.locator("#statistics-save"))
    assert {row["expert"] for row in csv.DictReader(io.StringIO(text))} == {*wish.experts}
    name, text = saved(page, page.locator("#history-report"))
    assert name == f"{wish.folder}.html"
    assert wish.title in text
    open_tab(page, "#forecast", "Coefficients")


def expect_recipe(text: str, wish: Wish) -> None:
    told = yaml.safe_load(text)
    assert told["merge_method"] == wish.method
    assert [Path(model["model"]).name for model in told["models"]] == [*wish.experts]
    assert told["parameters"]["lambda"] == wish.scaling


def test_two_visitors_at_once_see_nothing_of_each_other(visit: Page, other: Page, workplace: Path) -> None:
    settle(visit, ONE)
    settle(other, TWO)
    pick(visit, "#weights", Q, column=0)
    expect(visit.locator("#edit-picked")).to_contain_text(f"{Q} of bible")
    visit.locator("#edit-change").get_by_label("zero").click()
    other.locator("#edit-preset input").click()
    other.get_by_role("option", name="attention only").click()
    visit.locator("#edit-apply").click()
    expect_weights(visit, Q, [0, 0.7])
    expect_weights(visit, UP, [0.7, 0.7])
    expect_weights(other, UP, [0, 0])
    mine, yours = [f"{Q}: weight 0 of bible"], other.locator("#edit-done li").all_inner_texts()

    for page, wish in ((visit, ONE), (other, TWO)):  # the first is still being answered when the second asks
        ask(page, wish, 12)
    for page, wish in ((visit, ONE), (other, TWO)):
        expect_answers(page, wish)
    for page, wish in ((visit, ONE), (other, TWO)):
        page.locator("#output input, #output textarea").fill(wish.folder)
        page.locator("#run").click()
    for page, wish in ((visit, ONE), (other, TWO)):
        expect(page.locator("#merge-status")).to_contain_text("Merged.", timeout=120_000)
        expect_recipe((workplace / wish.folder / "mergescope.yaml").read_text(), wish)
    expect_mine(visit, ONE, mine)
    expect_mine(other, TWO, yours)

    ask(visit, ONE, 60)
    ask(other, TWO, 400)
    expect(other.locator("#answers article pre").first).to_be_visible(timeout=120_000)
    other.context.close()  # in the middle of an answer
    expect_answers(visit, ONE)
    visit.locator("#edit-undo").click()
    expect_weights(visit, Q, [0.7, 0.7])
    set_number(visit, "task_arithmetic-lambda", "0.5")
    expect_weights(visit, UP, [0.5, 0.5])
    visit.locator("#edit-redo").click()
    expect_weights(visit, Q, [0, 0.5])
    expect_mine(visit, ONE._replace(scaling=0.5), mine)
    assert (workplace / TWO.folder).is_dir()
