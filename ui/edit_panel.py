"""Changing weights by hand: what is chosen on the heatmap, what becomes of it, and the way back."""

from __future__ import annotations

import html
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from merging.edits import PRESETS, Edit, Edits
from merging.parts import GROUPS, THIRDS, Part, work
from merging.places import place
from ui.errors import notice

TENSOR, LAYER, MODULE, GROUP, MODEL = "this tensor", "its layer", "its module", "its group", "the model"
PARTS = [TENSOR, LAYER, MODULE, GROUP, *THIRDS, MODEL]
ONE, ALL = "this expert", "all experts"
SET, SCALE, ZERO, RAMP, BACK = "set", "scale", "zero", "ramp", "as before"
CHANGES = [SET, SCALE, ZERO, RAMP, BACK]
NUMBERS = {SET: "to", SCALE: "by", RAMP: "from"}  # what is before the first number of a change, which others lack
NOTHING = (
    "Click a cell of a heatmap, or the label of a row or a column; or walk to a cell with the arrow keys and press "
    "Enter, Shift+Enter for its row, or Ctrl+Enter for its column. Then change the weight."
)


@dataclass(frozen=True)
class Picked:
    """What was chosen on the heatmap: a tensor, and the path and the name of an expert; or the part a label names."""

    tensor: str = ""
    expert: str = ""
    name: str = ""
    part: str = ""  # of a label: one of PARTS, which the tensor stands for; of all experts where none is named

    @property
    def who(self) -> str:
        """Whose weights a label stands for."""
        return ONE if self.expert else ALL


@dataclass(frozen=True)
class Editing:
    """The components of the section."""

    section: gr.Accordion
    picked: gr.State  # Picked
    said: gr.HTML
    part: gr.Radio
    who: gr.Radio
    change: gr.Radio
    first: gr.Number
    last: gr.Number
    apply: gr.Button
    undo: gr.Button
    redo: gr.Button
    reset: gr.Button
    preset: gr.Dropdown
    convert: gr.Button
    done: gr.HTML


def edit_panel() -> Editing:
    with gr.Accordion("Change by hand", open=False, elem_id="editing") as section:
        said = gr.HTML(f'<p class="caption">{NOTHING}</p>', elem_id="edit-picked", padding=False)
        convert = gr.Button(
            "Turn it into task arithmetic with these coefficients", size="sm", visible=False, elem_id="edit-convert"
        )
        with gr.Row(elem_classes="compact"):
            part = gr.Radio(PARTS, value=TENSOR, label="Part", elem_id="edit-part", elem_classes="chips")
            who = gr.Radio([ONE, ALL], value=ONE, label="Of", elem_id="edit-who", elem_classes="chips")
        with gr.Row(elem_classes="compact"):
            change = gr.Radio(CHANGES, value=SET, label="Weight", elem_id="edit-change", elem_classes="chips")
            first = gr.Number(1.0, label="to", step=0.1, min_width=70, elem_id="edit-first")
            last = gr.Number(0.0, label="to", step=0.1, min_width=70, visible=False, elem_id="edit-last")
        with gr.Row(elem_classes="compact"):
            apply = gr.Button("Apply", variant="primary", size="sm", min_width=70, elem_id="edit-apply")
            undo = gr.Button("Undo", size="sm", min_width=60, interactive=False, elem_id="edit-undo")
            redo = gr.Button("Redo", size="sm", min_width=60, interactive=False, elem_id="edit-redo")
            reset = gr.Button("Reset", size="sm", min_width=60, interactive=False, elem_id="edit-reset")
        preset = gr.Dropdown(
            list(PRESETS), value=None, label="Preset", info="For all experts.", filterable=False, elem_id="edit-preset"
        )
        done = gr.HTML(elem_id="edit-done", padding=False)
    picked = gr.State(Picked())
    return Editing(
        section, picked, said, part, who, change, first, last, apply, undo, redo, reset, preset, convert, done
    )


def row_of(tensor: str, *, alone: bool) -> Picked:
    """What the label of a tensor's row stands for: its layer, or the tensor alone; of all experts."""
    return Picked(tensor, part=TENSOR if alone else LAYER)


