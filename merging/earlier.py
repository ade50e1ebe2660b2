"""Statistics that were collected of a model before: those of kinds that are not asked anew stay."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merging.collected import FISHER, INPUTS
from merging.errors import MergeError
from merging.header import Entry, metadata, read_header

PREFIXES = {"fisher": FISHER, "inputs": INPUTS}  # what the names of each kind's tensors begin with


@dataclass(frozen=True)
class Earlier:
    """What a file of statistics held before it is written anew."""

    kept: tuple[str, ...] = ()  # the kinds that stay
    replaced: tuple[str, ...] = ()  # those that are collected anew
    entries: tuple[Entry, ...] = ()  # what stays
    story: dict[str, Any] = field(default_factory=dict)  # what is known of the runs that it is of, by kind


def earlier(file: Path, kinds: tuple[str, ...]) -> Earlier:
    """What is there of a model, where these kinds are collected anew; MergeError where what is to stay is damaged."""
    if not file.is_file():
        return Earlier()
    try:
        entries = read_header(file)
        told = metadata(file)
    except MergeError as error:
        if {*kinds} == {*PREFIXES}:  # nothing of it is to stay
            return Earlier()
        words = f"{str(error).partition('. ')[0].removesuffix('.')}, and what it holds is to stay"
        raise MergeError(f"{words}. Delete it, or collect all kinds anew.") from error
    new = tuple(PREFIXES[kind] for kind in kinds)
    there = [kind for kind, prefix in PREFIXES.items() if any(entry.name.startswith(prefix) for entry in entries)]
    kept = tuple(kind for kind in there if kind not in kinds)
    runs = _runs(told.get("mergescope", ""))
    return Earlier(
        kept,
        tuple(kind for kind in there if kind in kinds),
        tuple(entry for entry in entries if not entry.name.startswith(new)),
        {kind: runs[kind] for kind in kept if kind in runs},
    )


def _runs(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError:  # of another maker
        return {}
    return told if isinstance(told, dict) else {}
