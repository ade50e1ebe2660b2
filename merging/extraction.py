"""A LoRA adapter out of a fine-tuned model: the nearest of a rank to what it changed in each matrix of its base."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from merging.adapter import open_base, open_expert
from merging.adapter_config import CONFIG
from merging.adapter_folder import STEM
from merging.crew import Crew
from merging.errors import MergeError
from merging.extracting import Extracting, Wanted, left_out, wanted
from merging.findings import MEMORY
from merging.fit import misfit
from merging.groups import TILE
from merging.header import STORED_AS
from merging.low_rank import SPARE, Loss, room_for, told
from merging.making import making
from merging.params import nearest
from merging.plan import Plan, plan
from merging.progress import Clock, Step
from merging.provenance import inputs, mark, our_version
from merging.publish import target
from merging.reading import DTYPES
from merging.report import Report
from merging.sizes import in_bytes, in_words


def extract(
    base: str | Path,
    expert: str | Path,
    out: str | Path,
    rank: int,
    on_step: Callable[[Step], None] | None = None,
    stop: threading.Event | None = None,
    workers: int | None = None,
    memory: int | str | None = None,
    *,
    modules: Sequence[str] = (),
    save: Sequence[str] = (),
    bias: bool = False,
    randomised: bool = False,
    out_dtype: str = "float32",
    fsync: bool = True,
    hash_inputs: bool = False,
) -> Report:
    """Write the folder of an adapter that turns the base into the expert as nearly as its rank allows; blocking.

    Factors are made for the matrices in the layers and for a head of its own; with `modules`, only where a module's
    name ends so. What `save` names is kept in full, and all biases with `bias`; what is left out besides is told in
    the report's warnings, as is what the rank leaves out. `randomised` decompositions are quicker and find a little
    less. Raises MergeError before anything is read where it cannot be done. Like a merge, nothing is at `out` until
    all of it is, and what was stopped goes on.
    """
    clock, room = Clock(), in_bytes(MEMORY if memory is None else memory)
    work = _planned(base, expert)
    names = wanted(work, rank, tuple(modules), tuple(save), bias)
    entries = names.entries(work, _dtype(out_dtype))
    place = target(out, sum(entry.bytes for entry in entries))
    many = _hands(work, names, randomised, room, workers or os.cpu_count() or 1)
    asked = {"rank": rank, "modules": [*modules], "save": [*save], "bias": bias, "randomised": randomised}
    story: dict[str, Any] = {"mergescope": our_version(), "extracted": asked}
    story["inputs"] = inputs(work.base, work.experts, Crew(stop=stop).listen if hash_inputs else None)
    marked = partial(mark, dict(story), (work.base, *work.experts), [str(entry) for entry in entries])
    clock.lap("check")
    kind: dict[str, Any] = {"hands": many, "stop": stop, "fsync": fsync, "stem": STEM, "limit": 1 << 62}
    with making(place, story, marked, entries, clock, **kind) as at:
        job = Extracting(work, names, at, on_step, randomised)
        job.all()
        clock.lap("merge")
        config = json.dumps(names.config(work), indent=2) + "\n"
        (at.place.folder / CONFIG).write_text(config, encoding="utf-8")
        losses = {name: Loss(*at.place.told[names.factors[name][1]]) for name in names.factors}
        warnings = (*work.warnings, *told(losses), *left_out(work, losses, job.rest))
        shares = {name: loss.share for name, loss in losses.items()}
        story |= {"fates": names.fates(work), "warnings": warnings, "lost": shares}
        sums = at.checksums
        job.progress.finish()
    size = sum(entry.bytes for entry in entries)
    return Report(place, size, clock.total, names.fates(work), clock.laps, warnings, sums, kept=job.kept)


def _planned(base: str | Path, expert: str | Path) -> Plan:
    first = open_base(base)
    if Path(base).expanduser().resolve() == Path(expert).expanduser().resolve():
        words = f"{base} is the base and the fine-tuned model, so there is nothing to extract"
        raise MergeError(f"{words}. Name the model that was fine-tuned from it.")
    other = open_expert(expert, first)
    if problem := misfit(first, other):
        raise MergeError(f"{other.name}: {problem}")
    return plan(first, [other])


def _dtype(name: str) -> str:
    if name not in DTYPES:
        raise MergeError(f"There is no dtype `{name}` for an adapter. {nearest(str(name), DTYPES)}")
    return STORED_AS[name]


def _room(work: Plan, name: str, names: Wanted, randomised: bool) -> int:
    """About how many bytes a worker needs for a matrix."""
    rows, columns = work.base.entries[name].shape
    read = 24 * max(TILE, columns) + (8 * rows * columns if name in names.turned else 0)
    return read + (16 * (rows + columns) * (names.rank + SPARE) if randomised else room_for((rows, columns)))


def _hands(work: Plan, names: Wanted, randomised: bool, memory: int, workers: int) -> int:
    """Workers that fit the memory; MergeError when not even one does."""
    rooms = {name: _room(work, name, names, randomised) for name in names.factors}
    worst = max(rooms, key=lambda name: rooms[name])
    most = rooms[worst]
    if most > memory:
        words = f"To decompose `{worst}` takes {in_words(most)} of memory, and {in_words(memory)} are allowed"
        raise MergeError(f"{words}. Allow more, set `--randomised`, or leave it out by `--modules`.")
    return min(workers, memory // most)
