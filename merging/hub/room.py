"""Models of the Hub on a Space's disk: those that were used longest ago make room for others, and none in use does."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from merging import space
from merging.caches import previews
from merging.errors import MergeError
from merging.hub.names import HubName, hub_name
from merging.sizes import in_words

_lock = threading.Lock()
_using: Counter[str] = Counter()  # by repository, how many works read it
_used: dict[str, float] = {}  # by repository, when it was last looked at, or the last work with it ended
_coming: Counter[str] = Counter()  # by repository, the bytes that are being downloaded
_before: dict[str, int] = {}  # by repository, the bytes that were there before these


@contextmanager
def using(*models: str | Path | None) -> Iterator[None]:
    """Within, none of these models is deleted."""
    repos = [name.repo for model in models if model is not None and (name := hub_name(model))]
    with _lock:
        _using.update(repos)
    try:
        yield
    finally:
        with _lock:
            _using.subtract(repos)
            _used.update(dict.fromkeys(repos, time.monotonic()))


@contextmanager
def room_for(name: HubName, size: int) -> Iterator[None]:
    """Within, a Space has room for so many more bytes of a model; MergeError where what is in use leaves too little."""
    if not space.here():
        yield
        return
    with _lock:
        there = _make_room(name, size)
        if not _coming[name.repo]:
            _before[name.repo] = there
        _coming[name.repo] += size
    try:
        yield
    finally:
        with _lock:
            _coming[name.repo] -= size


def too_many(models: Iterable[str | Path | None], left: int, streamed: bool = False) -> str:
    """Why so many bytes that are left of these models are not downloaded, in sentences; empty where they are.

    What is here of them counts: in use together, none can make room for the others.
    """
    if not space.here():
        return ""
    repos = {name.repo for model in models if model is not None and (name := hub_name(model))}
    return space.too_many(left + sum(size_of(_cached(repo), parts=False) for repo in repos), streamed)


def touched(name: HubName) -> None:
    """Keep this model's preview longer than those that were used before."""
    with _lock:
        _used[name.repo] = time.monotonic()


def trim_previews() -> None:
    """Delete previews until they fit what a Space keeps of them, those used longest ago first, and none in use."""
    with _lock:
        folders = [folder for folder in previews().glob("*/[!.]*") if folder.is_dir()]  # a dot: it is being made
        left = sum(map(size_of, folders)) - space.PREVIEWS
        idle = [folder for folder in folders if not _using[_repo(folder.parent.name)]]
        for folder in sorted(idle, key=lambda one: (_used.get(_repo(one.parent.name), 0.0), one.stat().st_mtime)):
            if left > 0:
                left -= size_of(folder)
                shutil.rmtree(folder, ignore_errors=True)


def _cached(repo: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _repo(folder: str) -> str:
    return folder.replace("--", "/", 1)


def _make_room(name: HubName, size: int) -> int:
    """Delete models, and what is left of downloads that were stopped, those first that were used longest ago.

    The bytes of this model that are there already.
    """
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*")
    kept = {_repo(folder.name.removeprefix("models--")): folder for folder in folders}
    sizes = {repo: size_of(folder) for repo, folder in kept.items()}
    arrived = sum(held - _before[repo] for repo, held in sizes.items() if _coming[repo])
    left = sum(sizes.values()) - arrived + sum(_coming.values()) + size - space.MODELS
    idle = [repo for repo in kept if not _using[repo] and not _coming[repo] and repo != name.repo]
    for repo in sorted(idle, key=lambda repo: _used.get(repo, 0.0)):
        if left > 0:
            shutil.rmtree(kept[repo], ignore_errors=True)
            left -= sizes[repo]
    if left > 0:
        words = f"This Space keeps {in_words(space.MODELS)} of models from the Hub, and those in use leave too little"
        raise MergeError(
            f"{words} for `{name.repo}` ({in_words(size)}). Try again in a while, or choose smaller models."
        )
    return sizes.get(name.repo, 0)


def size_of(folder: Path, parts: bool = True) -> int:
    """Bytes of the files in a folder, while others write and delete in it; the cache has each once, and links to it.

    Without `parts`, what has come so far of files that are still to be downloaded does not count.
    """
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            if not parts and file.endswith(".incomplete"):
                continue
            with suppress(FileNotFoundError):  # a download has renamed it
                told = os.lstat(os.path.join(place, file))
                total += told.st_size if stat.S_ISREG(told.st_mode) else 0
    return total
