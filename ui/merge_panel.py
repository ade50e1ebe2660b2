"""Step 3, Merge: choose a method, set its parameters, run it, and stop it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, cast

import gradio as gr

from merging import space
from merging.engine import Step, merge
from merging.errors import MergeError, MergeStopped, RecipeError
from merging.findings import inside
from merging.hub.models import fetched, on_the_hub, pinned
from merging.hub.room import too_many, using
from merging.method import ADAPTERS, find_method
from merging.preflight import Preflight, check
from merging.publish import beside, target
from merging.recipe import Recipe
from merging.report import Report
from merging.sizes import in_words
from ui.controls import control, first
from ui.errors import escaped, notice, worded
from ui.events import PRIVATE
from ui.finished import finished, kept, ranks_in_words
from ui.folders import fresh_folder, unplaceable
from ui.jobs import Job, dismiss, stoppable
from ui.line import MERGING, its_turn
from ui.merges import check_size, make_room, reading
from ui.method_panel import method_panel
from ui.models_panel import Selection
from ui.pace import bar, span
from ui.result_panel import rank_of, result_panel


@dataclass(frozen=True)
class Merge:
    """The components of the section; `form` maps `method`, `method.parameter`, `result` and `rank` to theirs."""

    form: dict[str, Any]
    weights: gr.Textbox  # by expert path, as JSON: what the browser itself can write, without asking first
    filled: gr.State  # another object each time that the weights were set by anything but their sliders
    output: gr.Textbox
    far: gr.Radio  # what becomes of models that only the Hub has
    run: gr.Button
    stop: gr.Button
    estimate: gr.HTML
    status: gr.HTML


# The weight of one expert among all, as text; an emptied field leaves it as it was.
SLIDE = "(value, all) => value === null ? all : JSON.stringify({...JSON.parse(all), [%s]: value})"
DOWNLOADING = "Downloading"
DOWNLOAD, STREAM = "download", "stream"
FAR = [("Download, then merge", DOWNLOAD), ("Stream, without keeping the models", STREAM)]
NAMELESS = "The output folder has no name. Write one."
VARIES = "It is not the same for all tensors. Move it, and it is."


def merge_panel(selection: gr.State) -> Merge:
    form = method_panel(selection)
    weights, filled = gr.Textbox("{}", visible="hidden", elem_id="expert-weights"), gr.State(None)
    _weight_sliders(form["method"], selection, weights, filled)
    form |= result_panel(form["method"], selection)
    words = kept() if space.here() else "It must not hold anything."
    label = "Name of the merge" if space.here() else "Output folder"
    output = gr.Textbox(fresh_folder(), label=label, elem_id="output", info=words)
    far = gr.Radio(FAR, value=DOWNLOAD, label="Models on the Hub", info=" ", visible=False, elem_id="far")
    with gr.Row():
        run = gr.Button("Merge", variant="primary", elem_id="run")
        stop = gr.Button("Stop", elem_id="stop", interactive=False)
    estimate = gr.HTML(elem_id="merge-estimate", padding=False)
    status = gr.HTML(elem_id="merge-status", padding=False)
    return Merge(form, weights, filled, output, far, run, stop, estimate, status)


def weights_in(text: str) -> dict[str, Any]:
    """The weights that the page holds, by expert path; MergeError where nobody could have set them there."""
    try:
        weights = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        weights = None
    if not isinstance(weights, dict):
        raise MergeError("The weights of the experts got lost on their way from the page. Reload it.")
    return weights


def _weight_sliders(method: gr.Radio, selection: gr.State, weights: gr.Textbox, filled: gr.State) -> None:
    """A slider per expert, for methods that weigh them; what was set survives a change of method or models."""

    # Not when `weights` change: they do with every step of a slider that is dragged.
    @gr.render(inputs=[method, selection, weights], triggers=[method.change, selection.change, filled.change])
    def sliders(name: str, chosen: Selection, text: str) -> None:
        known, param = weights_in(text), find_method(name).params.get("weight")
        if param is None or not chosen.fitting:
            return
        with gr.Group(elem_classes="weights"):
            for path, expert in zip(chosen.fitting, chosen.names, strict=True):
                weight = known.get(path)
                extra = {"info": VARIES} if isinstance(weight, list | dict) else {}
                label = f"Weight of {expert}"
                slider = control(param, value=first(weight), label=label, **extra)
                told = SLIDE % json.dumps(path)
                slider.input(None, [slider, weights], weights, js=told, trigger_mode="multiple", **PRIVATE)


def recipe_of(selection: Selection, fields: dict[str, Any], weights: dict[str, Any], all_of_them: bool) -> Recipe:
    """The recipe that the form stands for, with all chosen experts or with those that fit."""
    name = str(fields["method"])
    experts = selection.experts if all_of_them else selection.fitting
    values = {key.split(".", 1)[1]: value for key, value in fields.items() if key.startswith(f"{name}.")}
    seed = values.pop("seed", 0) or 0
    weighed = "weight" in find_method(name).params
    adapter = name in ADAPTERS or fields.get("result") == "adapter"
    return Recipe(
        name,
        Path(selection.base),
        tuple(Path(path) for path in experts),
        tuple(weights.get(path, 1.0) if weighed else 1.0 for path in experts),
        values,
        seed=seed,
        result="adapter" if adapter else "",
        rank=rank_of(str(fields.get("rank") or "")) if adapter else None,
    )


def estimate(recipe: Recipe | None, output: str, far: str = DOWNLOAD) -> str:
    """What a merge would read, write and take, or the first thing that is in its way; from headers alone."""
    if recipe is None or not recipe.experts:
        return ""
    if not output.strip() or unplaceable(output):
        return caption(refused(output))
    found = check(recipe, output.strip(), stream=far == STREAM)
    words = in_the_way(found, refused(output, recipe)) if found.problems else needed(found, far)
    return caption(words)


def caption(words: str) -> str:
    """A sentence below the buttons."""
    return f'<p class="caption">{escaped(words)}</p>'


class Ways(NamedTuple):
    """What can become of models that only the Hub has."""

    far: str  # what is chosen, as far as it can be
    streamed: bool  # whether they can be streamed
    words: str  # what either way means
    full: str = ""  # why a Space cannot keep as much as the chosen way would, and what to do; empty where it can


def ways(recipe: Recipe, size: int, far: str) -> Ways:
    """What can become of models of which `size` bytes are on the Hub, where `far` is asked for."""
    found, models = check(recipe).fetching, (recipe.base, *recipe.experts)
    if found is None:
        return Ways(DOWNLOAD, False, f"Downloading keeps {in_words(size)}.", too_many(models, size))
    if found.hurdle:
        return Ways(DOWNLOAD, False, f"They cannot be streamed. {found.hurdle}", too_many(models, size))
    full = too_many(models, size, streamed=True)
    keeps = (
        "They are too large to be downloaded." if full else f"Downloading keeps {in_words(size)} for the next merge."
    )
    words = f"{keeps} Streaming fetches {found.words}, and keeps nothing."
    return Ways(far, True, words, full if far == DOWNLOAD else "")


def refused(output: str, recipe: Recipe | None = None) -> str:
    """Why a merge cannot be written to a folder, in a sentence; empty where it can."""
    if not output.strip():
        return NAMELESS
    if words := unplaceable(output):
        return words
    try:
        target(output.strip(), 0)
    except MergeError as error:
        return str(error)
    return next(iter(inside(output.strip(), recipe)), "") if recipe else ""


def in_the_way(found: Preflight, worst: str = "") -> str:
    """The first of a merge's problems, or the worst where that is one of them, and how many more there are."""
    first, *others = sorted(found.problems, key=lambda problem: problem != worst)
    more = f" And {len(others)} more {'thing is' if len(others) == 1 else 'things are'} in the way." if others else ""
    return first + more


