"""The folder that a merge is written to: a name for it, another one for the next merge, and what is no name."""

from __future__ import annotations

import secrets
import string
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr

from merging import space
from merging.errors import MergeError
from merging.history import Past
from ui.merges import home


def fresh_folder() -> str:
    """A folder name that is not taken, told apart by the time, and for visitors of one second by some letters."""
    letters = "".join(secrets.choice(string.ascii_lowercase) for _ in range(4))
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{letters}"
    return name if space.here() else str(Path("merges") / name)


def placed(told: str, visitor: str) -> str:
    """The folder that a visitor has told; in a Space one of the visitor's own, by name. MergeError if it is none."""
    name = told.strip()
    if not name or not space.here():
        return name
    if not space.NAME.fullmatch(name):
        words = f"`{name}` cannot be the name of a merge here"
        raise MergeError(f"{words}. Use letters, digits, dots, dashes and underscores, 100 at most.")
    return str(home(visitor) / name)


def next_folder(output: str, last: Past | None, visitor: str) -> Any:
    """Another folder for the next merge, where the one named is that of the last; what was typed since is kept."""
    try:
        output = placed(output, visitor)
    except MergeError:
        return gr.skip()
    if last is None or unplaceable(output) or Path(output).expanduser().resolve() != last.report.out.resolve():
        return gr.skip()
    return fresh_folder()


def unplaceable(output: str) -> str:
    """Why nothing can be written to a folder of that name, in a sentence; empty where its name is one."""
    try:
        Path(output.strip()).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # too long, `~name` of nobody, a NUL
        told = output.replace("\0", "").strip()
        return f"{told} cannot be an output folder ({str(error).rstrip('.')}). Choose another one."
    return ""
