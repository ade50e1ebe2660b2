"""The folder that a merge is written to: a name for it, another one for the next merge, and what is no name."""

from __future__ import annotations

import secrets
import string
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr

from merging.history import Past


def fresh_folder() -> str:
    """A folder name that is not taken, told apart by the time, and for visitors of one second by some letters."""
    letters = "".join(secrets.choice(string.ascii_lowercase) for _ in range(4))
    return str(Path("merges") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{letters}")


def next_folder(output: str, last: Past | None) -> Any:
    """Another folder for the next merge, where the one named is that of the last; what was typed since is kept."""
    if last is None or unplaceable(output) or Path(output.strip()).expanduser().resolve() != last.report.out.resolve():
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
