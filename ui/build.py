"""Stacks the steps into one page, and wires them to each other."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from merging import space
from ui import family
from ui.draft import Draft, Standing
from ui.events import PRIVATE, collect, spare
from ui.forecast_panel import forecast_panel
from ui.history_panel import history_panel
from ui.lessons.panel import LessonsPanel, lessons_panel
from ui.merge_panel import merge_panel
from ui.models_panel import models_panel
from ui.page import Page
from ui.sample_panel import sample_panel
from ui.see_panel import see_panel
from ui.views import Look
from ui.visit import Visit
from ui.wires import edits, forecast, history, hub, lessons, merge, microscope, models, publish, recipes, sample, see
from ui.wires.ends import on_leave


def build(folder: Path | None = None) -> gr.Blocks:
    """The whole page; `folder` holds further models to offer beside the embedded family."""
    with gr.Blocks(title="Mergescope", delete_cache=(3600, 86400)) as demo:
        opener = _header()
        walks = lessons_panel()
        with gr.Column(elem_id="step-models", elem_classes="step"):
            _heading(1, "Models", "A base, and experts that were fine-tuned from it.")
            chosen = models_panel(folder)
        with gr.Row(elem_id="workbench"):
            with gr.Column(elem_id="step-see", elem_classes="step"):
                _heading(2, "See", "What each expert changed, tensor by tensor. Click a cell to look into it.")
                seen = see_panel()
            with gr.Column(elem_id="step-weights", elem_classes="step"):
                gr.HTML('<h2 class="side">What the merge will do</h2>', padding=False)
                forecasts = forecast_panel()
            with gr.Column(elem_id="step-merge", elem_classes="step"):
                _heading(3, "Merge", "Choose how, watch the forecast follow, then write the model.")
                merging = merge_panel(chosen.selection)
        with gr.Column(elem_id="step-sample", elem_classes="step"):
            _heading(4, "Sample", "The same prompt and the same seed for all of them.")
            sampled = sample_panel()
        with gr.Column(elem_id="step-history", elem_classes="step"):
            _heading(5, "History", "What you merged on this visit.")
            past = history_panel()
        page = Page(
            demo, chosen, seen, forecasts, merging, sampled, past, gr.JSON(visible=False), gr.State(Draft()),
            gr.State(Standing()), gr.State(None), gr.State(Visit()), gr.State(()),
        )  # fmt: skip
        _wire(page, {"embedded": family.ZOO, **({"models": folder} if folder else {})}, walks, opener)
    return demo


def _wire(page: Page, roots: dict[str, Path], walks: LessonsPanel, opener: gr.Button) -> None:
    looks = dict[str, Look]()
    drawn = models.wire(page, looks)
    hub.wire(page)
    see.wire(page, looks)
    microscope.wire(page)
    forecast.wire(page, drawn)
    edits.wire(page)
    filling = recipes.wire(page, roots)
    history.wire(page, filling)
    publish.wire(page)
    lessons.wire(page, filling, walks, opener)
    merge.wire(page)
    sample.wire(page)
    page.demo.unload(on_leave)
    collect()
    spare(page.demo, page.packed)


def _header() -> gr.Button:
    with gr.Row(elem_id="header"):
        gr.HTML(
            "<h1>Mergescope</h1><p>See what merging fine-tuned models will do, and then do it.</p>", elem_id="title"
        )
        if space.signs_in():
            gr.LoginButton(
                "Sign in", "Sign out {}", variant="secondary", size="sm", scale=0, min_width=140, elem_id="sign-in"
            )
        opener = gr.Button("Lessons", size="sm", elem_id="lessons-open", scale=0, min_width=100)
        theme = gr.Button("Light or dark", size="sm", elem_id="theme", scale=0)
        theme.click(None, None, None, js="() => { document.body.classList.toggle('dark'); }", **PRIVATE)
    return opener


def _heading(number: int, title: str, text: str) -> None:
    gr.HTML(f'<h2><span class="number">{number}</span>{title}</h2><p class="lead">{text}</p>', padding=False)
