"""Reads a merged folder again, every byte of it, and holds it against the checksums that were taken while writing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint, open_checkpoint
from merging.crew import Crew
from merging.errors import MergeError
from merging.header import read_json
from merging.output import stored_checksum
from merging.progress import Step
from merging.provenance import STORY, beside
from merging.workplace import finished


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
    if not folder.is_dir():
        words = f"There is no folder {out}"
        if finished(folder):
            raise MergeError(f"{words}: a merge to it was stopped. Merge again, which goes on from there.")
        raise MergeError(f"{words}. Check the path.")
    if not (folder / STORY).is_file():
        raise MergeError(f"{out} has no {STORY}, so it is no merge of Mergescope. Choose a merged folder.")
    known = read_json(folder / STORY).get("checksums")
    if not isinstance(known, dict):
        raise MergeError(f"{folder / STORY} has no checksums. Merge again.")
    try:
        model = open_checkpoint(folder)
    except MergeError as error:
        raise MergeError(
            f"{str(error).partition('. ')[0].removesuffix('.')}, so it is not as it was written."
        ) from error
    problems = [f"`{name}` is missing." for name in known if name not in model.entries]
    problems += [f"`{name}` was not written by the merge." for name in model.entries if name not in known]
    there = {name: checksum for name, checksum in known.items() if name in model.entries}
    problems += _beside(folder, read_json(folder / STORY).get("files"))
    problems += _changed(model, there, on_step, stop, workers)
    return Verified(len(model.entries), model.bytes, problems)


def _beside(folder: Path, known: Any) -> list[str]:
    """What has become of the files beside the weights, by their hashes."""
    found = beside(folder)
    told = known.items() if isinstance(known, dict) else ()
    gone = [f"{name} is missing." for name, _ in told if name not in found]
    return gone + [f"{name} has changed since it was written." for name, was in told if found.get(name, was) != was]


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
