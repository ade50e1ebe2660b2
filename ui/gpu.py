"""Sampling on the GPU that a ZeroGPU Space lends for a call, and takes back after it; elsewhere on the processors."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import gradio as gr

from merging import generate
from merging.errors import MergeError
from merging.generate import Answer, Ask, Shelf

if TYPE_CHECKING:
    from merging.unwritten import Unwritten

try:
    import spaces
except ImportError:  # it is there in Spaces alone
    spaces = None

Work = TypeVar("Work", bound=Callable[..., Any])
LENT = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
TAGS = re.compile(r"<[^>]*>")
SECONDS = 60  # of a GPU for one prompt, of those that Hugging Face grants to a visitor in a day


def on_lent_gpu(work: Work) -> Work:
    """The work as it is, but on a ZeroGPU Space in a process of its own that has a GPU."""
    return spaces.GPU(duration=SECONDS)(work) if spaces else work


@on_lent_gpu
def _answers(
    models: Sequence[Path | Unwritten], base: Path, ask: Ask, stop: threading.Event | None
) -> Generator[list[Answer]]:
    # Not the shelf of all: it is the processors', and some other thread may have held its locks at the fork.
    yield from generate.answers(models, base, ask, stop, Shelf("cuda") if LENT else None)


def answers(models: Sequence[Path | Unwritten], base: Path, ask: Ask, stop: threading.Event) -> Iterator[list[Answer]]:
    """What all models have said so far, as `merging.generate` has it."""
    with closing(_answers(models, base, ask, None if LENT else stop)) as speaking:  # no event reaches another process
        try:
            for told in speaking:
                yield told
                if LENT and stop.is_set():
                    return
        except gr.Error as error:  # how Hugging Face says that the visitor has used up the day's GPU
            raise MergeError(f"{TAGS.sub('', str(error.message)).strip().rstrip('.')}. Try again later.") from error
