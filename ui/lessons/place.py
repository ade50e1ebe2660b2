"""Where a learner is: which lesson, which step, and which steps they have done; from links and for the page."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ui.lessons import LESSONS
from ui.lessons.lesson import Lesson, Step, Verdict

Solved = dict[str, list[int]]  # by lesson, the steps whose check was passed, from 0; kept in the learner's browser


@dataclass(frozen=True)
class Place:
    """A step of a lesson; the list of all lessons where there is none."""

    slug: str = ""
    index: int = 0  # from 0

    @property
    def lesson(self) -> Lesson | None:
        return LESSONS.get(self.slug)

    @property
    def step(self) -> Step | None:
        return self.lesson.steps[self.index] if self.lesson else None

    @property
    def last(self) -> bool:
        return self.lesson is not None and self.index == len(self.lesson.steps) - 1

    def moved(self, by: int) -> Place:
        """So many steps on, or back; the list of lessons beyond both ends."""
        index = self.index + by
        return Place(self.slug, index) if self.lesson and 0 <= index < len(self.lesson.steps) else Place()


def linked(query: Mapping[str, Any]) -> Place:
    """Where a link leads, `?lesson=slug&step=2`; to the first step where it names none that there is."""
    lesson = LESSONS.get(str(query.get("lesson", "")))
    if lesson is None:
        return Place()
    step = str(query.get("step", "1"))
    number = int(step) if step.isdecimal() else 1
    return Place(lesson.slug, number - 1 if 1 <= number <= len(lesson.steps) else 0)


def known(solved: Any) -> Solved:
    """What a browser has kept, without what cannot be true."""
    if not isinstance(solved, dict):
        return {}
    lists = {slug: solved[slug] for slug in LESSONS if isinstance(solved.get(slug), list)}
    return {slug: [n for n in range(len(LESSONS[slug].steps)) if n in some] for slug, some in lists.items()}


def with_step(solved: Solved, place: Place) -> Solved:
    """The same with one more step done."""
    return known({**solved, place.slug: [*solved.get(place.slug, []), place.index]})


def offer(lesson: Lesson, number: int, solved: Solved) -> str:
    """The words on the button that starts a lesson: its title, and how long it is or how far the learner is."""
    done, steps = len(solved.get(lesson.slug, [])), len(lesson.steps)
    so_far = "done" if done == steps else f"{done} of {steps} steps done" if done else f"{steps} steps"
    return f"{number}. {lesson.title}\n{lesson.minutes} minutes · {so_far}"


def heading(place: Place, solved: Solved) -> str:
    """The title of a step, and a dot for every step of its lesson.

    What the address bar should say goes with it, and which section of the page the step is about.
    """
    lesson, step = place.lesson, place.step
    if lesson is None or step is None:
        return '<div class="lesson-head" data-lesson=""></div>'
    done = solved.get(lesson.slug, [])
    dots = "".join(_dot(index, index == place.index, index in done) for index in range(len(lesson.steps)))
    link = f"?lesson={lesson.slug}&amp;step={place.index + 1}"
    here = f'data-lesson="{lesson.slug}" data-step="{place.index + 1}" data-section="{step.setup.section}"'
    return (
        f'<div class="lesson-head" {here}>'
        f'<p class="lesson-name">{html.escape(lesson.title)}</p><ol class="lesson-dots">{dots}</ol>'
        f"<h3>{html.escape(step.title)}</h3>"
        f'<a class="lesson-link" href="{link}" target="_blank" rel="noopener">Link to this step</a></div>'
    )


def _dot(index: int, here: bool, done: bool) -> str:
    words = f"Step {index + 1}{', done' if done else ''}{', this one' if here else ''}"
    state = " ".join(name for name, on in (("done", done), ("here", here)) if on)
    current = ' aria-current="step"' if here else ""
    return f'<li class="{state}"{current}><span>{words}</span></li>'


def answer(verdict: Verdict) -> str:
    """What a check has found, as a box."""
    right, words = verdict
    return f'<div class="notice {"good" if right else "info"}">{html.escape(words)}</div>'
