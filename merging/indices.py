"""The index of a sharded model, believed where it agrees with the shards, and done without where they are complete."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from merging.errors import MergeError
from merging.header import Entry, read_json

ENDINGS = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Listing:
    """The files of a model, the file that its index promises for each tensor, and what the user should know."""

    files: list[Path]
    promised: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def indexed(path: Path, index: Path, whole: list[list[Path]]) -> Listing:
    """The files that an index lists; or the shards that are complete by their own names, where it is of no use."""
    try:
        promised = _promised(index)
        names = sorted(set(promised.values()))
        there = [path / name for name in names if (path / name).is_file()]
        for name in names:
            if path / name not in there:
                raise MergeError(f"Shard {name} of {path} is missing. Download it and try again.")
    except MergeError:
        # Shards of which the index knows some, and others are gone, are a download that was not finished.
        if len(whole) != 1 or any(file not in whole[0] for file in _known(index)):
            raise
        note = f"{index.name} is damaged or names other files, so it was not used: the shards are complete without it."
        return Listing(whole[0], {}, (note,))
    larger = [files for files in whole if set(there) < set(files)]
    if larger:
        note = f"{index.name} lists {len(there)} of {len(larger[0])} shards; all of them were read."
        return Listing(larger[0], promised, (note,))
    return Listing(there, promised)


def _promised(index: Path) -> dict[str, str]:
    """The file that an index says each tensor is in."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise MergeError(f"{index} has no usable weight_map. Download it again.")
    for name in names.values():
        if Path(name).name != name or not name.endswith(ENDINGS):
            raise MergeError(f"{index} names `{name}`, which is not a shard in its folder. Download it again.")
    return names


def _known(index: Path) -> list[Path]:
    """The files that a doubtful index names and that are there."""
    try:
        promised = _promised(index)
    except MergeError:
        return []
    return [index.parent / name for name in set(promised.values()) if (index.parent / name).is_file()]


def compared(source: Listing, entries: dict[str, Entry], tied: bool) -> list[str]:
    """What the user should know of an index that does not agree with the shards; MergeError when a tensor is lost."""
    promised = source.promised
    for name, file in promised.items():
        if name not in entries and not (tied and name.endswith("lm_head.weight")):  # old versions list a tied head
            where = f"{file}, where the index says it is, nor in another shard"
            raise MergeError(f"`{name}` is not in {where} of {source.files[0].parent}. Download the model again.")
    moved = [name for name, file in promised.items() if name in entries and entries[name].file.name != file]
    extra = [name for name in entries if name not in promised] if promised else []
    notes = [_told(moved, "is in another shard than the index says")] if moved else []
    return notes + ([_told(extra, "is in the shards and not in the index")] if extra else [])


def _told(names: Iterable[str], what: str) -> str:
    first, *more = names
    return f"`{first}` {what}{f', and so it is with {len(more)} more' if more else ''}; the shards were believed."
