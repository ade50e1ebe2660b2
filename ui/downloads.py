"""Files for the visitor that are made when they are asked for, and leave nothing on the server's disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from merging.errors import MergeError
from ui.errors import notice

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
) -> None:
    """Let a button download what `make` returns: a file's name and its text, or None where there is nothing to give."""
    told = gr.JSON(visible="hidden")

    def made(*values: Any) -> tuple[dict[str, str], str]:
        try:
            file = make(*values)
        except MergeError as error:
            return {}, notice(str(error))
        return ({"name": file[0], "text": file[1], "type": kind}, "") if file else ({}, notice(NOTHING, "info"))

    asked = button.click(made, inputs, [told, said], show_progress="hidden", api_visibility="private")
    asked.success(None, told, None, js=SAVE, api_visibility="private")
