"""Buttons of long work: while it runs, and when it has ended."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.errors import UNFORESEEN, notice
from ui.events import PRIVATE
from ui.jobs import leave
from ui.jobs import stop as stop_job


def wire_end(ran: Any, run: gr.Button, stop: gr.Button, status: gr.HTML) -> None:
    """Give the buttons back, also after an error that nobody foresaw, be it in Gradio before our functions ran."""

    def failed() -> tuple[Any, Any, str]:
        return *resting(), notice(UNFORESEEN)

    ran.success(resting, None, [run, stop], queue=False, **PRIVATE)
    ran.failure(failed, None, [run, stop, status], queue=False, **PRIVATE)


def working() -> tuple[Any, Any]:
    return gr.Button(interactive=False), gr.Button(interactive=True)


def resting() -> tuple[Any, Any]:
    return gr.Button(interactive=True), gr.Button(interactive=False)


def on_leave(request: gr.Request) -> None:
    leave(request.session_hash or "")


def stopper(kind: str) -> Any:
    def stop(request: gr.Request) -> None:
        stop_job(request.session_hash or "", kind)

    return stop
