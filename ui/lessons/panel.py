"""The lessons beside the page: a list of them, and one step at a time with what to do and a check of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ui.events import PRIVATE, heard
from ui.lessons import LESSONS
from ui.lessons.facts import filled
from ui.lessons.lesson import Seen, Setup
from ui.lessons.place import Place, Solved, answer, heading, known, linked, offer, with_step
from ui.method_panel import MATH

CSS = Path(__file__).parents[1] / "lessons.css"
QUIET: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}
# The address bar follows the steps, so that it can be copied; what else it says is left alone.
ADDRESS = """
watch('value', () => {
  const head = element.querySelector('.lesson-head'), url = new URL(window.location.href);
  if (!head) return;
  for (const key of ['lesson', 'step'])
    head.dataset[key] ? url.searchParams.set(key, head.dataset[key]) : url.searchParams.delete(key);
  if (url.href !== window.location.href) window.history.replaceState(window.history.state, '', url);
});
"""
SPOKEN = "element.setAttribute('role', 'status');"  # readers of screens say what a check has found


# On a narrow screen the panel is a sheet that scrolls by itself. After the last step there is only the list of lessons.
IN_SIGHT = "() => requestAnimationFrame(() => document.querySelector('#ID')?.scrollIntoView({block: 'nearest'}))"

# What a step is about begins where the window does, and on a small screen above the sheet. While the page above it
# still fills, it stays there, until the learner does something. The focus stays where it is.
SECTION_IN_SIGHT = """() => {
  const section = document.getElementById(document.querySelector('#lesson-head .lesson-head')?.dataset.section);
  if (!section) return;
  const behavior = matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth';
  const filling = new ResizeObserver(() => section.scrollIntoView({block: 'start', behavior}));
  const settled = () => filling.disconnect();
  document.querySelectorAll('.step').forEach((part) => filling.observe(part));
  for (const act of ['wheel', 'touchmove', 'pointerdown', 'keydown']) addEventListener(act, settled, {once: true});
  setTimeout(settled, 10000);
}"""


@dataclass(frozen=True)
class LessonsPanel:
    """The components of the panel."""

    sidebar: gr.Sidebar
    listed: gr.Column
    starts: tuple[gr.Button, ...]  # one for each lesson
    walk: gr.Column
    leave: gr.Button
    head: gr.HTML
    text: gr.Markdown
    do: gr.Markdown
    arrange: gr.Button
    check: gr.Button
    verdict: gr.HTML
    back: gr.Button
    next: gr.Button
    place: gr.State
    solved: gr.BrowserState

    @property
    def changing(self) -> list[Any]:
        """What `shown` gives values for, in that order."""
        parts = [self.listed, self.walk, self.head, self.text, self.do, self.verdict, self.back, self.next]
        return [self.place, *parts, *self.starts]


def lessons_panel() -> LessonsPanel:
    """The panel at the right, closed; the page opens it by `wire_lessons`' opener or by a link."""
    with gr.Sidebar(label="Lessons", position="right", open=False, width=400, elem_id="lessons") as sidebar:
        with gr.Column(elem_id="lesson-list") as listed:
            gr.HTML(
                '<h2>Lessons</h2><p class="lead">Guided walks on the embedded models, a few minutes each.</p>',
                padding=False,
            )
            starts = tuple(
                gr.Button(offer(lesson, number, {}), elem_id=f"lesson-{lesson.slug}", elem_classes="lesson-offer")
                for number, lesson in enumerate(LESSONS.values(), 1)
            )
        with gr.Column(visible=False, elem_id="lesson-walk") as walk:
            leave = gr.Button("All lessons", size="sm", elem_id="lesson-leave")
            head = gr.HTML(elem_id="lesson-head", padding=False, js_on_load=ADDRESS)
            text = gr.Markdown(elem_id="lesson-text", latex_delimiters=MATH)
            do = gr.Markdown(elem_id="lesson-do", latex_delimiters=MATH)
            with gr.Row(elem_classes="lesson-actions"):
                arrange = gr.Button("Set this up for me", size="sm", min_width=80, elem_id="lesson-arrange")
                check = gr.Button("Check", variant="primary", size="sm", min_width=80, elem_id="lesson-check")
            verdict = gr.HTML(elem_id="lesson-verdict", padding=False, js_on_load=SPOKEN)
            with gr.Row(elem_classes="lesson-actions"):
                back = gr.Button("Back", size="sm", min_width=80, elem_id="lesson-back")
                onward = gr.Button("Next", size="sm", min_width=80, elem_id="lesson-next")
    # Fixed names: with those that Gradio draws at each start, nothing would outlive a restart.
    solved = gr.BrowserState({}, storage_key="mergescope-lessons", secret="mergescope-lessons")
    return LessonsPanel(
        sidebar, listed, starts, walk, leave, head, text, do, arrange, check, verdict, back, onward,
        gr.State(Place()), solved,
    )  # fmt: skip


