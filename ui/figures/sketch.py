"""A figure that follows a slider: as Plotly's JSON at once, without Plotly going over every cell of it."""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson
import plotly.graph_objects as go


class Sketch:
    """A figure in Plotly's words; Plotly itself is asked only by those who look into it."""

    def __init__(self, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:
        self.traces, self.around = data, layout

    @property
    def figure(self) -> go.Figure:
        """The same as Plotly's own object; ValueError where Plotly would not draw it."""
        return go.Figure(self.traces, self.around)

    @property
    def data(self) -> Any:
        """The traces of Plotly's own object."""
        return self.figure.data

    @property
    def layout(self) -> Any:
        """The layout of Plotly's own object."""
        return self.figure.layout

    def to_json(self) -> str:
        """What plotly.js draws, with the template that every figure has."""
        return orjson.dumps({"data": self.traces, "layout": {"template": _template(), **self.around}}).decode()


@cache
def _template() -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(orjson.loads(go.Figure().to_json())["layout"]["template"]))
