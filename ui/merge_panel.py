"""Step 3, Merge: choose a method, set its parameters, run it, and stop it."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr

from merging.engine import Step, merge
from merging.errors import MergeError, MergeStopped
from merging.method import METHODS, Method
from merging.preflight import Preflight, check
from merging.publish import beside
from merging.recipe import Recipe
from merging.sizes import in_words
from ui.controls import control
from ui.errors import notice
from ui.finished import finished
from ui.jobs import Job, stoppable
from ui.models_panel import Selection

FIRST = "from"


@dataclass(frozen=True)
class Merge:
    """The components of the section; `form` maps `method` and `method.parameter` to theirs."""

    form: dict[str, Any]
    sections: dict[str, gr.Group]
    weights: gr.State  # by expert path; only those that differ from 1
    output: gr.Textbox
    run: gr.Button
    stop: gr.Button
    estimate: gr.HTML
    status: gr.HTML
    merged: gr.State  # the base and the folder of the last merge, both empty before there is one


def merge_panel(selection: gr.State) -> Merge:
    titles = [(method.title, method.name) for method in METHODS.values()]
    form: dict[str, Any] = {"method": gr.Radio(titles, value=FIRST, label="Merge method", elem_id="method")}
    sections = {}
    for method in METHODS.values():
        with gr.Group(visible=method.name == FIRST, elem_classes="method") as section:
            gr.Markdown(about(method), elem_classes="about", latex_delimiters=[_DISPLAY])
            # What slides first, then what is chosen: rows of one kind are of one height.
            for param in sorted(method.params.values(), key=lambda param: param.kind != "number"):
                if not param.per_expert:
                    key = f"{method.name}.{param.key}"
                    form[key] = control(param, elem_id=key.replace(".", "-"))
        sections[method.name] = section
    weights = gr.State({})
    _weight_sliders(form["method"], selection, weights)
    output = gr.Textbox(fresh_folder(), label="Output folder", elem_id="output", info="It must not hold anything.")
    with gr.Row():
        run = gr.Button("Merge", variant="primary", elem_id="run")
        stop = gr.Button("Stop", elem_id="stop", interactive=False)
    estimate = gr.HTML(elem_id="merge-estimate", padding=False)
    status = gr.HTML(elem_id="merge-status", padding=False)
    return Merge(form, sections, weights, output, run, stop, estimate, status, gr.State(("", "")))


_DISPLAY: dict[str, str | bool] = {"left": "$$", "right": "$$", "display": True}


def about(method: Method) -> str:
    """What the method does, its formula and its paper, from its declaration."""
    return f"{method.summary} [Paper]({method.paper})\n\n$${method.formula}$$"


def _weight_sliders(method: gr.Radio, selection: gr.State, weights: gr.State) -> None:
    """A slider per expert, for methods that weigh them; what was set survives a change of method or models."""

    @gr.render(inputs=[method, selection, weights], triggers=[method.change, selection.change])
    def sliders(name: str, chosen: Selection, known: dict[str, float]) -> None:
        param = METHODS[name].params.get("weight")
        if param is None or not chosen.fitting:
            return
        with gr.Group(elem_classes="weights"):
            for path, expert in zip(chosen.fitting, chosen.names, strict=True):
                slider = control(param, value=known.get(path), label=f"Weight of {expert}", key=("weight", path))
                slider.input(
                    lambda value, now, path=path: now if value is None else {**now, path: float(value)},
                    [slider, weights],
                    weights,
                    show_progress="hidden",
                    trigger_mode="always_last",
                    api_visibility="private",
                )


def fresh_folder() -> str:
    """A folder name that is not taken, told apart by the time."""
    return str(Path("merges") / f"{datetime.now():%Y-%m-%d-%H%M%S}")


def recipe_of(selection: Selection, fields: dict[str, Any], weights: dict[str, float], all_of_them: bool) -> Recipe:
    """The recipe that the form stands for, with all chosen experts or with those that fit."""
    name = fields["method"]
    experts = selection.experts if all_of_them else selection.fitting
    values = {key.split(".", 1)[1]: value for key, value in fields.items() if key.startswith(f"{name}.")}
    weighed = "weight" in METHODS[name].params
    return Recipe(
        name,
        Path(selection.base),
        tuple(Path(path) for path in experts),
        tuple(weights.get(path, 1.0) if weighed else 1.0 for path in experts),
        values,
    )


def estimate(recipe: Recipe | None, output: str) -> str:
    """What a merge would read, write and take, or the first thing that is in its way; from headers alone."""
    if recipe is None or not recipe.experts or not output.strip():
        return ""
    found = check(recipe, output.strip())
    return f'<p class="caption">{html.escape(in_the_way(found) if found.problems else needed(found))}</p>'


def in_the_way(found: Preflight) -> str:
    """The first of a merge's problems, and how many more there are."""
    first, *others = found.problems
    more = f" And {len(others)} more {'thing is' if len(others) == 1 else 'things are'} in the way." if others else ""
    return first + more


def needed(found: Preflight) -> str:
    """What a merge would read, write and take, in a sentence."""
    sizes = f"Reads {in_words(found.bytes_in)} and writes {in_words(found.bytes_out)}"
    return f"{sizes}, with about {in_words(found.memory)} of memory, in about {span(max(found.seconds, 1))}."


def run_merge(recipe: Recipe | None, output: str, visitor: str) -> Iterator[tuple[str, str]]:
    """Merge, telling how far it is: pairs of what to show and the folder of the merge, empty until it is there."""
    if not output.strip():
        yield notice("The output folder has no name. Write one."), ""
        return
    if recipe is None:
        yield notice("There is no base model to merge into. Choose one in step 1."), ""
        return
    started = time.monotonic()
    yield bar(0, "Reading headers", ""), ""
    with stoppable(visitor, "merge") as stop:
        job = Job(lambda tell: merge(recipe, output.strip(), tell, stop))
        for step in job:
            yield progress(step, time.monotonic() - started), ""
        try:
            report = job.result()
        except MergeStopped:
            yield notice(stopped(output.strip()), "info"), ""
        except MergeError as error:
            yield notice(str(error)), ""
        else:
            yield finished(report), str(report.out)


def progress(step: Step, seconds: float) -> str:
    """How far a merge is: its share, the tensor, and the time left."""
    share = step.bytes_done / max(step.bytes_total, 1)
    left = f"about {span(seconds / share * (1 - share))} left" if share > 0.02 else ""
    return bar(share, f"{step.stage} {step.name}", left)


def stopped(output: str) -> str:
    """What a stopped merge has left."""
    if not beside(Path(output).expanduser().resolve()).is_dir():
        return "Stopped. Nothing was written."
    return f"Stopped. Nothing is at {output}; merge again with the same settings to go on where this stopped."


def span(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def bar(share: float, what: str, left: str) -> str:
    """A progress bar as HTML."""
    percent = f"{share:.0%}"
    return (
        f'<div class="progress-box"><progress value="{share:.3f}" max="1" aria-label="Progress"></progress>'
        f"<div><b>{percent}</b> <span>{html.escape(what)}</span> <i>{html.escape(left)}</i></div></div>"
    )
