"""Downloading a model of the Hub: the weights that would be merged and the small files beside them, and no more."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from merging.crew import listening
from merging.errors import MergeError, MergeStopped
from merging.hub.asking import asking
from merging.hub.cached import WEIGHTS, downloaded, files_of, previewed
from merging.hub.names import HubName, hub_name
from merging.hub.preview import commit_at, preview
from merging.hub.room import room_for
from merging.hub.weights import Blob, OnHere, blobs_of, download
from merging.sizes import in_words
from merging.words import listed

OnBytes = Callable[[int, int], None]  # bytes that are here, of all that are wanted
WHOLE = "Reconstructing"  # how the client's bar of bytes that are here begins, those of an earlier try included


@dataclass(frozen=True)
class Wanted:
    """What is to be downloaded of a model: its name with the commit, and its files with their sizes in bytes."""

    name: HubName
    files: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


def wanted(name: HubName) -> Wanted:
    """What is still to be downloaded of a model as it is on the Hub now."""
    return _left(name, preview(name))


def left_of(told: str | Path) -> Wanted | None:
    """What is to be downloaded of a model that its preview stands for, without asking; None for every other model."""
    name = hub_name(told)
    if not name or os.path.exists(told) or downloaded(name):
        return None
    folder = previewed(told)
    return _left(name, folder) if folder else None


def _left(name: HubName, folder: Path) -> Wanted:
    from huggingface_hub import try_to_load_from_cache

    exact = name.at(commit_at(folder))

    def here(file: str) -> bool:
        return isinstance(try_to_load_from_cache(exact.repo, file, revision=exact.revision), str)

    return Wanted(exact, {file: size for file, size in files_of(folder).items() if not here(file)})


def fetch(names: Sequence[HubName], on_bytes: OnBytes | None = None, stop: threading.Event | None = None) -> list[Path]:
    """Download models, but for what came of them at an earlier try; the folders that hold them.

    MergeError where the Hub, the disk or the connection does not allow it: what does not fit is told before any of them
    is downloaded. MergeStopped when asked to stop.
    """
    left = [wanted(name) for name in names]
    total, before, tell = sum(one.bytes for one in left), 0, on_bytes or (lambda done, total: None)
    try:
        blobs = [
            blobs_of(one.name, {file: one.files[file] for file in one.files if file.endswith(WEIGHTS)}) for one in left
        ]
        sizes = [one.bytes - sum(blob.here for blob in some) for one, some in zip(left, blobs, strict=True)]
        _check_disk(left, sum(sizes))
        folders = []
        for one, some, size in zip(left, blobs, sizes, strict=True):
            with room_for(one.name, size), listening(stop):
                folders.append(_fetched(one, some, partial(_tell, tell, before, total), stop))
            before += one.bytes
        return folders
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            words = f"The disk was full before {_listed(left)} could be downloaded"
            raise MergeError(f"{words}. Free some space and try again: what came is kept.") from error
        raise MergeError(f"{_listed(left)} could not be kept ({error.strerror}). Check the Hub's cache.") from error


def _tell(on_bytes: OnBytes, before: int, total: int, here: int) -> None:
    on_bytes(min(before + here, total), total)


def _listed(left: list[Wanted]) -> str:
    return listed([f"`{one.name.repo}`" for one in left])


def _fetched(left: Wanted, blobs: list[Blob], on_here: OnHere, stop: threading.Event | None) -> Path:
    """Download the files of weights, and let the Hub's client see to all others, and to its cache."""
    from huggingface_hub import snapshot_download

    download(left.name, blobs, on_here)
    patterns = [escape(file) for file in files_of(preview(left.name))]
    bars = _bars(sum(blob.size for blob in blobs), on_here, stop)
    with asking(left.name):
        snapshot_download(left.name.repo, revision=left.name.revision, allow_patterns=patterns, tqdm_class=bars)
    folder = downloaded(left.name)
    if not folder:
        raise MergeError(f"`{left.name.repo}` was not downloaded whole. Try again: what came is kept.")
    return folder


def _check_disk(left: list[Wanted], size: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    there = next(place for place in (cache, *cache.parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if size > free:
        verb = "needs" if len(left) == 1 else "need"
        words = f"{_listed(left)} {verb} {in_words(size)} in {cache}, and {in_words(free)} are free"
        raise MergeError(f"{words}. Free some space, or let HF_HOME name a folder on another disk.")


def _bars(before: int, on_here: OnHere, stop: threading.Event | None) -> Any:
    """What the Hub's client takes for progress bars: they draw nothing, tell of bytes, and stop when asked to."""
    from tqdm import tqdm

    here = before

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counts = str(options.get("desc") or "").startswith(WHOLE)
            super().__init__(*args, **{key: value for key, value in options.items() if key != "name"}, disable=True)

        def update(self, n: float | None = 1) -> None:
            nonlocal here
            if stop and stop.is_set():  # seen from the client's threads
                raise MergeStopped
            if self.counts:
                here += int(n or 0)
                on_here(here)

    return Bar
