"""MergeError to a message on the screen; the one place where that happens."""

from __future__ import annotations

import html


def notice(text: str, kind: str = "error") -> str:
    """A box with the text, escaped: `error`, `warning`, `good` or `info`."""
    lines = "<br>".join(html.escape(line) for line in text.splitlines())
    role = "alert" if kind == "error" else "status"
    return f'<div class="notice {kind}" role="{role}">{lines}</div>'
