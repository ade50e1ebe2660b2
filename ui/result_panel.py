"""The part of step 3 that says what comes out: a model, or one LoRA adapter, and of which rank."""

from __future__ import annotations

import html
from typing import Any, NamedTuple

import gradio as gr

from merging.adapter_ranks import kind
from merging.method import ADAPTERS, Method, find_method
from ui.events import QUIET, after
from ui.models_panel import Selection

CHOICES = [("A model", "model"), ("One LoRA adapter", "adapter")]
MATRIX = "model.layers.0.mlp.up_proj.weight"  # any in a layer: elsewhere some methods only average
EXACT = "Empty: as large as it takes to leave nothing out."


class Offer(NamedTuple):
    """What there is to choose of the result."""

    result: str  # what is chosen, as far as it can be
    choice: bool  # whether there is one, or the method makes nothing else
    possible: bool  # whether the experts merge into an adapter
    rank: str  # what to say of the rank; empty where a model has none
    words: str  # HTML: why only one of them can be chosen


def result_panel(method: gr.Radio, selection: gr.State) -> dict[str, Any]:
    """The form: `result` and `rank`, which follow the method and the experts, and the result that was `wanted`."""
    with gr.Row(elem_classes="result"):
        result = gr.Radio(CHOICES, value="model", label="Result", elem_id="result", interactive=False, min_width=220)
        rank = gr.Textbox(
            "", label="Rank of the adapter", info=EXACT, placeholder="empty, or a number such as 16", max_lines=1,
            visible=False, elem_id="rank", min_width=220,
        )  # fmt: skip
    note = gr.HTML(elem_id="result-note", padding=False)
    wanted = gr.State("model")  # which comes back when it can be had again

    def on_change(name: str, chosen: Selection, wanted: str, shown: str) -> tuple[Any, Any, str]:
        found = offer(name, chosen, wanted)
        # What is shown is set only where it cannot stay: a choice that was made meanwhile must not be undone.
        forced: dict[str, Any] = {} if found.result == shown else {"value": found.result}
        seen = gr.Radio(**forced, visible=found.choice, interactive=found.possible)
        return seen, gr.Textbox(visible=bool(found.rank), info=found.rank), found.words

    changes = [method.change, selection.change, wanted.change]
    after(changes, on_change, [method, selection, wanted, result], [result, rank, note])
    result.input(lambda chosen: chosen, result, wanted, **QUIET)
    return {"result": result, "rank": rank, "wanted": wanted}


def offer(name: str, selection: Selection, wanted: str) -> Offer:
    """What can come out of this method and these experts, where `wanted` is asked for."""
    method, hurdle = find_method(name), selection.hurdle
    if name in ADAPTERS:
        return Offer("model" if hurdle else wanted, False, not hurdle, "" if hurdle else of_rank(method), "")
    if hurdle:
        return Offer("model", True, False, "", f'<p class="caption">{html.escape(hurdle)}</p>')
    return Offer(wanted, True, True, of_rank(method) if wanted == "adapter" else "", "")


def of_rank(method: Method) -> str:
    """What to say of the rank that a merge by this method has."""
    if method.name == "peft":
        return "Empty: the one that PEFT gives the combination."
    if method.ranks or method.collects or kind(method, method.filled({}, method.taking(2)), MATRIX) != "dense":
        return EXACT
    return f"What {method.title} makes of adapters has no low rank by itself, and is cut to this one."


def rank_of(text: str) -> Any:
    """The rank that was written: none where nothing was, and what is no number as it is, for a recipe to refuse."""
    text = text.strip()
    return int(text) if text.isdecimal() else text or None
