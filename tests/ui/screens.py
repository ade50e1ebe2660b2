"""What a visitor has chosen, and what the screen draws of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import plotly.graph_objects as go
import pytest
from gradio.blocks import Block

from merging.adapter import open_expert
from merging.checkpoint import open_checkpoint
from merging.compare import Comparison, compare
from merging.recipe import Recipe
from ui.comparing import make_comparison
from ui.figures.effects import DISTANCE
from ui.forecast import draw_forecast
from ui.forecast_panel import VIEWS
from ui.models_panel import Selection, read_models
from ui.page import PACK


def parts(base: Path, experts: list[Path]) -> list[Comparison]:
    """What is known of the models each time that a piece has been read, before all is."""
    found: list[Comparison] = []
    start = open_checkpoint(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("merging.statistics.survey.EVERY", 0.0)
        compare(start, [open_expert(path, start) for path in experts], workers=1, on_part=found.append)
    return found


class Drawn(NamedTuple):
    """What a view shows, what is written above it, and whether it is exact."""

    figure: go.Figure | None
    caption: str
    exact: bool


def select(base: Path, experts: list[Path]) -> Selection:
    """The selection of models that have been compared."""
    _, selection = read_models(str(base), [str(path) for path in experts])
    list(make_comparison(selection, "someone"))
    return selection


def draw(
    selection: Selection,
    recipe: Recipe,
    view: str = "weights",
    *,
    effect: str = DISTANCE,
    compared: str = "weights",
    held: Recipe | None = None,
    quick: bool = False,
) -> Drawn:
    """What a view of the forecast shows."""
    caption, *views, exact = draw_forecast(selection, recipe, view, effect, compared, held, quick)
    shown: dict[str, Any] = dict(zip(VIEWS, views, strict=True))
    return Drawn(shown[view], caption, exact)


def cells(figure: go.Figure | None, panel: int = 0) -> dict[str, list[tuple[Any, str]]]:
    """The numbers and the words of a heatmap's cells, by tensor."""
    assert figure is not None
    trace = figure.data[panel]
    rows = zip(trace.customdata, trace.z, trace.text, strict=True)
    return {names[0]: list(zip(numbers, words, strict=True)) for names, numbers, words in rows if names[0]}


