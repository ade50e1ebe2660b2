"""Reads a merged folder again, every byte of it, and holds it against the checksums that were taken while writing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from merging.checkpoint import Checkpoint, open_checkpoint
from merging.crew import Crew
from merging.errors import MergeError
from merging.header import read_json
from merging.output import stored_checksum
from merging.progress import Step
from merging.provenance import STORY


@dataclass(frozen=True)
class Verified:
    """What a folder was found to hold; all is well where there are no problems."""

    tensors: int
    bytes: int
    problems: list[str]


def verify(
    out: str | Path,
    on_step: Callable[[Step], None] | None = None,
    stop: threading.Event | None = None,
    workers: int | None = None,
) -> Verified:
    """Compare a merged folder with what was written to it; MergeError when it was not written by Mergescope."""
    folder = Path(out)
    if not (folder / STORY).is_file():
        raise MergeError(f"{out} has no {STORY}, so it is no merge of Mergescope. Choose a merged folder.")
    known = read_json(folder / STORY).get("checksums")
    if not isinstance(known, dict):
        raise MergeError(f"{folder / STORY} has no checksums. Merge again.")
    model = open_checkpoint(folder)
    problems = [f"`{name}` is missing." for name in known if name not in model.entries]
    problems += [f"`{name}` was not written by the merge." for name in model.entries if name not in known]
    there = {name: checksum for name, checksum in known.items() if name in model.entries}
    problems += _changed(model, there, on_step, stop, workers)
    return Verified(len(model.entries), model.bytes, problems)


def _changed(
    model: Checkpoint,
    known: dict[str, str],
    on_step: Callable[[Step], None] | None,
    stop: threading.Event | None,
    workers: int | None,
) -> list[str]:
    found: dict[str, str] = {}
    lock, read = threading.Lock(), 0

    def look(name: str) -> None:
        nonlocal read
        checksum = stored_checksum(model.entries[name])
        with lock:
            found[name] = checksum
            if on_step:
                read += model.entries[name].bytes
                on_step(Step(len(found), len(known), name, read, model.bytes, "Verifying"))

    crew = Crew(workers or os.cpu_count() or 1, stop)
    try:
        crew.run(look, list(known))
    finally:
        crew.close()
    return [f"`{name}` has changed since it was written." for name in known if found[name] != known[name]]