def needed(found: Preflight, far: str = DOWNLOAD) -> str:
    """What a merge would read, write and take, in a sentence."""
    if far == STREAM and found.fetching:  # whose time is the connection's
        fetched = f"Fetches {found.fetching.words} and writes {in_words(found.bytes_out)}"
        return f"{fetched}, with about {in_words(found.memory)} of memory."
    sizes = f"Reads {in_words(found.bytes_in)} and writes {in_words(found.bytes_out)}"
    rank = f" The adapter is of rank {ranks_in_words([*found.ranks.values()])}." if found.ranks else ""
    return f"{sizes}, with about {in_words(found.memory)} of memory, in about {span(max(found.seconds, 1))}.{rank}"


def run_merge(
    recipe: Recipe | None, output: str, visitor: str, far: str = DOWNLOAD
) -> Iterator[tuple[str, Report | None]]:
    """Merge, telling how far it is: pairs of what to show, and the report of the merge when it is there."""
    wrong = unplaceable(output) if output.strip() else NAMELESS
    if wrong or recipe is None:
        dismiss(visitor, "merge")
        yield notice(wrong or "There is no base model to merge into. Choose one in step 1."), None
        return
    try:
        report = yield from _running(recipe, output.strip(), visitor, far)
    except MergeStopped:
        yield notice(stopped(output.strip()), "info"), None
    except (MergeError, OSError) as error:
        yield notice(worded(error)), None
    else:
        yield finished(report, recipe.base), report


