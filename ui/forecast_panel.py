"""Beside steps 2 and 3: what the merge will do, redrawn while sliders move; what it differs in; and its recipe."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from merging import space
from ui.downloads import room
from ui.drop_zone import DropZone
from ui.edit_panel import Editing, edit_panel
from ui.figures.effects import DISTANCE, EFFECTS
from ui.plot_view import READING, PlotView

VIEWS = {"weights": "Coefficients", "effects": "Effects", "difference": "Compare", "recipe": "Recipe"}
COMPARED = {"weights": "weights", "kept": "entries kept", "relative": "distance from the base"}


@dataclass(frozen=True)
class Forecast:
    """The components of the section."""

    view: gr.State  # the key of the view that is open
    tabs: gr.Tabs
    caption: gr.HTML
    plot: PlotView
    editing: Editing
    effect: gr.Dropdown
    effects: PlotView
    hold: gr.Button
    held: gr.State  # `Held`: what others are compared with; None at first
    holding: gr.HTML
    compared: gr.Radio
    difference: PlotView
    text: gr.Code
    save: gr.Button
    mergekit: gr.Button
    link: gr.Button
    unsaved: gr.HTML
    linked: gr.Textbox
    drop: DropZone
    path: gr.Textbox
    opened: gr.HTML


def forecast_panel() -> Forecast:
    view = gr.State("weights")
    opened = gr.HTML(elem_id="recipe-opened", padding=False)  # here, since a link opens one before the tab is seen
    caption = gr.HTML(elem_id="forecast-note", padding=False)
    with gr.Tabs(elem_id="forecast") as tabs:
        with gr.Tab(VIEWS["weights"], id="weights"):
            plot = PlotView(
                READING,
                label="Merge coefficients by tensor and expert",
                empty="Nothing to weigh yet.",
                lines=True,
                elem_id="weights",
            )
            editing = edit_panel()
        with gr.Tab(VIEWS["effects"], id="effects"):
            effect = gr.Dropdown(list(EFFECTS), value=DISTANCE, label="Effect", filterable=False, elem_id="effect")
            effects = PlotView(label="Effects of the merge over the depth", empty="", elem_id="effects")
        with gr.Tab(VIEWS["difference"], id="difference"):
            holding = gr.HTML(NOT_HELD, elem_id="holding", padding=False)
            hold = gr.Button("Compare with the settings as they are now", size="sm", elem_id="hold")
            choices = [(title, key) for key, title in COMPARED.items()]
            compared = gr.Radio(
                choices,
                value="weights",
                label="What is compared",
                show_label=False,
                elem_id="compared",
                elem_classes="chips",
            )
            difference = PlotView(
                label="The settings held, those of now, and their difference", empty="", elem_id="difference"
            )
        with gr.Tab(VIEWS["recipe"], id="recipe"):
            text = gr.Code(
                language="yaml",
                label="Recipe",
                interactive=False,
                max_lines=22,
                buttons=["copy"],
                elem_id="recipe-text",
            )
            with gr.Row():
                save = gr.Button("Download", size="sm", min_width=90, elem_id="recipe-save")
                mergekit = gr.Button("For mergekit", size="sm", min_width=90, elem_id="recipe-mergekit")
                link = gr.Button("Copy a link", size="sm", min_width=90, elem_id="recipe-link")
            unsaved = room("recipe-unsaved")
            linked = gr.Textbox(visible="hidden", elem_id="recipe-linked")
            drop = DropZone(
                "Drop a recipe here, of ours or of mergekit's, or a merged model; or choose a file.",
                elem_id="recipe-drop",
            )
            path = gr.Textbox(
                label="Or the path of one", placeholder="merges/…", max_lines=1, elem_id="recipe-path",
                info="A YAML file, or a merged model's folder. Press Enter.", visible=not space.here(),
            )  # fmt: skip
    return Forecast(
        view, tabs, caption, plot, editing, effect, effects, hold, gr.State(None), holding, compared, difference,
        text, save, mergekit, link, unsaved, linked, drop, path, opened,
    )  # fmt: skip


NOT_HELD = '<p class="caption">Hold the settings as they are; then change something, and see what differs.</p>'
