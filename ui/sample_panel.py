"""Step 4, Sample: what base, experts and merge write after the same prompt, side by side."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from merging.errors import MergeError, MergeStopped
from merging.generate import Answer, Ask
from merging.hub.room import using
from merging.recipe import Recipe
from merging.unwritten import KEEP, Unwritten, merged_in_memory
from ui.asked import NOW, WRITTEN, Asked, One
from ui.controls import Slider
from ui.errors import notice, worded
from ui.gpu import answers
from ui.held import in_words
from ui.jobs import Job, stoppable
from ui.merge_panel import progress
from ui.pace import bar

EXAMPLES = {
    "A play": "[Enter ",
    "Scripture": "7 And the LORD said unto ",
    "Code": "    def read(self, ",
    "Prose": "The President of the United States ",
}
EMPTY = '<p class="caption">What the base, every expert and the merge write will stand here, side by side.</p>'


@dataclass(frozen=True)
class Sample:
    """The components of the section."""

    form: dict[str, Any]
    which: gr.Radio
    run: gr.Button
    stop: gr.Button
    answers: gr.HTML


def sample_panel() -> Sample:
    prompt = gr.Textbox(EXAMPLES["A play"], label="Prompt", lines=3, elem_id="prompt")
    with gr.Row(elem_classes="examples"):
        for label, text in EXAMPLES.items():
            example = gr.Button(label, size="sm", variant="secondary", min_width=80)
            example.click(_setter(text), None, prompt, show_progress="hidden", api_visibility="private")
    with gr.Row(elem_classes="sample-settings"):
        form = {
            "prompt": prompt,
            "temperature": Slider(0, 2, 0.7, step=0.05, label="Temperature", info="0 takes the likeliest token."),
            "top_p": Slider(0.05, 1, 0.95, step=0.05, label="Top-p", info="Only the likeliest, up to this share."),
            "length": Slider(1, 400, 100, step=1, label="Length", info="In tokens.", elem_id="sample-length"),
            "seed": gr.Number(0, label="Random seed", precision=0, info="The same for every model."),
            "chat": gr.Checkbox(False, label="Use the chat template", info="For models that have one."),
        }
    which = gr.Radio([NOW, WRITTEN], value=NOW, label="The merge", elem_id="sample-which", elem_classes="chips")
    with gr.Row():
        run = gr.Button("Sample", variant="primary", elem_id="sample-run")
        stop = gr.Button("Stop", elem_id="sample-stop", interactive=False)
    shown = gr.HTML(EMPTY, elem_id="answers", padding=False)
    return Sample(form, which, run, stop, shown)


def _setter(text: str) -> Any:
    return lambda: text


def run_sample(who: list[One], fields: dict[str, Any], visitor: str) -> Iterator[tuple[str, Asked | None]]:
    """The answers as cards that grow, and in the end what was asked of whom; none where nobody has answered.

    The base is the first of those who are asked, and the merge the last. Who cannot be asked, says why.
    """
    told = [Answer("", "done", error=one.missing) if one.missing else Answer() for one in who]
    paths = {index: one.source for index, one in enumerate(who) if isinstance(one.source, Path)}
    models: dict[int, Path | Unwritten] = {**paths}
    try:
        ask = Ask(**{**fields, "length": int(fields["length"] or 0), "seed": int(fields["seed"] or 0)})
        ask.checked()
        with stoppable(visitor, "sample") as stop, using(*_read(who)):
            if isinstance(recipe := who[-1].source, Recipe):
                words = "Waiting for another merge in memory" if KEEP.lock.locked() else "Reading headers"
                job = Job(lambda tell: merged_in_memory(recipe, tell, stop))
                for shown in _making(job, words):
                    yield cards(who, told, ask.prompt, True, shown), None
                try:
                    models[len(who) - 1] = job.result()
                except (MergeError, OSError) as error:
                    told[-1] = Answer("", "done", error=worded(error))
            last = 0.0
            for some in answers([*models.values()], paths[0], ask, stop):
                said = dict(zip(models, some, strict=True))
                told = [said.get(index, answer) for index, answer in enumerate(told)]
                if time.monotonic() - last > 0.1:
                    last = time.monotonic()
                    yield cards(who, told, ask.prompt, True), None
    except MergeStopped:
        yield notice("Stopped.", "info"), None
    except (MergeError, OSError) as error:
        yield notice(worded(error)), None
    else:
        yield cards(who, told, ask.prompt, busy=False), heard(who, told, ask.prompt)


def _read(who: list[One]) -> Iterator[Path | None]:
    """The models that are read to answer, or to make the merge."""
    for one in who:
        yield from (one.source.base, *one.source.experts) if isinstance(one.source, Recipe) else (one.source,)


def _making(job: Job, words: str) -> Iterator[str]:
    """How far a merge in memory is; `words` stand there until its first step."""
    started = time.monotonic()
    yield bar(0, words, "")
    for step in job:
        yield progress(step, time.monotonic() - started)


def heard(who: list[One], told: list[Answer], prompt: str) -> Asked | None:
    """What was asked, of those who have answered."""
    spoke = [one for one, answer in zip(who, told, strict=True) if answer.text or _ended(answer)]
    models = tuple(str(one.source) for one in spoke if one.kind != "merge")
    return Asked(prompt, models, spoke[-1].recipe) if spoke else None


def _ended(answer: Answer) -> bool:
    """Whether a model has said all that it had to say, be it nothing."""
    return answer.state == "done" and not answer.error


def cards(who: list[One], told: list[Answer], prompt: str, busy: bool, making: str = "") -> str:
    """The answers side by side, each after the prompt, with everything that a model wrote escaped.

    `making` tells how far the merge is, while it is made.
    """
    boxes = []
    for one, answer in zip(who, told, strict=True):
        body = f"<pre><span>{html.escape(prompt)}</span>{html.escape(answer.text)}</pre>"
        if answer.state in ("waiting", "loading"):
            words = answer.state.capitalize() if busy else "Stopped before it was asked."
            body = f'<p class="caption">{words}</p>'
            body = making if making and one.kind == "merge" else body
        if answer.note:
            body = f'<p class="caption">{html.escape(answer.note)}</p>{body}'
        if answer.error:
            body = notice(answer.error, "warning" if one.missing else "error")
        made = (
            f'<p class="caption">{html.escape(in_words(one.recipe))}</p>'
            if one.recipe and not one.recipe.problems()
            else ""
        )
        boxes.append(f'<article class="answer {one.kind}"><h3>{html.escape(one.name)}</h3>{made}{body}</article>')
    return f'<div class="answers" aria-busy="{str(busy).lower()}">{"".join(boxes)}</div>'
