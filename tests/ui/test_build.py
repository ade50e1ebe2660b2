"""The whole page as Gradio builds it."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from merging.method import METHODS, Method
from ui.build import build
from ui.merge_panel import about


@pytest.fixture(scope="module")
def labels() -> dict[str, Any]:
    blocks = build()
    return {block.elem_id: block for block in blocks.blocks.values() if getattr(block, "elem_id", None)}


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_every_parameter_of_every_method_has_a_labelled_control(method: Method, labels: dict[str, Any]) -> None:
    for param in method.params.values():
        if param.per_expert:
            continue  # its sliders come with the experts: a browser test looks at them
        control = labels[f"{method.name}-{param.key}"]

        assert control.label == param.label
        assert control.info == param.help
        assert (None if param.optional and control.value == "" else control.value) == param.default
        if isinstance(control, gr.Slider):
            assert (control.minimum, control.maximum) == (param.low, param.high)


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_every_method_shows_its_words_its_formula_and_its_paper(method: Method) -> None:
    words = about(method)

    assert method.summary in words
    assert f"$${method.formula}$$" in words
    assert f"]({method.paper})" in words


def test_no_event_is_an_open_endpoint(labels: dict[str, Any]) -> None:
    assert build().get_api_info()["named_endpoints"] == {}