class Screen:
    """The page as it is wired, without a browser: what components hold, and what happens when something is pressed."""

    def __init__(self, demo: gr.Blocks) -> None:
        self.demo = demo
        self.named = {block.elem_id: block for block in demo.blocks.values() if getattr(block, "elem_id", None)}
        self.rendered: dict[str, Any] = {}  # what is made anew of what the page holds: components by their labels
        self.held = {number: getattr(block, "value", None) for number, block in demo.blocks.items()}
        self.streamed: list[dict[str, Any]] = []  # what components were told, one after another, by their names
        self.token: gr.OAuthToken | None = None  # of whoever is signed in to a Space
        self.able = {number: bool(getattr(block, "interactive", True)) for number, block in demo.blocks.items()}
        self.seen = {number: bool(getattr(block, "visible", True)) for number, block in demo.blocks.items()}

    def __getitem__(self, name: str) -> Any:
        return self.held[self.named[name]._id]

    def __setitem__(self, name: str, value: Any) -> None:
        self.held[self.named[name]._id] = value

    def sees(self, name: str) -> bool:
        """Whether a component is visible."""
        return self.seen[self.named[name]._id]

    def can(self, name: str) -> bool:
        """Whether a component can be pressed, or written into."""
        return self.able[self.named[name]._id]

    def state(self, kind: type) -> Any:
        """The one state that holds a value of this kind."""
        return self.held[self._state(kind)]

    def put(self, value: Any) -> None:
        """Another value for the one state that holds this kind."""
        self.held[self._state(type(value))] = value

    def _state(self, kind: type) -> int:
        states = [number for number, block in self.demo.blocks.items() if isinstance(block, gr.State)]
        (number,) = (number for number in states if isinstance(self.held[number], kind))
        return number

    def choose(self, base: Path | str, experts: Iterable[Path | str]) -> Selection:
        """Choose models, as if they had been read and compared."""
        self["base"], self["experts"] = str(base), [str(path) for path in experts]
        selection = select(Path(base), [Path(path) for path in experts])
        self.put(selection)
        return selection

    def fire(self, name: str, event: str = "click", /, **data: Any) -> list[Any]:
        """Let an event happen, and what follows upon it; gives what the last function gave."""
        number = self.named[name]._id
        told: list[Any] = []
        for index, function in self.demo.fns.items():
            if (number, event) in function.targets:
                told = self._run(index, data)
        return told

    def _run(self, index: int, data: dict[str, Any]) -> list[Any]:
        function = self.demo.fns[index]
        told: list[Any] = []
        if function.renderable:
            with gr.Blocks() as part:
                function.renderable.fn(*(self.held[component._id] for component in function.inputs))
            self.rendered = {block.label: block for block in part.blocks.values() if hasattr(block, "label")}
        elif function.js == PACK:
            (packed,) = function.outputs
            self.held[packed._id] = [self.held[component._id] for component in function.inputs]
        elif function.fn:
            try:
                told = self._called(function, data)
            except gr.Error:
                self._after(index, {"trigger_only_on_failure"}, data)
                raise
            changed = []
            for component, value in zip(function.outputs, told, strict=True):
                before = self.held[component._id]
                self.held[component._id] = _value(value, before)
                if isinstance(value, Block) and "visible" in value.constructor_args:
                    self.seen[component._id] = value.constructor_args["visible"]
                if isinstance(value, Block) and "interactive" in value.constructor_args:
                    self.able[component._id] = value.constructor_args["interactive"]
                if isinstance(component, gr.State) and self.held[component._id] is not before:
                    changed.append(component._id)
            for number in changed:
                self._changed(number)
        return self._after(index, {"", "trigger_only_on_success"}, data) or told

    def _changed(self, state: int) -> None:
        """What listens to a state, which tells by itself when it has another value."""
        for index, function in self.demo.fns.items():
            if (state, "change") in function.targets:
                self._run(index, {})

    def _after(self, index: int, kinds: set[str], data: dict[str, Any]) -> list[Any]:
        told: list[Any] = []
        for other, function in self.demo.fns.items():
            only = [kind for kind in ("trigger_only_on_success", "trigger_only_on_failure") if getattr(function, kind)]
            if function.trigger_after == index and (only[0] if only else "") in kinds:
                told = self._run(other, data) or told
        return told

    def _called(self, function: Any, data: dict[str, Any]) -> list[Any]:
        given = [self.held[component._id] for component in function.inputs]
        for place, parameter in enumerate(inspect.signature(function.fn).parameters.values()):
            kind = str(parameter.annotation)
            if kind.endswith("Request"):
                given.insert(place, gr.Request(session_hash="someone", query_params=data.get("query", {})))
            elif "OAuthToken" in kind:
                given.insert(place, self.token)
            elif kind.endswith(("EventData", "SelectData")):
                given.insert(place, gr.EventData(None, data))
        found = function.fn(*given)
        if inspect.isgenerator(found):
            told = list(found)
            names = [getattr(component, "elem_id", None) for component in function.outputs]
            self.streamed += [dict(zip(names, each if len(names) > 1 else [each], strict=True)) for each in told]
            found = told[-1] if told else (gr.skip(),) * len(function.outputs)
        return list(found) if len(function.outputs) > 1 else [found] * len(function.outputs)


def _value(told: Any, before: Any) -> Any:
    """What a component holds after an update, or after a value."""
    if isinstance(told, dict) and told.get("__type__") == "update":
        return told.get("value", before)
    if isinstance(told, Block):
        return told.constructor_args.get("value", before)
    return told
