"""A Plotly figure on the page whose cells can be clicked, or walked with the arrow keys.

Gradio's own plot has no click and brings another plotly.js; this draws with the one that plotly ships.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import plotly
import plotly.graph_objects as go

PLOTLY_JS = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
DRAW = (Path(__file__).parent / "plot_view.js").read_text(encoding="utf-8")

from gradio.events import Dependency

class PlotView(gr.HTML):
    """Shows a Plotly figure; fires `cell_select` with the `customdata` of the heatmap cell that was chosen."""

    def __init__(self, value: go.Figure | None = None, *, label: str, empty: str, **kwargs: Any) -> None:
        box = (
            '<div class="pv-box" tabindex="0" role="application" aria-label="${label}"></div>'
            '<div class="pv-empty">${empty}</div><div class="pv-live" aria-live="polite"></div>'
        )
        super().__init__(
            value,
            label=label,
            html_template=box,
            js_on_load=DRAW,
            plotly_src=f"gradio_api/file={PLOTLY_JS}",
            empty=empty,
            **kwargs,
        )

    def postprocess(self, value: Any) -> Any:
        return json.loads(value.to_json()) if isinstance(value, go.Figure) else value

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


def serve_plotly() -> None:
    """Let the page load plotly.js from this server; call before launching."""
    gr.set_static_paths([PLOTLY_JS])