def _running(recipe: Recipe, output: str, visitor: str, far: str) -> Generator[tuple[str, Report | None], None, Report]:
    """How far a merge is, from its place in the line on; gives its report in the end."""
    held = ExitStack()
    job: Job | None = None
    stop = held.enter_context(stoppable(visitor, "merge"))
    held.enter_context(reading(recipe.base, *recipe.experts, recipe.tokenizer_source))
    try:
        for words in held.enter_context(its_turn(stop)):
            yield notice(words, "info"), None
        yield bar(0, "Reading headers", ""), None
        job = Job(lambda tell: _at_its_turn(held, recipe, output, visitor, tell, stop, far))
        for shown in _shown(job):
            yield shown, None
        return cast(Report, job.result())
    finally:
        stop.set()
        if not job:  # which gives up its turn itself: Gradio is to wait here for nothing when a visitor is gone
            held.close()


def _shown(job: Job) -> Iterator[str]:
    """How far a merge is, for its visitor."""
    started, stage, before = time.monotonic(), "", 0
    for step in job:
        if step.stage != stage and DOWNLOADING in (step.stage, stage):  # whose speeds have nothing in common
            started, before = time.monotonic(), step.bytes_done if step.stage == DOWNLOADING else 0
        stage = step.stage
        yield progress(step, time.monotonic() - started, before)


def _at_its_turn(
    held: ExitStack, recipe: Recipe, output: str, visitor: str, tell: Callable[[Step], None], stop: Event, far: str
) -> Report:
    """Merge, telling also those who wait; what is held is given up when that has really ended, and not before."""

    def tell_all(step: Step) -> None:
        MERGING.tell(step.bytes_done / max(step.bytes_total, 1))
        tell(step)

    with held:
        return _made(recipe, output, visitor, tell_all, stop, far)


def _made(recipe: Recipe, output: str, visitor: str, tell: Callable[[Step], None], stop: Event, far: str) -> Report:
    """Merge; models that only the Hub has are streamed, or downloaded before where nothing else stands in the way."""
    with using(recipe.base, *recipe.experts, recipe.tokenizer_source):
        distant = bool(on_the_hub((recipe.base, *recipe.experts)))
        stream = far == STREAM and distant
        if stream:
            recipe = pinned(recipe)
        else:
            if distant:
                found = check(recipe, output)
                if found.problems:
                    raise RecipeError(found.problems, recipe.warnings)
                if space.here():
                    check_size(found.bytes_out)
            recipe = fetched(recipe, lambda done, total: tell(Step(0, 0, "", done, total, DOWNLOADING)), stop)
        if space.here():
            make_room(visitor, Path(output), check(recipe, output, stream=stream).bytes_out)
        return merge(recipe, output, tell, stop, stream=stream)


def progress(step: Step, seconds: float, before: int = 0) -> str:
    """How far a merge is: its share, the tensor, and the time left, when so many bytes were there `before`."""
    share, came = step.bytes_done / max(step.bytes_total, 1), step.bytes_done - before
    known = came > 0.02 * step.bytes_total
    left = f"about {span(seconds / came * (step.bytes_total - step.bytes_done))} left" if known else ""
    return bar(share, f"{step.stage} {step.name}", left)


def stopped(output: str) -> str:
    """What a stopped merge has left."""
    if not beside(Path(output).expanduser().resolve()).is_dir():
        return "Stopped. Nothing was written."
    return f"Stopped. Nothing is at {output}; merge again with the same settings to go on where this stopped."
