"""A place to drop a recipe on: a YAML file, a merged model's folder, or its weights, whose header alone is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

TAKE = (Path(__file__).parent / "drop_zone.js").read_text(encoding="utf-8")


class DropZone(gr.HTML):
    """Fires `dropped` with the `name` of what was dropped or chosen, and its `text`, empty where there is no recipe.

    The text comes from the browser, and is read as hostile: see `merging.document`.
    """

    def __init__(self, words: str, **kwargs: Any) -> None:
        zone = (
            '<label class="drop-zone"><input type="file" accept=".yaml,.yml,.safetensors"><span>${words}</span></label>'
        )
        super().__init__("", html_template=zone, js_on_load=TAKE, words=words, **kwargs)

    def api_info(self) -> dict[str, Any]:
        return {"type": "string"}
