"""Step 2, See: the components that show what each expert changed, before anything is merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.downloads import room
from ui.measures import MEASURES, RELATIVE
from ui.plot_view import READING, PlotView
from ui.tensor_panel import Microscope, tensor_panel

VIEWS = {"layers": "Layers", "depth": "Depth", "experts": "Experts", "table": "Table", "tensor": "Tensor"}
# The plots, and the views that they are in.
DRAWN = {"norms": "layers", "curves": "depth", "matrix": "experts", "energy": "experts", "table": "table"}
# What is shown of two experts, and the share of its entries that each is trimmed to before.
COSINE, CONFLICT = "cosine of the task vectors", "entries in sign conflict"
PAIRS = [COSINE, CONFLICT]
WHOLE = "all entries"
KEPT: dict[str, float | None] = {WHOLE: None, "the largest 50 %": 0.5, "20 %": 0.2, "10 %": 0.1}
WHOLE_MODEL = "the whole model"
# The columns of the table, and what it is sorted by.
HEADS = ["expert", "tensor", "layer", "module", "entries", *(measure.label for measure in MEASURES.values())]
UNSORTED = "order in the model"


@dataclass(frozen=True)
class See:
    """The components of the section."""

    view: gr.State  # the key of the view that is open
    tabs: gr.Tabs
    measure: gr.Dropdown  # of the layers
    over: gr.Dropdown  # the same over the depth; they always agree
    norms: PlotView
    note: gr.HTML
    stop: gr.Button  # while models are read
    read: gr.Button  # while they are not, and could be
    detail: gr.HTML
    histogram: PlotView
    curves: PlotView
    pair: gr.Radio
    kept: gr.Radio
    where: gr.Dropdown
    matrix: PlotView
    energy: PlotView
    sort: gr.Dropdown
    falling: gr.Checkbox
    table: gr.Dataframe
    save: gr.Button
    unsaved: gr.HTML
    tensor: gr.State  # the name of the one last clicked
    microscope: Microscope

    @property
    def choices(self) -> list[Any]:
        """What is chosen in the views."""
        return [self.measure, self.pair, self.kept, self.where, self.sort, self.falling]

    @property
    def plots(self) -> list[Any]:
        """The components of DRAWN."""
        return [getattr(self, name) for name in DRAWN]


def see_panel() -> See:
    with gr.Row(elem_id="see-told"):
        note = gr.HTML(elem_id="see-note", padding=False)
        stop, read = (
            gr.Button(words, size="sm", scale=0, min_width=90, visible=False, elem_id=name)
            for words, name in (("Stop", "see-stop"), ("Read them", "see-read"))
        )
    view = gr.State("layers")
    with gr.Tabs(elem_id="views") as tabs:
        with gr.Tab(VIEWS["layers"], id="layers"):
            measure = _measure("measure")
            empty = "Choose a base and an expert that fits it, and what it changed appears here."
            norms = PlotView(
                READING, label="What each expert changed, by layer and module", empty=empty, lines=True, elem_id="norms"
            )
        with gr.Tab(VIEWS["depth"], id="depth"):
            over = _measure("measure-depth")
            curves = PlotView(label="What each expert changed, over the depth", empty="", elem_id="curves")
        with gr.Tab(VIEWS["experts"], id="experts"):
            with gr.Row():
                pair = gr.Radio(PAIRS, value=COSINE, label="Two experts", elem_id="pair", elem_classes="chips")
                kept = gr.Radio(list(KEPT), value=WHOLE, label="Of each", elem_id="kept", elem_classes="chips")
                where = gr.Dropdown([WHOLE_MODEL], value=WHOLE_MODEL, label="In", elem_id="where")
            matrix = PlotView(label="Experts against each other", empty="", elem_id="matrix")
            gr.HTML('<h3 class="plot">What trimming keeps</h3>', padding=False)
            energy = PlotView(label="What trimming keeps of each expert, by density", empty="", elem_id="energy")
        with gr.Tab(VIEWS["table"], id="table"):
            with gr.Row(elem_id="statistics-order"):
                sort = gr.Dropdown(
                    [UNSORTED, *HEADS], value=UNSORTED, label="Sort by", filterable=False, elem_id="statistics-sort"
                )
                falling = gr.Checkbox(label="Descending", elem_id="statistics-falling")
            table = gr.Dataframe(
                [], interactive=False, show_label=False, max_height=420, elem_id="statistics",
                buttons=["fullscreen"], wrap=False,
            )  # fmt: skip
            save = gr.Button("Download as CSV", size="sm", elem_id="statistics-save")
            unsaved = room("statistics-unsaved")
        with gr.Tab(VIEWS["tensor"], id="tensor"):
            microscope = tensor_panel()
    detail = gr.HTML(elem_id="tensor-detail", padding=False)
    histogram = PlotView(label="Entries of the chosen tensor", empty="", elem_id="tensor-histogram")
    return See(
        view, tabs, measure, over, norms, note, stop, read, detail, histogram, curves, pair, kept, where, matrix,
        energy, sort, falling, table, save, unsaved, gr.State(""), microscope,
    )  # fmt: skip


def _measure(name: str) -> gr.Dropdown:
    titles = [(measure.title, key) for key, measure in MEASURES.items()]
    return gr.Dropdown(titles, value=RELATIVE.title, label="What is shown", elem_id=name, filterable=False)
