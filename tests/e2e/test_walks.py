"""Every lesson from its first step to its last in a browser; what falls short at each step is told in one of them."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import ROOT, add_experts, drawn, pick, set_number
from ui.lessons import LESSONS
from ui.lessons.lesson import EXPERTS, Setup
from ui.lessons.norms import ADAPTERS

pytestmark = pytest.mark.e2e

ZOO = ROOT / "zoo"
V_PROJ = "model.layers.0.self_attn.v_proj.weight"


class Walk:
    """A learner in a lesson, who sets up each step before doing what it asks."""

    def __init__(self, page: Page, app_url: str, slug: str) -> None:
        self.page, self.lesson, self.at = page, LESSONS[slug], 0
        page.goto(f"{app_url.rstrip('/')}/?lesson={slug}")
        drawn(page, "#weights")
        expect(page.locator("#lesson-head h3")).to_have_text(self.lesson.steps[0].title)
        page.locator("#sample-length input[type=number]").fill("4")

    def set_up(self) -> None:
        """Let the lesson set the page up after a check in vain, and wait until all of it is there."""
        self.page.locator("#lesson-check").click()
        expect(self.page.locator("#lesson-verdict .notice.info")).to_be_visible()
        self.page.locator("#lesson-arrange").click()
        setup: Setup = self.lesson.steps[self.at].setup
        expect(self.page.locator(f"#method input[value='{setup.method}']")).to_be_checked()
        for key, value in setup.values.items():
            control = self.page.locator(f"#{setup.method}-{key}")
            if isinstance(value, str):
                expect(control.get_by_label(value, exact=True)).to_be_checked()
            else:
                expect(control.locator("input[type=number]")).to_have_value(f"{value:g}")
        self.read(*setup.experts)
        expect(self.page.locator("#lesson-verdict .notice")).to_have_count(0)

    def read(self, *experts: str) -> None:
        """Wait until these experts, and no others, are read."""
        words = ", ".join(rf"{expert} \d+%" for expert in experts)
        expect(self.page.locator("#see-note .caption")).to_have_text(re.compile(rf"did not move at all: {words}\.$"))

    def short(self, words: str) -> None:
        """A check finds that something is missing, and says what."""
        self.page.locator("#lesson-check").click()
        expect(self.page.locator("#lesson-verdict .notice.info")).to_contain_text(words)
        expect(self.page.locator("#lesson-next.primary")).to_have_count(0)

    def done(self, words: str) -> None:
        """A check finds that the step is done, and the learner goes on."""
        self.page.locator("#lesson-check").click()
        expect(self.page.locator("#lesson-verdict .notice.good")).to_contain_text(words)
        expect(self.page.locator("#lesson-head .lesson-dots .done")).to_have_count(self.at + 1)
        expect(self.page.locator("#lesson-next.primary")).to_be_visible()
        self.page.locator("#lesson-next").click()
        self.at += 1
        if self.at < len(self.lesson.steps):
            expect(self.page.locator("#lesson-head h3")).to_have_text(self.lesson.steps[self.at].title)
            return
        start = self.page.locator(f"#lesson-{self.lesson.slug}")
        expect(start).to_contain_text("minutes · done")
        start.click()
        expect(self.page.locator("#lesson-head h3")).to_have_text(self.lesson.steps[0].title)
        expect(self.page.locator("#lesson-head .lesson-dots .done")).to_have_count(self.at)

    def look_into(self, tensor: str, plot: str = "#weights") -> None:
        pick(self.page, plot, tensor)
        expect(self.page.locator("#tensor-detail h3")).to_have_text(tensor)

    def leave_out(self, *experts: str) -> None:
        for expert in experts:
            token = self.page.locator("#experts .token", has_text=f"{expert} (embedded)")
            token.locator(".token-remove").click()

    def add(self, *experts: str) -> None:
        add_experts(self.page, [ZOO / expert for expert in experts])

    def sample(self, prompt: str, answers: int) -> None:
        self.page.locator("#step-sample").get_by_role("button", name=prompt, exact=True).click()
        self.page.locator("#sample-run").click()
        cards = self.page.locator("#answers [aria-busy=false] article")
        expect(cards).to_have_count(answers, timeout=120_000)


def test_what_a_task_vector_is(watched: Page, app_url: str) -> None:
    walk = Walk(watched, app_url, "task-vectors")

    walk.short("This step is about shakespeare, and other experts are chosen.")
    walk.set_up()
    walk.short("No tensor has been clicked yet.")
    walk.look_into(V_PROJ, "#norms")
    walk.done(f"{V_PROJ}: the expert moved it by")

    walk.look_into("model.norm.weight", "#norms")
    walk.short("and another tensor by 32.9%. Look on.")
    walk.look_into(V_PROJ, "#norms")
    walk.done(f"Found: nothing moved further for its size than {V_PROJ}")

    walk.set_up()
    walk.short("Still missing among the experts: bible and python.")
    walk.add("bible", "python")
    walk.read(*EXPERTS)
    walk.done("The closest two are shakespeare and bible, with a cosine of 0.")

    walk.set_up()
    walk.short("λ is 0. Move it to 1")
    set_number(watched, "task_arithmetic-lambda", "1")
    walk.short("λ is 1. Now ask base, expert and this merge the prompt “[Enter ”")
    walk.sample("A play", 3)
    walk.done("You walked the whole way of ‖τ‖ = 26.6")

    walk.set_up()
    walk.short("the merge has not passed the expert")
    set_number(watched, "task_arithmetic-lambda", "1.5")
    walk.done("At λ = 1.5 the merge is 1.5 times as far from the base")


def test_interference_and_ties(watched: Page, app_url: str) -> None:
    walk = Walk(watched, app_url, "interference")

    walk.set_up()
    walk.leave_out("python")
    walk.read("shakespeare", "bible")
    walk.done("Shakespeare and bible contradict each other in")

    walk.set_up()
    set_number(watched, "ties-density", "0.2")
    walk.done("what was trimmed was mostly noise")

    walk.set_up()
    walk.look_into(V_PROJ)
    walk.done(f"In {V_PROJ} you can follow single entries")

    walk.set_up()
    set_number(watched, "ties-lambda", "0.8")
    walk.done("One expert alone decides")

    walk.set_up()
    watched.locator("#run").click()
    expect(watched.locator("#merge-status")).to_contain_text("Merged.", timeout=120_000)
    expect(watched.locator("#history tbody tr")).to_have_count(1)
    walk.sample("Prose", 5)
    walk.done("Your merge is on disk with its recipe beside it")


def test_competition_and_pcb(watched: Page, app_url: str) -> None:
    walk = Walk(watched, app_url, "competition")

    walk.set_up()
    walk.look_into(V_PROJ)
    walk.done(f"In {V_PROJ} you see size, agreement and score of single entries")

    walk.set_up()
    set_number(watched, "pcb-ratio", "0.3")
    walk.done("At r = 0.3 nobody decides")

    walk.set_up()
    weight = watched.get_by_role("spinbutton", name="Weight of python")
    weight.fill("0")
    weight.press("Enter")
    expect(watched.locator("#expert-weights textarea")).to_have_value(re.compile(r"python\W+0\D*$"))
    walk.done("Python adds nothing, and nobody has taken its place.")

    walk.set_up()
    watched.locator("#pcb-variant").get_by_label("pairwise", exact=True).click()
    walk.done("With a vote pair by pair the effective weights are shakespeare 0.")

    walk.set_up()
    set_number(watched, "pcb-lambda", "0.5")
    walk.sample("Scripture", 5)
    walk.done("At λ = 0.5 you have set ratio and length yourself")


def test_norms_from_and_lora(watched: Page, app_url: str) -> None:
    walk = Walk(watched, app_url, "norms")

    walk.set_up()
    set_number(watched, "from-k", "8")
    walk.done("Even at k = 8 the coefficients are shakespeare 0.")

    walk.set_up()
    walk.leave_out("shakespeare", "python")
    walk.add(*ADAPTERS)
    walk.read("bible", *ADAPTERS)
    walk.leave_out("bible")
    walk.read(*ADAPTERS)
    walk.done("The adapters' norms are 17.4")

    walk.set_up()
    set_number(watched, "from-k", "8")
    walk.done("the loud experts have taken nearly everything")

    walk.set_up()
    set_number(watched, "from-k", "-2")
    walk.done("a negative k turns the quiet one up")

    walk.set_up()
    watched.locator("#from-lora").get_by_label("factors", exact=True).click()
    walk.done("Each adapter's own product now enters with")
