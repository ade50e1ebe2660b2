"""How any result is made: beside its place, checked as it is written, with its story, and there when it is whole."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merging.crew import Crew, crew
from merging.errors import MergeError
from merging.groups import TILE, Bits
from merging.header import Entry
from merging.output import Output, Sink, examine, lay_out, stored_checksum
from merging.progress import Clock
from merging.provenance import STORY, beside
from merging.workplace import Workplace, settle, workplace


@dataclass(frozen=True)
class Making:
    """A result at work: where its tensors go, what is finished of it, and who works on it."""

    output: Sink
    place: Workplace
    crew: Crew

    def put(self, name: str, values: Bits, told: Any = None) -> None:
        """Write all of a tensor, laid flat, and have the journal know it, with something that is told of it."""
        entry = self.output.placed[name]
        for start in range(0, len(values), TILE):
            self.output.write(entry, start, values[start : start + TILE])
        self.finish(name, entry.size, told)

    def finish(self, name: str, entries: int, told: Any = None) -> None:
        """So many entries of a tensor were written: have the journal know of it when these were the last."""
        if self.output.complete(name, entries):
            self.place.finish(name, self.output.checksum(name), told)

    def intact(self, names: Iterable[str]) -> bool:
        """Whether an earlier run finished all of these tensors, and they are still what they were."""
        known, placed = self.place.finished, self.output.placed
        return all(name in known and known[name] == stored_checksum(placed[name]) for name in names)

    @property
    def checksums(self) -> dict[str, str]:
        return {name: self.place.finished[name] for name in self.output.placed}


@contextmanager
def making(
    out: Path,
    story: dict[str, Any],
    mark: Callable[[], str],
    entries: list[Entry],
    clock: Clock,
    *,
    limit: int,
    hands: int,
    stop: threading.Event | None,
    fsync: bool,
    stem: str = "model",
) -> Iterator[Making]:
    """A folder beside `out` with the files that these tensors are to be put into; afterwards it takes its place.

    `mark` tells this work from any other, and changes when what it reads does. `story` goes into the files' headers,
    and what is added to it meanwhile into a file of its own.
    """
    with ExitStack() as stack:
        before = mark()
        made_in = stack.enter_context(workplace(out, before))
        metadata = {key: told if isinstance(told, str) else json.dumps(told) for key, told in story.items()}
        output = Output(lay_out(made_in.folder, entries, limit, metadata, again=True, stem=stem))
        stack.callback(output.close)
        at_work = Making(output, made_in, stack.enter_context(crew(hands, stop)))
        yield at_work
        if mark() != before:
            made_in.spoiled = True
            raise MergeError("A model was changed while it was merged. Merge again when nothing writes to it.")
        examine(output.placed)
        told = {**story, "checksums": at_work.checksums, "files": beside(made_in.folder)}
        (made_in.folder / STORY).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        clock.lap("verify")
        if fsync:
            settle(made_in.folder)
        clock.lap("settle")
