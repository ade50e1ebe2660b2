"""Errors to messages on the screen; the one place where that happens."""

from __future__ import annotations

import html
import re

from merging import space
from merging.errors import MergeError

TELLS = "log of this Space, which its owner sees," if space.here() else "terminal in which Mergescope runs"
UNFORESEEN = (
    f"Something went wrong here. Nothing that you have set or written is lost: try again. The {TELLS} tells more."
)


def worded(error: MergeError | OSError) -> str:
    """The words of an error that the user can act on; of the system's, which file it is about, where that is known."""
    if isinstance(error, MergeError):
        return str(error)
    reason = (error.strerror or str(error) or type(error).__name__).rstrip(".")
    files = " and ".join(f"`{name}`" for name in (error.filename, error.filename2) if name is not None)
    return f"{files or 'A file'} could not be read or written ({reason}). Put that right, and try again."


def notice(text: str, kind: str = "error") -> str:
    """A box with the text, escaped, as a list where it has several lines: `error`, `warning`, `good` or `info`."""
    lines = [escaped(line) for line in text.splitlines()]
    words = "".join(lines) if len(lines) < 2 else f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"
    role = "alert" if kind == "error" else "status"
    return f'<div class="notice {kind}" role="{role}">{words}</div>'


def escaped(sentence: str) -> str:
    """HTML of a sentence of ours, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(space.hidden(sentence)))
