"""Runs a recipe: plans from headers, streams every tensor in pieces, and publishes the result by one rename."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from merging.companions import carry_over
from merging.crew import crew
from merging.errors import MergeError
from merging.header import STORED_AS, Entry
from merging.limits import crowded
from merging.memory import merge_groups as merge_groups
from merging.output import SHARD, Output, examine, lay_out, shards
from merging.plan import Plan
from merging.preflight import MEMORY, check
from merging.progress import Clock
from merging.progress import Step as Step
from merging.provenance import STORY, mark_of, provenance
from merging.publish import target
from merging.ranking import NotFiniteError
from merging.recipe import Recipe
from merging.run import Run
from merging.sizes import in_bytes
from merging.stream import fitting
from merging.workplace import settle, workplace


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


def merge(
    recipe: Recipe,
    out: str | Path,
    on_step: Callable[[Step], None] | None = None,
    stop: threading.Event | None = None,
    workers: int | None = None,
    memory: int | str | None = None,
    *,
    device: str = "cpu",
    shard_size: int | str = SHARD,
    fsync: bool = True,
    hash_inputs: bool = False,
) -> Report:
    """Run the recipe and write a model folder; blocking.

    Nothing is at `out` until all of it is. A merge that fails or is stopped (MergeStopped) leaves it as it was; the
    next merge of the same recipe to the same place goes on from the tensors that were finished. Raises MergeError with
    every problem there is before any tensor is merged. `memory` is what it may work in, in bytes or as "1GB", beside
    the program itself. On a `device` other than cpu, which is cuda or mps, nothing is used but the torch definitions.
    `on_step` may be called by any thread, one at a time.
    """
    clock = Clock()
    room = in_bytes(MEMORY if memory is None else memory)
    found = check(recipe, out, room, workers, device)
    if found.problems or found.plan is None:
        raise MergeError("\n".join(found.problems))
    place, work, settings = target(out, 0), found.plan, recipe.settings()
    hands = fitting(room, workers or os.cpu_count() or 1, 1 + len(work.experts))
    story = provenance(recipe, work, place, hash_inputs)
    limit = in_bytes(shard_size)
    clock.lap("check")
    entries = [replace(entry, dtype=_dtype(entry, recipe.out_dtype)) for entry in work.written]
    if words := crowded(work, len(list(shards(entries, limit)))):
        raise MergeError(words)
    with ExitStack() as stack:
        mark = mark_of(story, work, limit, device)
        made_in = stack.enter_context(workplace(place, mark))
        metadata = {key: told if isinstance(told, str) else json.dumps(told) for key, told in story.items()}
        output = Output(lay_out(made_in.folder, entries, limit, metadata, again=True))
        stack.callback(output.close)
        team = stack.enter_context(crew(hands, stop))
        run = Run(work, settings, team, device, output, made_in, on_step)
        stack.callback(run.stream.files.close)
        try:
            run.all(clock)
        except NotFiniteError as error:
            made_in.spoiled = True
            raise run.blame(error.name) from None
        if mark_of(story, work, limit, device) != mark:
            made_in.spoiled = True
            raise MergeError("A model was changed while it was merged. Merge again when nothing writes to it.")
        examine(output.placed)
        carry_over(work, made_in.folder, recipe.out_dtype, recipe.chat_template)
        sums = {name: made_in.finished[name] for name in output.placed}
        _tell(made_in.folder, recipe.to_yaml(place), story, work, sums)
        clock.lap("verify")
        if fsync:
            settle(made_in.folder)
        clock.lap("settle")
        run.progress.finish()
    return Report(place, sum(e.bytes for e in entries), clock.total, work.fates, clock.laps, found.warnings, sums)


def _tell(folder: Path, text: str, story: dict[str, Any], work: Plan, checksums: dict[str, str]) -> None:
    """Write the recipe, and what the result was made of, into its folder."""
    (folder / "mergescope.yaml").write_text(text, encoding="utf-8")
    told = {**story, "fates": work.fates, "warnings": work.warnings, "checksums": checksums}
    (folder / STORY).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _dtype(entry: Entry, wanted: str) -> str:
    return STORED_AS[wanted] if wanted and entry.floating else entry.dtype
