"""The folder beside its target in which a result is made, and the journal by which a stopped merge goes on."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from merging.errors import MergeError
from merging.publish import beside

JOURNAL = "journal.jsonl"


@dataclass
class Workplace:
    """Where a result is made: the folder, and the tensors that are finished in it, with their checksums."""

    folder: Path
    journal: IO[str]
    finished: dict[str, str] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)  # what was noted of them beside
    spoiled: bool = False  # whether going on from here makes no sense
    lock: threading.Lock = field(default_factory=threading.Lock)

    def finish(self, name: str, checksum: str, told: Any = None) -> None:
        """Note that a tensor is complete, and something of it."""
        with self.lock:
            self.finished[name] = checksum
            line: dict[str, Any] = {"tensor": name, "checksum": checksum}
            if told is not None:
                self.told[name] = line["told"] = told
            self.journal.write(json.dumps(line) + "\n")
            self.journal.flush()


@contextmanager
def workplace(out: Path, identity: str) -> Iterator[Workplace]:
    """A folder beside the target, which takes its name at the end.

    When the work is broken off it stays, and the next work of the same identity on the same target goes on in it; there
    is nothing to go on from where no tensor is finished, and then nothing stays.
    """
    folder = beside(out)
    created = [parent for parent in out.parents if not parent.exists()]
    lock = FileLock(out.parent / f"{folder.name}.lock", timeout=0)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            try:
                yield from _used(folder, out, identity)
            finally:
                with suppress(OSError):  # Windows removes it itself; only who has the lock may, or two would have it
                    Path(lock.lock_file).unlink()
    except Timeout:
        raise MergeError(f"Another merge is writing to {out}. Wait for it, or choose another folder.") from None
    except OSError as error:
        raise MergeError(f"{out} could not be written ({error}). Make room or choose another output folder.") from error
    finally:
        for parent in created:
            with suppress(OSError):  # it holds the result, or another's work by now
                parent.rmdir()


def _used(folder: Path, out: Path, identity: str) -> Iterator[Workplace]:
    place = _open(folder, identity)
    try:
        yield place
        place.journal.close()
        if out.is_dir():
            out.rmdir()  # it is empty, or this fails and the merge is not published
        folder.rename(out)
        (out / JOURNAL).unlink()  # not before, or a process that is killed here leaves what no later one knows
        _settle_names(out.parent)
    finally:
        with suppress(OSError):  # a full disk, which has been told already
            place.journal.close()
        if folder.exists() and (place.spoiled or not place.finished):
            shutil.rmtree(folder, ignore_errors=True)


def _open(folder: Path, identity: str) -> Workplace:
    """The folder as it was left by work of the same identity, or a new one."""
    journal = folder / JOURNAL
    known = _read(journal, identity)
    if known is None and folder.exists():
        if any(folder.iterdir()) and not journal.is_file():
            raise MergeError(f"{folder} is in the way and was not made by Mergescope. Move it or choose another name.")
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    place = Workplace(folder, journal.open("a", encoding="utf-8"), *(known or ({}, {})))
    if known is None:
        place.journal.write(json.dumps({"identity": identity}) + "\n")
        place.journal.flush()
    return place


def finished(out: str | Path) -> int:
    """How many tensors a merge to that folder has finished that was broken off."""
    try:
        lines = (beside(Path(out).expanduser().resolve()) / JOURNAL).read_text(encoding="utf-8").splitlines()
    except (OSError, RuntimeError, ValueError):
        return 0
    return sum(line.startswith('{"tensor"') for line in lines)


def _read(journal: Path, identity: str) -> tuple[dict[str, str], dict[str, Any]] | None:
    """The tensors that the journal calls finished, and its notes; or None where it is another's or damaged."""
    try:
        lines = journal.read_text(encoding="utf-8").splitlines()
        if not lines or json.loads(lines[0]) != {"identity": identity}:
            return None
        finished, noted = dict[str, str](), dict[str, Any]()
        for line in lines[1:]:
            with suppress(ValueError, KeyError, TypeError):  # the last line of a process that was killed
                told = json.loads(line)
                finished[str(told["tensor"])] = str(told["checksum"])
                noted |= {told["tensor"]: told["told"]} if "told" in told else {}
    except (OSError, ValueError):
        return None
    return finished, noted


def settle(folder: Path) -> None:
    """Have a folder, with the files in it, on the disk, where the system can be asked to."""
    for path in (*folder.rglob("*"), folder):
        with suppress(PermissionError, IsADirectoryError):  # Windows cannot open folders
            number = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)


def _settle_names(folder: Path) -> None:
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
