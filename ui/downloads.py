"""Files for the visitor that are made when they are asked for, and leave nothing on the server's disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from merging.errors import MergeError
from ui.errors import notice
from ui.events import PRIVATE, heard

NOTHING = "There is nothing to download yet."
SAVE = """(told) => {
  if (!told || !told.text) return;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([told.text], {type: told.type}));
  link.download = told.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""


def room(elem_id: str) -> gr.HTML:
    """Below the buttons, where it is said why there is no file; nothing is seen of it otherwise."""
    return gr.HTML(elem_id=elem_id, elem_classes="said", padding=False)


def offer(
    button: gr.Button,
    said: gr.HTML,
    make: Callable[..., tuple[str, str] | None],
    inputs: Any,
    kind: str = "text/plain",
    call: Callable[..., Any] | None = None,
) -> None:
    """Let a button download what `make` returns: a file's name and its text, or None where there is nothing to give.

    `call(event, fn, inputs, outputs, **how)` calls a function after an event, with more than the inputs.
    """
    told = gr.JSON(visible="hidden")

    def made(*values: Any) -> tuple[dict[str, str], str]:
        try:
            file = make(*values)
        except MergeError as error:
            return {}, notice(str(error))
        return ({"name": file[0], "text": file[1], "type": kind}, "") if file else ({}, notice(NOTHING, "info"))

    clicked, how = heard(button.click), {**PRIVATE, "show_progress": "hidden"}
    asked = (partial(call, clicked) if call else clicked.then)(made, inputs, [told, said], **how)
    asked.success(None, told, None, js=SAVE, **PRIVATE)
