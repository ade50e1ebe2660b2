"""A Plotly figure on the page whose cells can be clicked, or walked with the arrow keys.

Gradio's own plot has no click and brings another plotly.js; this draws with the one that plotly ships.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import plotly
import plotly.graph_objects as go

from ui.figures.sketch import Sketch

PLOTLY_JS = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
DRAW = (Path(__file__).parent / "plot_view.js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Words:
    """Why there is nothing to draw yet, in place of a figure."""

    text: str

    def to_json(self) -> str:
        return json.dumps({"words": self.text})


KEYS = "Arrow keys walk from cell to cell. Enter picks a cell, Shift+Enter its row, Ctrl+Enter its column."
READING = Words("The models are being read.")
AWAY = Words("The weights of these models are on the Hub.")


class PlotView(gr.HTML):
    """Shows a Plotly figure; fires `cell_select` with the `customdata` of the heatmap cell that was chosen.

    With `lines` it also fires `line_select` for the label of a row, a column or a panel. What is drawn can be opened as
    a table, and downloaded.
    """

    def __init__(
        self,
        value: go.Figure | Sketch | Words | None = None,
        *,
        label: str,
        empty: str,
        lines: bool = False,
        **kwargs: Any,
    ) -> None:
        keys = f' aria-description="{KEYS}"' if lines else ""
        box = (
            f'<div class="pv-box" tabindex="0" role="application" aria-label="${{label}}"{keys}></div>'
            f'<div class="pv-empty">{escape(empty)}</div><div class="pv-live" aria-live="polite"></div>'
            '<details class="pv-numbers"><summary>Numbers</summary><a download="numbers.csv">Download as CSV</a>'
            '<div tabindex="0" role="region" aria-label="Numbers: ${label}"></div></details>'
        )
        super().__init__(
            value,
            label=label,
            html_template=box,
            js_on_load=DRAW,
            plotly_src=f"gradio_api/file={PLOTLY_JS}",
            lines=lines,
            **kwargs,
        )

    def postprocess(self, value: Any) -> Any:
        """The figure as text: in anything else Gradio looks for files, cell by cell."""
        return value.to_json() if isinstance(value, go.Figure | Sketch | Words) else value


def serve_plotly() -> None:
    """Let the page load plotly.js from this server; call before launching."""
    gr.set_static_paths([PLOTLY_JS])
