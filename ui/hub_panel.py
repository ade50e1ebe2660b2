"""Step 1, models of the Hub: find them by words or as a family, and download what was chosen."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from merging import space
from merging.errors import MergeError, MergeStopped
from merging.hub.fetch import fetch, left_of
from merging.hub.room import too_many, using
from merging.hub.search import FAMILIES, Family, Found
from merging.sizes import in_words
from merging.words import listed
from ui.errors import escaped, notice, worded
from ui.jobs import Job, stoppable
from ui.models_table import count
from ui.pace import Pace, bar

NOTHING = "No model with safetensors is called that. Try fewer words, or a part of the name."


@dataclass(frozen=True)
class HubParts:
    """The components."""

    left: gr.HTML  # what there is to download
    download: gr.Button
    stop: gr.Button
    status: gr.HTML
    fetched: gr.State  # another object each time that models were downloaded
    words: gr.Textbox
    search: gr.Button
    found: gr.Radio
    as_base: gr.Button
    as_expert: gr.Button
    said: gr.HTML
    family: gr.Radio
    open: gr.Button


def hub_panel() -> HubParts:
    with gr.Row(elem_id="hub-left"):
        left = gr.HTML(elem_id="hub-words", padding=False, visible=False)
        download = gr.Button("Download", variant="primary", size="sm", scale=0, visible=False, elem_id="hub-download")
        stop = gr.Button("Stop", size="sm", scale=0, min_width=90, visible=False, elem_id="hub-stop")
    status = gr.HTML(elem_id="hub-status", padding=False)
    with gr.Accordion("Find models on the Hub", open=False, elem_id="hub"), gr.Row():
        with gr.Column(min_width=280):
            with gr.Row(elem_id="hub-ask"):
                words = gr.Textbox(label="Words in a model's name", placeholder="qwen2.5 0.5b", elem_id="hub-search")
                search = gr.Button("Search", size="sm", scale=0, min_width=90, elem_id="hub-go")
            found = gr.Radio([], label="Found", visible=False, elem_id="hub-found")
            with gr.Row():
                as_base, as_expert = (
                    gr.Button(title, size="sm", interactive=False, visible=False, elem_id=name)
                    for title, name in (("Take as base", "hub-base"), ("Add as expert", "hub-expert"))
                )
            said = gr.HTML(elem_id="hub-said", padding=False)
        with gr.Column(min_width=280):
            fitting = [(one.title, one.base) for one in FAMILIES if not space.too_large(one.base, one.bytes)]
            family = gr.Radio(
                fitting, label="Or a family of models that belong together", info=" ", elem_id="hub-family"
            )
            choose = gr.Button("Choose its models", size="sm", interactive=False, elem_id="hub-open")
    return HubParts(
        left, download, stop, status, gr.State(None), words, search, found, as_base, as_expert, said, family, choose
    )


def offered(found: list[Found]) -> Any:
    """The models found, as a list to choose from."""
    return gr.Radio([(_in_words(one), one.name) for one in found], value=None, visible=bool(found))


def _in_words(one: Found) -> str:
    parts = [f"{count(one.parameters)} parameters"] if one.parameters else []
    parts += [f"{count(one.downloads)} downloads"] if one.downloads else []
    return " · ".join([one.name, *parts, *(["gated"] if one.gated else [])])


def family_of(base: str | None) -> Family | None:
    """The family with this base."""
    return next((one for one in FAMILIES if one.base == base), None)


def to_download(models: tuple[str, ...], far: tuple[str, ...], size: int) -> tuple[Any, Any, Any]:
    """What of the models is still on the Hub, in words, and the buttons beside it: to download that, and to stop."""
    if not far:
        return gr.HTML("", visible=False), gr.Button(visible=False), gr.Button(visible=False)
    names = listed([f"<b>{html.escape(name)}</b>" for name in far])
    full = too_many(models, size, streamed=True)
    said = f"{names} {'is' if len(far) == 1 else 'are'} on the Hub. Only headers were read. {escaped(full)}".strip()
    button = gr.Button(f"Download {in_words(size)}", visible=not full)
    return gr.HTML(f'<p class="caption">{said}</p>', visible=True), button, gr.Button(visible=False)


def download(models: tuple[str, ...], far: tuple[str, ...], visitor: str) -> Iterator[tuple[str, object | None]]:
    """Download those of the models that are far, telling how far that is; at last another object, when all are here."""
    left = [one for path in far if (one := left_of(path))]
    done, total, pace = 0, 0, None

    def work(tell: Any) -> None:
        fetch([one.name for one in left], lambda done, total: tell((done, total)), stop)

    if words := too_many(models, sum(one.bytes for one in left), streamed=True):
        yield notice(words), None
        return
    yield bar(0, "Asking the Hub", ""), None
    with stoppable(visitor, "download") as stop, using(*models):
        job = Job(work)
        for done, total in job:
            pace = pace or Pace(time.monotonic(), done)
            yield pace.told(done, total), None
        try:
            job.result()
        except MergeStopped:
            here = f"{in_words(done)} of {in_words(total)} are here and kept: " if done else ""
            yield notice(f"Stopped. {here}Download again to go on from there.", "info"), None
        except (MergeError, OSError) as error:
            yield notice(worded(error)), None
        else:
            yield "", object()
