"""The merges that a Space keeps for its visitors: each one's in a folder of their own, and none longer than it must."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape, glob
from pathlib import Path
from typing import NamedTuple

from merging import space
from merging.errors import MergeError
from merging.hub.room import size_of, trim_previews
from merging.publish import beside
from merging.sizes import in_words
from ui.jobs import at_work

SECRET = secrets.token_bytes(32)  # the browser chooses a visitor's name, and must not know the folder of another's
EVERY = 300  # seconds between two looks at what is left

_read: list[tuple[str | Path | None, ...]] = []  # models that merges read or will, of those that wait, too


class Kept(NamedTuple):
    """A merge, or what is left of one that was stopped: its folder, its bytes, and when it was last used."""

    folder: Path
    bytes: int
    used: float


def home(visitor: str) -> Path:
    """The folder of a visitor's merges, whose name nobody can guess."""
    name = hashlib.blake2b(visitor.encode("utf-8", "replace"), key=SECRET, digest_size=16).hexdigest()
    return space.merges() / name


@contextmanager
def reading(*models: str | Path | None) -> Iterator[None]:
    """Within, no merge among these models is deleted."""
    _read.append(models)
    try:
        yield
    finally:
        _read.remove(models)


def used(file: str) -> None:
    """A file is downloaded: if it is a merge's, that counts as use."""
    with suppress(OSError, RuntimeError, ValueError):  # nothing is there, or it is none of the merges
        place = Path(file).resolve().relative_to(space.merges().resolve())
        os.utime(space.merges().joinpath(*place.parts[:2]))


def check_size(size: int) -> None:
    """MergeError where a merge has more bytes than a visitor may ever write."""
    if size > space.MINE:
        words = f"The merge takes {in_words(size)}, and this Space keeps {in_words(space.MINE)} for a visitor"
        raise MergeError(f"{words}. {space.elsewhere()}")


def make_room(visitor: str, out: Path, size: int) -> None:
    """Delete what was used longest ago, until a visitor may write so many bytes there; MergeError where not.

    What others have merged just now stays: they are to have the time to download it.
    """
    check_size(size)
    kept, busy = [one for one in _all() if one.folder != beside(out)], _busy("merge")  # what it goes on with stays
    if _shrink(space.MINE - size, [one for one in kept if one.folder.parent == home(visitor)], busy):
        words = f"This Space keeps {in_words(space.MINE)} of merges for a visitor, and yours are in use"
        raise MergeError(f"{words}. Wait until nothing else runs here, or take none of them into this merge.")
    others = {one.folder.parent for one in kept if time.time() - one.used < space.SPARED} - {home(visitor)}
    if _shrink(space.MERGES - size, [one for one in kept if one.folder.is_dir()], busy | others):
        words = f"This Space keeps {in_words(space.MERGES)} of merges, and all of them are in use or were just made"
        raise MergeError(f"{words}. Try again in a few minutes.")


def tidy() -> None:
    """Delete what nobody has used for long, again and again."""
    while True:
        with suppress(FileNotFoundError):  # somebody else deleted it; the next look sees to the rest
            expire(time.time())
            trim_previews()
        time.sleep(EVERY)


def expire(now: float) -> None:
    """Delete the merges that nobody has used for long, and visitors' folders without any.

    Whose work is not done is taken to use theirs.
    """
    busy = _busy()
    for one in _all():
        if _in_use(one, busy):
            os.utime(one.folder)
        elif now - one.used > space.KEPT:
            _delete(one)
    for folder in {*space.merges().glob("*")} - _busy():
        with suppress(OSError):  # there is something in it
            folder.rmdir()


def _busy(but: str = "") -> set[Path]:
    """The folders of visitors whose work is not done, be it reading or writing; `but` one kind of it."""
    return {home(visitor) for visitor, kind in at_work() if kind != but}


def _in_use(one: Kept, busy: set[Path]) -> bool:
    """Whether a merge is of a visitor whose work is not done, or is read by anybody's merge."""
    read = (model for models in list(_read) for model in models if model)
    return one.folder.parent in busy or any(space.inside(model, (one.folder,)) for model in read)


def _shrink(most: int, kept: list[Kept], busy: set[Path]) -> bool:
    """Delete the merges that were used longest ago until no more than so many bytes are left; whether more are."""
    total = sum(one.bytes for one in kept)
    for one in sorted(kept, key=lambda one: one.used):
        if total > most and not _in_use(one, busy):
            _delete(one)
            total -= one.bytes
    return total > most


def _all() -> Iterator[Kept]:
    for place in glob(f"{escape(str(space.merges()))}/*/*", include_hidden=True):  # whose folders may vanish meanwhile
        folder = Path(place)
        try:
            yield Kept(folder, size_of(folder), folder.stat().st_mtime)
        except FileNotFoundError:  # it is being deleted, or finished
            continue


def _delete(one: Kept) -> None:
    shutil.rmtree(one.folder, ignore_errors=True)
