"""Deleting the folder of a merge: only that, and only while it holds what the merge has written and nothing else."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from merging.errors import MergeError
from merging.header import HEADER_LIMIT, INDEX, read_header, read_json
from merging.provenance import STORY
from merging.report import Report
from merging.workplace import JOURNAL


def remove_merge(report: Report) -> None:
    """Delete the folder of this merge's result, if it is still there.

    Nothing is deleted through links, and nothing at all where the folder is another one by now, or holds anything that
    the merge did not write: MergeError says why.
    """
    out = report.out
    try:
        if _linked(out):
            raise MergeError(f"{out} is reached through a link, and nothing is deleted so. Delete it yourself.")
        if not out.exists():
            return
        if not out.is_dir() or out.is_mount():
            raise MergeError(f"{out} is no folder of a merge, so it stays.")
        files = _files(out, _written(report), report)
    except (OSError, RuntimeError) as error:
        raise MergeError(f"{out} could not be looked into ({error}), so it stays. Delete it yourself.") from error
    _delete(out, files)


def _linked(out: Path) -> bool:
    """Whether there is a link on the way to a path, which had none when the merge was written."""
    return not out.is_absolute() or ".." in out.parts or any(path.is_symlink() for path in (out, *out.parents))


def _written(report: Report) -> set[str]:
    """What the merge has written beside weights; MergeError where the folder's story is not that of this merge."""
    story = report.out / STORY
    content = {}
    with suppress(MergeError):
        content = read_json(story) if _plain(story) and story.stat().st_size <= HEADER_LIMIT else {}
    if "mergescope" not in content:
        raise MergeError(f"{report.out} has no {STORY} of a merge, so it is none of Mergescope's, and stays.")
    if not report.checksums or content.get("checksums") != report.checksums:
        raise MergeError(f"{story} tells of another merge than this one, so {report.out} stays.")
    beside = content.get("files")
    return {STORY, JOURNAL, INDEX, *(beside if isinstance(beside, dict) else ())}


def _plain(path: Path) -> bool:
    """Whether there is a file, and no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _files(out: Path, written: set[str], report: Report) -> list[Path]:
    """All files in the folder; MergeError names what the merge did not write."""
    folders = {name.rpartition("/")[0] for name in written}
    found = []
    for path in _below(out, out, folders):
        ours = path.relative_to(out).as_posix() in written or _holds(path, report)
        if not ours or not _plain(path):
            words = f"{path} was not written by this merge, so nothing of {out} is deleted"
            raise MergeError(f"{words}. Move it elsewhere, or delete the folder yourself.")
        found.append(path)
    return found


def _below(folder: Path, out: Path, known: set[str]) -> Iterator[Path]:
    """What is in a folder, and in those in it that are known and not empty."""
    for path in sorted(folder.iterdir()):
        inner = stat.S_ISDIR(path.lstat().st_mode) and path.relative_to(out).as_posix() in known
        if inner and not path.is_mount() and any(path.iterdir()):
            yield from _below(path, out, known)
        else:
            yield path


def _holds(file: Path, report: Report) -> bool:
    """Whether these are weights of the merge, by the names of the tensors."""
    if file.parent != report.out or file.suffix != ".safetensors" or not _plain(file):
        return False
    try:
        return {entry.name for entry in read_header(file)} <= report.checksums.keys()
    except MergeError:
        return False


def _delete(out: Path, files: list[Path]) -> None:
    """Delete the files and their folders; the story last, so that a deletion that was broken off can be repeated."""
    folders = {folder for file in files for folder in file.parents if out in folder.parents}
    try:
        for file in sorted(files, key=lambda file: file == out / STORY):
            file.unlink()
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            folder.rmdir()
        out.rmdir()
    except OSError as error:
        words = f"{error.filename} could not be deleted ({error.strerror})"
        raise MergeError(f"{words}. Delete what is left of {out} yourself.") from error
