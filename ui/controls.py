"""Param to component: the only such mapping."""

from __future__ import annotations

from typing import Any

import gradio as gr

from merging.params import Param


class Slider(gr.Slider):
    """A slider that hands on a typed number as it is, so that what is wrong with it is said in our words."""

    def preprocess(self, payload: float) -> float:
        return payload


def first(value: Any) -> Any:
    """The first number or word in a value that varies, which is what a control shows of it."""
    while isinstance(value, list | dict):
        value = value["value"] if isinstance(value, dict) else value[0]
    return value


def control(param: Param, value: Any = None, label: str = "", **extra: Any) -> Any:
    """The component that sets a parameter, with its range and words."""
    value = param.default if value is None else value
    words: dict[str, Any] = {"label": label or param.label, "info": param.help, "interactive": True, **extra}
    if param.kind == "switch":
        return gr.Checkbox(value, **words)
    if param.kind == "choice":
        return gr.Radio(list(param.choices), value=value, **words)
    if param.optional:
        return gr.Textbox("" if value is None else str(value), placeholder="empty", max_lines=1, **words)
    return Slider(param.low, param.high, value=value, step=param.step, **words)
