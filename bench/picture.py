"""Draws how cost and memory grow, with Plotly in a browser, into an SVG file."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright
from plotly.subplots import make_subplots

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#6B4C9A", "#8C6D1F", "#222222"]
SIZE = {"width": 960, "height": 640}
TO_SVG = f"() => Plotly.toImage(document.querySelector('.plotly-graph-div'), {{format: 'svg', ...{SIZE}}})"
WHATS = ["Merge alone, seconds", "Peak memory of the process, MB"]


def draw(panels: dict[str, dict[str, Any]], file: Path) -> None:
    """One column per axis, time above and memory below, one line per method."""
    figure = make_subplots(2, len(panels), horizontal_spacing=0.09, vertical_spacing=0.13)
    for column, (axis, panel) in enumerate(panels.items(), 1):
        for row, (what, unit) in enumerate(zip(WHATS, (1, 1e6), strict=True), 1):
            for (label, points), colour in zip(panel["lines"].items(), COLOURS, strict=False):
                values = [point[row - 1] / unit for point in points]
                line = go.Scatter(x=panel["x"], y=values, name=label, mode="lines+markers", line_color=colour)
                figure.add_trace(line.update(legendgroup=label, showlegend=row == column == 1), row, column)
            figure.update_yaxes(title_text=what if column == 1 else "", rangemode="tozero", row=row, col=column)
            figure.update_xaxes(title_text=axis if row == 2 else "", row=row, col=column)
    wide = [column for column, panel in enumerate(panels.values(), 1) if max(panel["x"]) > 1000]
    for column in wide:  # sizes differ by factors: where cost is linear, the line climbs one decade per decade
        figure.update_xaxes(type="log", dtick=1, row=None, col=column)
        figure.update_yaxes(type="log", dtick=1, row=1, col=column)
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 70, "r": 20, "t": 70, "b": 60},
        **SIZE,
    )
    file.write_bytes(_svg(figure))


def _svg(figure: go.Figure) -> bytes:
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_content(figure.to_html(include_plotlyjs=True))
        picture: str = page.evaluate(TO_SVG)
        browser.close()
    head, _, content = picture.partition(",")
    return base64.b64decode(content) if "base64" in head else unquote(content).encode()
