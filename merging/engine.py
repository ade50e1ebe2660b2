"""Runs a recipe: plans from headers, streams every tensor in pieces, and publishes the result by one rename."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from merging.adapter_engine import merge_changes
from merging.companions import carry_over
from merging.crew import Crew
from merging.distant import set_aside, streaming
from merging.document import RECIPE
from merging.errors import MergeError
from merging.header import STORED_AS, Entry
from merging.limits import crowded
from merging.making import making
from merging.memory import merge_groups as merge_groups
from merging.meter import metered
from merging.output import SHARD, shards
from merging.passes import largest_unit
from merging.plan import Plan
from merging.preflight import MEMORY, check
from merging.progress import Clock
from merging.progress import Step as Step
from merging.provenance import mark_of, provenance
from merging.publish import target
from merging.ranking import NotFiniteError
from merging.recipe import Recipe, load_recipe
from merging.report import Report as Report
from merging.run import Run
from merging.settings import Settings
from merging.sizes import in_bytes
from merging.stream import fitting, memory_of
from merging.whole import Room, shared, whole_tensors


def merge(
    recipe: Recipe | str | Path,
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
    stream: bool = False,
) -> Report:
    """Run the recipe, or what `load_recipe` reads as one, and write a model folder, or an adapter's; blocking.

    Nothing is at `out` until all of it is. A merge that fails or is stopped (MergeStopped) leaves it as it was; the
    next merge of the same recipe to the same place goes on from the tensors that were finished. Raises MergeError with
    every problem there is before any tensor is merged. `memory` is what it may work in, in bytes or as "1GB", beside
    the program itself. On a `device` other than cpu, which is cuda or mps, nothing is used but the torch definitions.
    With `stream`, models that `hub.models.pinned` found on the Hub are read there, and no weight of them is kept.
    `on_step` may be called by any thread, one at a time.
    """
    clock = Clock()
    recipe = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
    room = in_bytes(MEMORY if memory is None else memory)
    found = check(recipe, out, room, workers, device, stream=stream)
    if found.problems or found.plan is None:
        raise MergeError("\n".join(found.problems))
    known: dict[str, Any] = {"stop": stop, "fsync": fsync}
    listen = Crew(stop=stop).listen if hash_inputs else None
    if found.changes:
        return merge_changes(recipe, found, target(out, 0), clock, on_step, listen, room, workers, **known)
    place, work, settings = target(out, 0), found.plan, recipe.settings()
    aside = set_aside(room, found.fetching, hash_inputs) if stream and found.fetching else 0
    hands, whole, left = team_of(work, settings, room - aside, workers)
    story = provenance(recipe, work.base, work.experts, place, listen, work.collected)
    limit = in_bytes(shard_size)
    entries = [stored_as(entry, recipe.out_dtype) for entry in work.written]
    clock.lap("check")
    if words := crowded(work, len(list(shards(entries, limit)))):
        raise MergeError(words)
    mark = partial(mark_of, dict(story), work, limit, device)
    with metered() as taken, making(place, story, mark, entries, clock, limit=limit, hands=hands, **known) as at:
        with streaming(work, aside, hands) as read:
            run = Run(read, settings, at.crew, device, at.output, at.place, whole, left, on_step)
            with closing(run.stream.files):
                try:
                    run.all(clock)
                except NotFiniteError as error:
                    at.place.spoiled = True
                    raise run.blame(error.name) from None
        carry_over(work, at.place.folder, recipe.out_dtype, recipe.chat_template)
        (at.place.folder / RECIPE).write_text(recipe.to_yaml(place), encoding="utf-8")
        warnings = (*found.warnings, *run.warnings())
        story |= {"fates": work.fates, "warnings": warnings}
        sums = at.checksums
        run.progress.finish()
    size, cost = sum(entry.bytes for entry in entries), (found.memory, taken, run.fetched)
    return Report(place, size, clock.total, work.fates, clock.laps, warnings, sums, {}, run.kept, *cost)


def team_of(work: Plan, settings: Settings, room: int, workers: int | None) -> tuple[int, dict[str, int], Room]:
    """The workers that fit so many bytes, the tensors that are merged as a whole, and the memory left for these."""
    each = memory_of(work, settings.method.entrywise, largest_unit(work, settings))
    whole = whole_tensors(work, settings)
    hands = shared(room, fitting(room, workers or os.cpu_count() or 1, each), each, whole)
    return hands, whole, Room(room - hands * each)


def stored_as(entry: Entry, out_dtype: str) -> Entry:
    """The entry with the dtype that it has in the result."""
    return replace(entry, dtype=STORED_AS[out_dtype]) if out_dtype and entry.floating else entry
