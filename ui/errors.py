"""MergeError to a message on the screen; the one place where that happens."""

from __future__ import annotations

import html
import re


def notice(text: str, kind: str = "error") -> str:
    """A box with the text, escaped, as a list where it has several lines: `error`, `warning`, `good` or `info`."""
    lines = [escaped(line) for line in text.splitlines()]
    words = "".join(lines) if len(lines) < 2 else f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"
    role = "alert" if kind == "error" else "status"
    return f'<div class="notice {kind}" role="{role}">{words}</div>'


def escaped(sentence: str) -> str:
    """HTML of a sentence of ours, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(sentence))
