"""Models of the Hub are searched, chosen by name or as a family, and downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from merging.errors import MergeError
from merging.hub.search import search
from ui.errors import UNFORESEEN, notice
from ui.events import PRIVATE, QUIET, after
from ui.hub_panel import NOTHING, download, family_of, offered, to_download
from ui.jobs import announce, dismiss
from ui.models_panel import Selection, tidied
from ui.page import Page
from ui.wires.ends import stopper

OTHERS = "Other models were named meanwhile. Wait until the table shows them, then download these."


def wire(page: Page) -> None:
    models, hub = page.models, page.models.hub
    pressed: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}
    outcome = [hub.found, hub.as_base, hub.as_expert, hub.said]
    gr.on([hub.words.submit, hub.search.click], on_search, hub.words, outcome, **QUIET)
    chosen = [hub.as_base, hub.as_expert]
    hub.found.input(lambda: [gr.Button(interactive=True)] * 2, None, chosen, **QUIET)
    hub.as_base.click(lambda name: name, hub.found, models.base, **pressed)
    hub.as_expert.click(on_expert, [hub.found, models.experts], models.experts, **pressed)
    hub.family.input(on_family, hub.family, [hub.family, hub.open], **QUIET)
    hub.open.click(on_open, hub.family, [models.base, models.experts], **pressed)
    buttons = [hub.download, hub.stop]
    after(
        models.selection.change,
        lambda chosen: (*to_download((chosen.base, *chosen.fitting), chosen.far, chosen.far_bytes), ""),
        models.selection,
        [hub.left, *buttons, hub.status],
    )
    ran = hub.download.click(on_start, None, [*buttons, hub.status], queue=False, **pressed).then(
        on_download,
        [models.selection, models.base, models.experts],
        [hub.status, hub.fetched],
        concurrency_limit=2,
        concurrency_id="hub",
        **pressed,
    )
    ran.success(on_end, None, buttons, queue=False, **PRIVATE)
    ran.failure(lambda: (*on_end(), notice(UNFORESEEN)), None, [*buttons, hub.status], queue=False, **PRIVATE)
    hub.stop.click(stopper("download"), None, None, queue=False, **PRIVATE)


def on_search(words: str) -> Iterator[Any]:
    """What the Hub finds, with the buttons for what is chosen of it."""
    still = gr.skip(), gr.skip(), gr.skip()
    if not words.strip():
        yield *still, notice("Write a word of the model's name first.", "info")
        return
    yield *still, notice("Asking the Hub.", "info")
    try:
        found = search(words)
    except MergeError as error:
        yield *still, notice(str(error))
        return
    buttons = [gr.Button(visible=bool(found), interactive=False) for _ in range(2)]
    yield offered(found), *buttons, "" if found else notice(NOTHING, "info")


def on_expert(name: str, experts: list[str]) -> list[str]:
    return [*experts, name] if name not in experts else experts


def on_family(base: str | None) -> tuple[Any, Any]:
    family = family_of(base)
    return gr.Radio(info=family.words if family else " "), gr.Button(interactive=bool(family))


def on_open(base: str | None) -> tuple[Any, Any]:
    family = family_of(base)
    return (family.base, list(family.experts)) if family else (gr.skip(), gr.skip())


def on_start(request: gr.Request) -> tuple[Any, Any, str]:
    announce(request.session_hash or "", "download")
    return gr.Button(interactive=False), gr.Button(visible=True), notice("Waiting for its turn.", "info")


def on_download(
    request: gr.Request, chosen: Selection, base: str | None, experts: list[str] | None
) -> Iterator[tuple[str, Any]]:
    """Download what the button offers, unless other models are named by now: the table follows the fields later."""
    visitor, (ground, others) = request.session_hash or "", tidied(base, experts)
    if not {*chosen.far} <= {ground, *others}:
        dismiss(visitor, "download")
        yield notice(OTHERS, "info"), gr.skip()
        return
    for shown, fetched in download((chosen.base, *chosen.fitting), chosen.far, visitor):
        yield shown, fetched or gr.skip()


def on_end() -> tuple[Any, Any]:
    return gr.Button(interactive=True), gr.Button(visible=False)
