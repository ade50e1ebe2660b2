"""What is told of a result when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from merging.meter import Taken


@dataclass(frozen=True)
class Report:
    """What a merge did: where it is, what became of every tensor, seconds by stage, and a checksum per tensor."""

    out: Path
    bytes: int
    seconds: float
    fates: dict[str, str]
    timings: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    checksums: dict[str, str] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)  # by an adapter's rank: the share of a matrix's squared norm
    kept: int = 0  # tensors that an earlier run to the same place had finished
    planned: int = 0  # bytes of memory that the merge was to have at most, about, the program's own included
    taken: Taken = field(default_factory=Taken)  # of the machine
    fetched: int = 0  # bytes of models that were read on the Hub, and not kept


def by_fate(fates: dict[str, str]) -> dict[str, list[str]]:
    """The tensors under the words for what became of them, each in the order of the model."""
    names: dict[str, list[str]] = {}
    for name, fate in fates.items():
        names.setdefault(fate, []).append(name)
    return names
