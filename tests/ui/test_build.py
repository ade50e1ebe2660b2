"""The whole page as Gradio builds it."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from merging.method import ADAPTERS, METHODS, Method
from ui.family import BASE, EXPERTS
from ui.method_panel import SOMETIMES, about

ALL = METHODS | ADAPTERS


@pytest.fixture(scope="module")
def labels(built: gr.Blocks) -> dict[str, Any]:
    return {block.elem_id: block for block in built.blocks.values() if getattr(block, "elem_id", None)}


@pytest.mark.parametrize("method", ALL.values(), ids=list(ALL))
def test_every_parameter_of_every_method_has_a_labelled_control(method: Method, labels: dict[str, Any]) -> None:
    for param in method.params.values():
        if param.per_expert:
            continue  # its sliders come with the experts: a browser test looks at them
        if param.settled:
            assert f"{method.name}-{param.key}" not in labels
            continue
        control = labels[f"{method.name}-{param.key}"]

        assert control.label == param.label
        assert control.info == param.help
        assert (None if param.optional and control.value == "" else control.value) == param.default
        if isinstance(control, gr.Slider):
            assert (control.minimum, control.maximum) == (param.low, param.high)


def test_what_draws_at_random_has_a_seed(labels: dict[str, Any]) -> None:
    seeded = {name for name in ALL if f"{name}-seed" in labels}

    sometimes = {  # those that can be told to drop at random, by one of their choices
        name for name in ADAPTERS for param in ADAPTERS[name].params.values() if any("dare" in c for c in param.choices)
    }
    assert sometimes == {*SOMETIMES}
    assert seeded == sometimes | {method.name for method in ALL.values() if method.random}


@pytest.mark.parametrize("method", ALL.values(), ids=list(ALL))
def test_every_method_shows_its_words_its_formula_and_its_paper(method: Method) -> None:
    words = about(method)

    assert method.summary in words
    assert f"$${method.formula}$$" in words
    assert f"]({method.paper})" in words
    assert method.use in words


def test_no_event_is_an_open_endpoint(built: gr.Blocks) -> None:
    assert built.get_api_info()["named_endpoints"] == {}


def test_no_two_listeners_of_one_event_wait_to_be_called_again(built: gr.Blocks) -> None:
    # Gradio would send the event again for each of them, to both, and so for ever: see `ui.events.after`.
    waiting: dict[Any, list[str]] = {}
    for function in built.fns.values():
        if function.trigger_mode == "always_last":
            for target in [each for each in function.targets if each[0] is not None and each[1] != "load"]:
                waiting.setdefault(target, []).append(function.name)

    assert waiting
    assert {target: names for target, names in waiting.items() if len(names) > 1} == {}


def test_a_weight_that_slides_asks_for_what_is_drawn_and_for_nothing_else(built: gr.Blocks) -> None:
    """Whatever else is asked for at each step, keeps the browser from painting."""
    (weights,) = (key for key, block in built.blocks.items() if getattr(block, "elem_id", None) == "expert-weights")

    heard = [index for index, function in built.fns.items() if (weights, "change") in function.targets]
    (packed,) = (index for index, function in built.fns.items() if function.trigger_after in heard)
    (asked,) = (function for function in built.fns.values() if function.trigger_after == packed)

    assert "weights" in {getattr(part, "elem_id", None) for part in asked.outputs}


def test_no_event_reads_the_controls_one_by_one(built: gr.Blocks) -> None:
    """The browser looks up each that an event reads or shows progress on, at each of its steps."""
    kinds = {f"{method}-{key}" for method, one in ALL.items() for key in one.params}
    controls = {key for key, block in built.blocks.items() if getattr(block, "elem_id", None) in kinds}
    asking = [function for function in built.fns.values() if function.fn]

    assert len(controls) > 50
    assert all(len(controls & {part._id for part in function.inputs}) <= 1 for function in asking)
    quiet = [function for function in asking if function.show_progress == "hidden"]
    assert len(quiet) > 50
    assert {len(function.show_progress_on or ()) for function in quiet} == {1}


def test_whether_a_merge_can_begin_is_told_by_one_listener(built: gr.Blocks) -> None:
    """Of two, one that ends late would tell of a folder that is not named any more."""
    run, output = (
        next(block for block in built.blocks.values() if getattr(block, "elem_id", None) == name)
        for name in ("run", "output")
    )

    assert len([one for one in built.fns.values() if run in one.outputs and output in one.inputs]) == 1


def test_the_page_opens_with_the_table_of_the_embedded_family(labels: dict[str, Any]) -> None:
    for path in (BASE, *EXPERTS):
        assert f"<b>{path.name}</b>" in labels["models-table"].value