def column_of(tensor: str) -> Picked:
    """What the label of a tensor's column stands for: its module in all layers, of all experts."""
    return Picked(tensor, part=MODULE if place(tensor).row else TENSOR)


def chips(picked: Picked, before: Picked) -> tuple[Any, Any]:
    """Part and Of, preset by a label; a cell takes back what a label before it has set, and nothing else."""
    if picked.part:
        return picked.part, picked.who
    return (TENSOR, ONE) if before.part else (gr.skip(), gr.skip())


def told(picked: Picked, hurdle: str = "") -> str:
    """What is chosen, in words, and why no weight can be changed, where that is so."""
    why = notice(hurdle, "info") if hurdle else ""
    part = part_of(picked, picked.part or TENSOR)
    if part is None:
        return why or f'<p class="caption">{NOTHING}</p>'
    whose = f" of {html.escape(picked.name)}" if picked.name else ", all experts" if picked.part else ""
    words = f"module {part.words}" if picked.part == MODULE else part.words
    return f'{why}<p class="caption"><b>{html.escape(words)}</b>{whose}</p>'


def numbers_of(change: str) -> tuple[Any, Any]:
    """The boxes for the numbers of a change."""
    return gr.Number(visible=change in NUMBERS, label=NUMBERS.get(change, "")), gr.Number(visible=change == RAMP)


def part_of(picked: Picked, which: str) -> Part | None:
    """The part of the model that is meant; None where that needs a tensor, and none is chosen."""
    if which == MODEL:
        return Part()
    if which in THIRDS:
        return Part("group", which)
    if not picked.tensor:
        return None
    at = place(picked.tensor)
    kinds = {
        TENSOR: Part("tensor", picked.tensor),
        LAYER: Part("layer", at.row),
        MODULE: Part("module", at.module),
        GROUP: Part("group", work(picked.tensor)),
    }
    return kinds[which] if which != GROUP or work(picked.tensor) in GROUPS else None


def edit_of(
    picked: Picked, which: str, who: str, change: str, first: float, last: float, *, experts: Container[str]
) -> Edit | str:
    """The edit that the controls stand for, or why there is none, in a sentence; `experts` are the paths of all."""
    part = part_of(picked, which)
    if part is None:
        chosen = picked.tensor and which == GROUP
        return "This tensor is in no group. Choose another part." if chosen else NOTHING
    expert = "" if who == ALL else picked.expert
    if who == ONE and not expert:
        return "No expert is chosen. Click a cell of the coefficients, or change all experts."
    if expert and expert not in experts:
        return f"{picked.name} is not among the experts any more. Click a cell of another one, or change all experts."
    if change == BACK:
        return Edit(part, "reset", expert=expert)
    if change == ZERO:
        return Edit(part, "set", 0.0, expert=expert)
    if first is None or (change == RAMP and last is None):
        return "The weight is empty. Write a number."
    if change == SCALE and first == 1:
        return "A weight × 1 is what it was, so nothing would change. Write another factor."
    if change == SCALE:
        return Edit(part, "scale", float(first), expert=expert)
    return Edit(part, "set", float(first), float(last) if change == RAMP else None, expert=expert)


def shown(names: dict[str, str], edits: Edits, words: str = "") -> tuple[Any, Any, Any, Any]:
    """The list of changes, and which of Undo, Redo and Reset have something to do; `names` are experts', by path."""
    undo, redo, reset = (gr.Button(interactive=bool(some)) for some in (edits.done, edits.undone, edits.done))
    return words + listed(edits, names), undo, redo, reset


def listed(edits: Edits, names: dict[str, str]) -> str:
    """The changes so far, the last first; `names` are those of the experts that are merged, by path."""
    if not edits.done:
        return ""
    items = [f"<li>{html.escape(edit.words + _whose(edit, names))}</li>" for edit in reversed(edits.done)]
    return f'<ol class="edits" reversed>{"".join(items)}</ol>'


def _whose(edit: Edit, names: dict[str, str]) -> str:
    if not edit.expert:
        return ""
    gone = "" if edit.expert in names else ", which is not merged: without effect"
    return f" of {names.get(edit.expert, Path(edit.expert).name)}{gone}"