def wire_lessons(
    demo: gr.Blocks,
    panel: LessonsPanel,
    opener: gr.Button | None,
    ask: Callable[..., Any],
    see: Callable[..., Seen],
    arranged: Sequence[Any],
    arrange: Callable[[Setup], Sequence[Any]],
) -> None:
    """Let the panel walk, look and set up.

    `ask(event, fn, inputs, outputs)` calls a function after an event with the inputs, and with more values from the
    page, from which `see(request, *values)` tells what the visitor has in front of them.
    `arrange(setup)` gives a value or an update for each of the components `arranged`. Nothing on the page changes
    before the visitor asks for it, also when a link has opened the panel.
    """

    def on_load(request: gr.Request, solved: Any) -> Any:
        place = linked(request.query_params)
        return place if place.lesson or known(solved) else gr.skip()

    def on_begin(place: Place, solved: Any) -> tuple[Any, ...]:
        return gr.Sidebar(open=True) if place.lesson else gr.skip(), *shown(place, known(solved))

    def on_step(by: int) -> Callable[[Place, Any], tuple[Any, ...]]:
        return lambda place, solved: shown(place.moved(by), known(solved))

    def on_start(slug: str) -> Callable[[Any], tuple[Any, ...]]:
        return lambda solved: shown(Place(slug), known(solved))

    def on_check(request: gr.Request, place: Place, solved: Any, *values: Any) -> tuple[Any, ...]:
        return checked(place, known(solved), see(request, *values))

    def on_arrange(place: Place) -> list[Any]:
        return list(arrange(place.step.setup)) if place.step else [gr.skip()] * len(arranged)

    begun = gr.State(None)  # so that a panel with nothing to tell is left as it is
    demo.load(on_load, panel.solved, begun, **QUIET)
    begun.change(on_begin, [begun, panel.solved], [panel.sidebar, *panel.changing], **QUIET)
    if opener is not None:
        opener.click(lambda: gr.Sidebar(open=True), None, panel.sidebar, **QUIET)
    for slug, start in zip(LESSONS, panel.starts, strict=True):
        start.click(on_start(slug), panel.solved, panel.changing, **QUIET)
    panel.leave.click(lambda solved: shown(Place(), known(solved)), panel.solved, panel.changing, **QUIET)
    for button, by in ((panel.back, -1), (panel.next, 1)):
        turned = button.click(on_step(by), [panel.place, panel.solved], panel.changing, **QUIET)
        turned.then(None, js=IN_SIGHT.replace("ID", "lesson-head"), **PRIVATE)
    checking = [panel.verdict, panel.solved, panel.head, panel.next]
    told = ask(heard(panel.check.click), on_check, [panel.place, panel.solved], checking)
    told.then(None, js=IN_SIGHT.replace("ID", "lesson-verdict"), **PRIVATE)
    set_up = panel.arrange.click(on_arrange, panel.place, list(arranged), **QUIET)
    set_up.then(None, js=SECTION_IN_SIGHT, **PRIVATE)
    # In the browser, at once: what a check finds right after must not be wiped.
    panel.arrange.click(None, None, panel.verdict, js="() => ''", **PRIVATE)


def shown(place: Place, solved: Solved) -> tuple[Any, ...]:
    """What stands in the panel at a place: values for `LessonsPanel.changing`."""
    offers = [offer(lesson, number, solved) for number, lesson in enumerate(LESSONS.values(), 1)]
    step = place.step
    done = place.index in solved.get(place.slug, [])
    return (
        place,
        gr.Column(visible=step is None),
        gr.Column(visible=step is not None),
        heading(place, solved),
        filled(step.text) if step else "",
        f"**Do this.** {filled(step.do)}" if step else "",
        "",
        gr.Button(interactive=place.index > 0),
        _onward(place, done),
        *offers,
    )


def checked(place: Place, solved: Solved, seen: Seen) -> tuple[Any, ...]:
    """What a check has found, the steps that are done now, and the heading and the way on that follow from them."""
    if place.step is None:
        return (gr.skip(),) * 4
    verdict = place.step.checked(seen)
    solved = with_step(solved, place) if verdict[0] else solved
    done = place.index in solved.get(place.slug, [])
    return answer(verdict), solved, heading(place, solved), _onward(place, done)


def _onward(place: Place, done: bool) -> Any:
    """The button to the next step, which stands out once this one is done; nobody is held up."""
    return gr.Button("Finish" if place.last else "Next", variant="primary" if done else "secondary")
