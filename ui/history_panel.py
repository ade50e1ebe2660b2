"""Step 5, History: the merges of this visit, to compare, repeat, note, report and delete."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from merging.apart import Apart
from merging.history import LONGEST, Change, History
from merging.recipe import Recipe
from merging.sizes import in_words
from ui.downloads import room
from ui.finished import called
from ui.held import values_of
from ui.plot_view import PlotView
from ui.plots import norms_figure
from ui.publish_panel import Publishing, publish_panel

GONE = " (not there any more)"
EMPTY = '<p class="caption">Every merge that you write on this visit is listed here.</p>'


@dataclass(frozen=True)
class Past:
    """The components of the section."""

    listed: gr.HTML
    row: gr.Row
    one: gr.Dropdown
    other: gr.Dropdown
    note: gr.Textbox
    repeat: gr.Button
    compare: gr.Button
    stop: gr.Button
    report: gr.Button
    folder: gr.Checkbox
    delete: gr.Button
    unsaved: gr.HTML
    said: gr.HTML
    apart: PlotView
    publishing: Publishing
    count: gr.State  # of the merges that had been made when the list was drawn


def history_panel() -> Past:
    listed = gr.HTML(EMPTY, elem_id="history", padding=False)
    with gr.Column(visible=False, elem_id="history-tools") as row:
        with gr.Row():
            one = gr.Dropdown([], label="Merge", filterable=False, min_width=260, elem_id="history-one")
            other = gr.Dropdown([], label="Compared with", filterable=False, min_width=260, elem_id="history-other")
        note = gr.Textbox(
            "", label="Note", info="On this merge: what you wanted to know, or what you saw. It goes into its report.",
            lines=2, max_lines=6, max_length=LONGEST, elem_id="history-note",
        )  # fmt: skip
        with gr.Row(elem_classes="compact"):
            repeat = gr.Button("Open its recipe", size="sm", min_width=120, elem_id="history-repeat")
            compare = gr.Button("Compare", size="sm", min_width=90, elem_id="history-compare")
            stop = gr.Button("Stop", size="sm", min_width=70, elem_id="history-stop", interactive=False)
            report = gr.Button("Download its report", size="sm", min_width=140, elem_id="history-report")
            delete = gr.Button("Remove from the list", size="sm", min_width=140, elem_id="history-delete")
            folder = gr.Checkbox(False, label="and delete its folder", elem_id="history-folder")
        unsaved = room("history-unsaved")
        said = gr.HTML(elem_id="history-said", padding=False)
        apart = PlotView(label="How far the two merges are apart", empty="", elem_id="history-apart")
        publishing = publish_panel()
    return Past(
        listed, row, one, other, note, repeat, compare, stop, report, folder, delete, unsaved, said, apart, publishing,
        gr.State(0),
    )  # fmt: skip


def listed(history: History) -> str:
    """The merges as a table, the last first."""
    if not history.merges:
        return EMPTY
    heads = "".join(
        f'<th scope="col">{head}</th>' for head in ("", "Method", "Experts", "At", "Took", "Size", "Notes", "Folder")
    )
    rows = "".join(
        f"<tr><td>{past.number}</td>{_method(past.method, past.recipe)}<td>{html.escape(', '.join(past.experts))}</td>"
        f"<td>{past.when:%H:%M}</td><td>{past.report.seconds:.1f} s</td><td>{in_words(past.report.bytes)}</td>"
        f'<td class="note">{html.escape(past.note)}</td>'
        f'<td class="path">{html.escape(called(past.report.out))}{"" if past.there else GONE}</td></tr>'
        for past in reversed(history.merges)
    )
    return (
        f'<div class="scroll"><table class="numbers"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _method(title: str, recipe: Recipe) -> str:
    """The method's name, and below it the values that it was set to."""
    values = html.escape(", ".join(values_of(recipe)))
    return f'<td class="set">{html.escape(title)}{f"<span>{values}</span>" if values else ""}</td>'


def chosen(history: History, one: int | None, other: int | None) -> tuple[int | None, int | None]:
    """The two that stay chosen while they are listed; else the last merge, compared with the one before it."""
    numbers = [past.number for past in reversed(history.merges)]
    last = numbers[0] if numbers else None
    before = numbers[1] if len(numbers) > 1 else last
    return one if one in numbers else last, other if other in numbers else before


def choices(history: History, one: int | None, other: int | None) -> tuple[Any, Any, Any]:
    """What can be chosen in the list, with these two chosen, and whether there is anything."""
    titles = _titles(history)
    return gr.Column(visible=bool(titles)), gr.Dropdown(titles, value=one), gr.Dropdown(titles, value=other)


def _titles(history: History) -> list[tuple[str, int]]:
    """The merges, the last first, by method and time, and by the values that not all merges by that method share."""
    values = {past.number: values_of(past.recipe) for past in history.merges}
    titles = []
    for past in reversed(history.merges):
        alike = [values[other.number] for other in history.merges if other.method == past.method]
        own = [value for value in values[past.number] if not all(value in others for others in alike)]
        titles.append((f"{past.number}. {', '.join([past.method, *own])} at {past.when:%H:%M}", past.number))
    return titles


def note_of(history: History, one: int | None) -> str:
    """The note on a merge; empty where there is none, or no such merge."""
    return next((past.note for past in history.merges if past.number == one), "")


def changed(changes: list[Change], one: int, other: int) -> str:
    """How two recipes differ, as a table."""
    if not changes:
        return '<p class="caption">The two recipes say the same.</p>'
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("", f"Merge {one}", f"Merge {other}"))
    rows = "".join(
        f"<tr><td>{html.escape(change.key)}</td><td>{html.escape(change.first or '–')}</td>"
        f"<td>{html.escape(change.second or '–')}</td></tr>"
        for change in changes
    )
    return (
        f'<div class="scroll"><table class="numbers"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def apart_in_words(found: Apart, one: int, other: int) -> str:
    """How far two merges are apart as a whole, and what could not be compared."""
    others = f" {len(found.others):,} tensors are not in both." if found.others else ""
    words = f"‖merge {one} − merge {other}‖ is {found.whole.relative:.3%} of ‖merge {one}‖"
    return f'<p class="caption">{words} over all tensors that both have.{others}</p>'


def apart_figure(found: Apart, one: int, other: int) -> go.Figure | None:
    """How far two merges are apart, tensor by tensor."""
    if not found.tensors:
        return None
    names, table = tuple(told.name for told in found.tensors), [[told.relative] for told in found.tensors]
    label = f"‖merge {one} − merge {other}‖ / ‖merge {one}‖"
    return norms_figure(names, (f"Merge {one} − merge {other}",), table, label)
