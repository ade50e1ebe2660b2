"""A merge of this visit is published: its card is written, shown, and goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from merging import space
from merging.errors import MergeError
from ui.errors import UNFORESEEN, notice
from ui.events import PRIVATE, QUIET
from ui.jobs import announce
from ui.page import Page
from ui.publish_panel import Prepared, pictured, prepare, run_publish, signed_in
from ui.visit import Visit
from ui.wires.ends import stopper


def wire(page: Page) -> None:
    past, parts = page.past, page.past.publishing

    def folder_of(now: Visit, one: int | None) -> Path | None:
        try:
            return now.history.of(one or 0).report.out
        except MergeError:
            return None

    def on_prepare(
        request: gr.Request, token: gr.OAuthToken | None, now: Visit, one: int | None, name: str
    ) -> Iterator[tuple[Any, ...]]:
        folder, visitor = folder_of(now, one), request.session_hash or ""
        for said, named, card, prepared in prepare(folder, name, visitor, token.token if token else None):
            yield said, named, gr.Textbox(card or "", visible=bool(card)), prepared, pictured(prepared)

    def on_run(
        request: gr.Request,
        token: gr.OAuthToken | None,  # of whoever is signed in to a Space; elsewhere that of the machine is taken
        prepared: Prepared | None,
        name: str,
        card: str,
        private: bool,
    ) -> Iterator[tuple[str, Any]]:
        visitor = request.session_hash or ""
        for said, published in run_publish(prepared, name, card, private, visitor, token.token if token else None):
            yield said, published or gr.skip()

    pressed: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}
    if space.signs_in():
        page.demo.load(on_load, None, parts.who, **pressed)
    card = [parts.said, parts.name, parts.card, parts.prepared, parts.shown]
    buttons = [parts.prepare, parts.run, parts.stop]
    ready = parts.prepare.click(on_click, None, [*buttons, parts.said], queue=False, **pressed).then(
        on_prepare, [page.visit, past.one, parts.name], card, concurrency_limit=2, **pressed
    )
    given = [parts.prepared, parts.name, parts.card, parts.private]
    ran = parts.run.click(on_click, None, [*buttons, parts.said], queue=False, **pressed).then(
        on_run, given, [parts.said, parts.prepared], concurrency_limit=1, **pressed
    )
    for work in (ready, ran):
        work.success(on_end, parts.prepared, buttons, queue=False, **PRIVATE)
        work.failure(on_failure, parts.prepared, [*buttons, parts.said], queue=False, **PRIVATE)
    parts.stop.click(stopper("publish"), None, None, queue=False, **PRIVATE)
    past.one.change(on_other, [parts.prepared, parts.name], [*card, parts.run], **QUIET)


def on_load(profile: gr.OAuthProfile | None) -> str:
    return signed_in(profile.username if profile else "")


def on_click(request: gr.Request) -> tuple[Any, ...]:
    """Both buttons wait, since each would stop what the other has begun."""
    announce(request.session_hash or "", "publish")
    off = gr.Button(interactive=False)
    return off, off, gr.Button(interactive=True), notice("Waiting for its turn.", "info")


def on_end(prepared: Prepared | None) -> tuple[Any, ...]:
    return gr.Button(interactive=True), gr.Button(interactive=_ready(prepared)), gr.Button(interactive=False)


def on_failure(prepared: Prepared | None) -> tuple[Any, ...]:
    return *on_end(prepared), notice(UNFORESEEN)


def on_other(prepared: Prepared | None, name: str) -> tuple[Any, ...]:
    """Another merge is chosen, which has no card yet, and not the name of one that is published."""
    taken = prepared and prepared.published and prepared.name == name.strip()
    fresh = "" if taken else gr.skip()
    return "", fresh, gr.Textbox("", visible=False), None, "", gr.Button(interactive=False)


def _ready(prepared: Prepared | None) -> bool:
    """Whether there is a card that has not gone to the Hub."""
    return bool(prepared and not prepared.published)
