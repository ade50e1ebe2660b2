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
from merging.generate import Answer, Ask, answers
from merging.recipe import Recipe
from merging.unwritten import Unwritten, merged_in_memory
from ui.controls import Slider
from ui.errors import notice
from ui.jobs import stoppable
from ui.models_panel import Selection

EXAMPLES = {
    "A play": "[Enter ",
    "Scripture": "7 And the LORD said unto ",
    "Code": "    def read(self, ",
    "Prose": "The President of the United States ",
}
NOW, WRITTEN = "as it stands, before it is written", "as it was last written"
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


def run_sample(selection: Selection, merged: str | Recipe, fields: dict[str, Any], visitor: str) -> Iterator[str]:
    """The answers of base, each fitting expert and the merge, as cards that grow.

    The merge is in that folder, or is made of the recipe in memory; there is none where the folder is empty.
    """
    if not selection.base:
        yield notice("No base model is chosen. Choose one in step 1.")
        return
    names = ["base", *selection.names]
    models: list[Path | Unwritten] = [Path(path) for path in (selection.base, *selection.fitting)]
    try:
        ask = Ask(**{**fields, "length": int(fields["length"] or 0), "seed": int(fields["seed"] or 0)})
        ask.checked()
        with stoppable(visitor, "sample") as stop:
            if merged:
                yield notice("Merging in memory.", "info") if isinstance(merged, Recipe) else cards(names, [], "", True)
                models.append(merged_in_memory(merged, stop=stop) if isinstance(merged, Recipe) else Path(merged))
                names.append("merge: as it stands" if isinstance(merged, Recipe) else f"merge: {Path(merged).name}")
            told, shown = [Answer() for _ in names], 0.0
            for told in answers(models, Path(selection.base), ask, stop):
                if time.monotonic() - shown > 0.1:
                    shown = time.monotonic()
                    yield cards(names, told, ask.prompt, busy=True)
    except MergeStopped:
        yield notice("Stopped.", "info")
        return
    except MergeError as error:
        yield notice(str(error))
        return
    yield cards(names, told, ask.prompt, busy=False)


def cards(names: list[str], told: list[Answer], prompt: str, busy: bool) -> str:
    """The answers side by side, each after the prompt, with everything that a model wrote escaped."""
    boxes = []
    for name, answer in zip(names, told or [Answer() for _ in names], strict=True):
        kind = "base" if name == "base" else "merge" if name.startswith("merge: ") else "expert"
        body = f"<pre><span>{html.escape(prompt)}</span>{html.escape(answer.text)}</pre>"
        if busy and answer.state in ("waiting", "loading"):
            body = f'<p class="caption">{"Loading" if answer.state == "loading" else "Waiting"}</p>'
        if answer.note:
            body = f'<p class="caption">{html.escape(answer.note)}</p>{body}'
        if answer.error:
            body = notice(answer.error)
        boxes.append(f'<article class="answer {kind}"><h3>{html.escape(name)}</h3>{body}</article>')
    return f'<div class="answers" aria-busy="{str(busy).lower()}">{"".join(boxes)}</div>'
