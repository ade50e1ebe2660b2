"""Stacks the four steps into one page and wires them to each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from merging.errors import MergeError, MergeStopped
from ui.errors import notice
from ui.jobs import announce
from ui.jobs import stop as stop_job
from ui.merge_panel import Merge, bar, estimate, fresh_folder, merge_panel, recipe_of, run_merge
from ui.models_panel import Models, Selection, models_panel, read_models
from ui.sample_panel import Sample, run_sample, sample_panel
from ui.see_panel import (
    Coefficients,
    See,
    coefficients_panel,
    comparison_of,
    describe,
    draw_coefficients,
    draw_norms,
    known_comparison,
    make_comparison,
    see_panel,
    show_tensor,
)

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUIET: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "trigger_mode": "always_last"}


def build(folder: Path | None = None) -> gr.Blocks:
    """The whole page; `folder` holds further models to offer beside the embedded family."""
    with gr.Blocks(title="Mergescope", delete_cache=(3600, 86400)) as demo:
        _header()
        with gr.Column(elem_id="step-models", elem_classes="step"):
            _heading(1, "Models", "A base, and experts that were fine-tuned from it.")
            models = models_panel(folder)
        with gr.Row(elem_id="workbench"):
            with gr.Column(elem_id="step-see", elem_classes="step"):
                _heading(2, "See", "How far each expert moved, tensor by tensor. Click a cell to look into it.")
                see = see_panel()
            with gr.Column(elem_id="step-weights", elem_classes="step"):
                gr.HTML('<h2 class="side">Merge coefficients</h2>', padding=False)
                weights = coefficients_panel()
            with gr.Column(elem_id="step-merge", elem_classes="step"):
                _heading(3, "Merge", "Choose how, watch the coefficients follow, then write the model.")
                merging = merge_panel(models.selection)
        with gr.Column(elem_id="step-sample", elem_classes="step"):
            _heading(4, "Sample", "The same prompt and the same seed for all of them.")
            sample = sample_panel()
        _wire_models(demo, models, see, weights, merging)
        _wire_see(models, see, weights)
        _wire_merge(demo, models, merging)
        _wire_sample(models, merging, sample)
    return demo


def _header() -> None:
    with gr.Row(elem_id="header"):
        gr.HTML(
            "<h1>Mergescope</h1><p>See what merging fine-tuned models will do, and then do it.</p>", elem_id="title"
        )
        theme = gr.Button("Light or dark", size="sm", elem_id="theme", scale=0)
        theme.click(None, None, None, js="() => { document.body.classList.toggle('dark'); }", **PRIVATE)


def _heading(number: int, title: str, text: str) -> None:
    gr.HTML(f'<h2><span class="number">{number}</span>{title}</h2><p class="lead">{text}</p>', padding=False)


def _form(merging: Merge) -> list[Any]:
    return [*merging.form.values(), merging.weights]


def _fields(merging: Merge, values: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, float]]:
    *known, weights = values
    return dict(zip(merging.form, known, strict=True)), weights


def _wire_models(demo: gr.Blocks, models: Models, see: See, weights: Coefficients, merging: Merge) -> None:
    def on_models(request: gr.Request, selection: Selection) -> Iterator[tuple[Any, str, None]]:
        """Read the weights; what is drawn of them comes after, with what the controls say by then."""
        if not selection.ready:
            yield "", "", None
            return
        try:
            for progress in make_comparison(selection, request.session_hash or ""):
                yield notice(progress, "info"), "", None
            yield describe(selection), "", None
        except MergeStopped:
            return  # other models were chosen meanwhile
        except MergeError as error:
            yield notice(str(error)), "", None

    moves: Counter[str] = Counter()  # how often each visitor moved something; only to know what is stale

    def on_leave(request: gr.Request) -> None:
        moves.pop(request.session_hash or "", None)

    demo.unload(on_leave)
    drawn_exactly = gr.State(True)

    def on_draw(request: gr.Request, selection: Selection, kind: str, *values: Any) -> tuple[Any, ...]:
        if selection.ready and not known_comparison(selection):
            return (gr.skip(),) * 4  # they are still being read
        moves[request.session_hash or ""] += 1
        recipe = recipe_of(selection, *_fields(merging, values), all_of_them=False)
        return draw_norms(selection, kind), *draw_coefficients(selection, recipe, quick=True)

    def on_move(request: gr.Request, selection: Selection, *values: Any) -> tuple[Any, ...]:
        if not comparison_of(selection, request.session_hash or ""):
            return (gr.skip(),) * 3
        moves[request.session_hash or ""] += 1
        recipe = recipe_of(selection, *_fields(merging, values), all_of_them=False)
        return draw_coefficients(selection, recipe, quick=True)

    def on_rest(request: gr.Request, selection: Selection, exact: bool, *values: Any) -> tuple[Any, Any]:
        """Draw exactly what was drawn from fewer entries, unless something has moved again by then."""
        if exact:
            return gr.skip(), gr.skip()
        move = moves[request.session_hash or ""]
        recipe = recipe_of(selection, *_fields(merging, values), all_of_them=False)
        figure, caption, _ = draw_coefficients(selection, recipe, quick=False)
        return (figure, caption) if moves[request.session_hash or ""] == move else (gr.skip(), gr.skip())

    form, plot = _form(merging), [weights.plot, weights.caption]
    chosen = gr.on(
        [demo.load, models.base.change, models.experts.change],
        read_models,
        [models.base, models.experts],
        [models.table, models.selection],
        **QUIET,
    )
    # Not `always_last`: choosing other models stops the reading of those that were chosen before.
    read = chosen.then(
        on_models,
        models.selection,
        [see.note, see.detail, see.histogram],
        **{**QUIET, "trigger_mode": "multiple"},
        concurrency_limit=4,
    )
    drawn = read.then(on_draw, [models.selection, see.norm, *form], [see.norms, *plot, drawn_exactly], **QUIET)
    moved = gr.on(
        [control.change for control in form],
        on_move,
        [models.selection, *form],
        [*plot, drawn_exactly],
        concurrency_limit=4,
        **QUIET,
    )
    for event in (drawn, moved):
        event.then(on_rest, [models.selection, drawn_exactly, *form], plot, concurrency_limit=2, **QUIET)


def _wire_see(models: Models, see: See, weights: Coefficients) -> None:
    def on_cell(request: gr.Request, selection: Selection, event: gr.EventData) -> tuple[str, Any]:
        comparison_of(selection, request.session_hash or "")
        return show_tensor(selection, str(event.cell))

    def on_kind(request: gr.Request, selection: Selection, kind: str) -> Any:
        return draw_norms(selection, kind) if comparison_of(selection, request.session_hash or "") else gr.skip()

    see.norm.change(on_kind, [models.selection, see.norm], see.norms, **QUIET)
    for plot in (see.norms, weights.plot):
        plot.cell_select(on_cell, models.selection, [see.detail, see.histogram], **QUIET)


def _wire_merge(demo: gr.Blocks, models: Models, merging: Merge) -> None:
    def on_method(chosen: str) -> list[Any]:
        return [gr.Group(visible=name == chosen) for name in merging.sections]

    def on_click(request: gr.Request) -> tuple[Any, Any, str, str]:
        announce(request.session_hash or "", "merge")
        return *_working(), "", bar(0, "Waiting for its turn: one merge runs at a time", "")

    def on_run(
        request: gr.Request, selection: Selection, output: str, last: tuple[str, str], *values: Any
    ) -> Iterator[tuple[str, tuple[str, str]]]:
        fields, weighed = _fields(merging, values)
        recipe = recipe_of(selection, fields, weighed, all_of_them=True) if selection.base else None
        for shown, folder in run_merge(recipe, output, request.session_hash or ""):
            yield shown, (selection.base, folder) if folder else last

    merging.form["method"].change(on_method, merging.form["method"], list(merging.sections.values()), **QUIET)
    ran = merging.run.click(
        on_click,
        None,
        [merging.run, merging.stop, merging.estimate, merging.status],
        queue=False,
        show_progress="hidden",
        **PRIVATE,
    ).then(
        on_run,
        [models.selection, merging.output, merging.merged, *_form(merging)],
        [merging.status, merging.merged],
        concurrency_limit=1,
        concurrency_id="merge",
        show_progress="hidden",
        **PRIVATE,
    )
    _wire_end(ran, merging.run, merging.stop, merging.status)
    fresh = gr.on([demo.load, merging.merged.change], fresh_folder, None, merging.output, **QUIET)
    _wire_estimate(models, merging, fresh)
    merging.stop.click(_stopper("merge"), None, None, queue=False, **PRIVATE)


def _wire_estimate(models: Models, merging: Merge, fresh: Any) -> None:
    """Say what the merge would need when models, method or folder have changed; nothing waits for it."""

    def on_change(selection: Selection, output: str, *values: Any) -> str:
        recipe = recipe_of(selection, *_fields(merging, values), all_of_them=True) if selection.base else None
        return estimate(recipe, output)

    given = [models.selection, merging.output, *_form(merging)]
    triggers = [models.selection.change, merging.form["method"].change, merging.output.blur]
    gr.on(triggers, on_change, given, merging.estimate, concurrency_limit=2, **QUIET)
    fresh.then(on_change, given, merging.estimate, **QUIET)


def _wire_sample(models: Models, merging: Merge, sample: Sample) -> None:
    def on_click(request: gr.Request) -> tuple[Any, Any, str]:
        announce(request.session_hash or "", "sample")
        return *_working(), notice("Waiting for its turn.", "info")

    def on_run(request: gr.Request, selection: Selection, merged: tuple[str, str], *values: Any) -> Iterator[str]:
        fields = dict(zip(sample.form, values, strict=True))
        base, folder = merged
        yield from run_sample(selection, folder if base == selection.base else "", fields, request.session_hash or "")

    ran = sample.run.click(
        on_click, None, [sample.run, sample.stop, sample.answers], queue=False, show_progress="hidden", **PRIVATE
    ).then(
        on_run,
        [models.selection, merging.merged, *sample.form.values()],
        sample.answers,
        concurrency_limit=2,
        show_progress="hidden",
        **PRIVATE,
    )
    _wire_end(ran, sample.run, sample.stop, sample.answers)
    sample.stop.click(_stopper("sample"), None, None, queue=False, **PRIVATE)


def _wire_end(ran: Any, run: gr.Button, stop: gr.Button, status: gr.HTML) -> None:
    """Give the buttons back, also when Gradio refused a value before any of our functions saw it."""

    def refused() -> tuple[Any, Any, str]:
        return *_resting(), notice("One of the values cannot be used. Correct it and try again.")

    ran.success(_resting, None, [run, stop], queue=False, **PRIVATE)
    ran.failure(refused, None, [run, stop, status], queue=False, **PRIVATE)


def _working() -> tuple[Any, Any]:
    return gr.Button(interactive=False), gr.Button(interactive=True)


def _resting() -> tuple[Any, Any]:
    return gr.Button(interactive=True), gr.Button(interactive=False)


def _stopper(kind: str) -> Any:
    def stop(request: gr.Request) -> None:
        stop_job(request.session_hash or "", kind)

    return stop
