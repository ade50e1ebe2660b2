"""Runs a recipe whose result is an adapter: writes the folder of one LoRA adapter, made of those of several."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from merging.adapter_config import CONFIG
from merging.adapter_folder import STEM, entries_of, merged_config, names_of
from merging.adapting import Adapting
from merging.changes_preflight import hands
from merging.document import RECIPE
from merging.findings import Preflight
from merging.low_rank import Loss, told
from merging.making import making
from merging.meter import metered
from merging.progress import Clock, Step
from merging.provenance import mark, provenance
from merging.ranking import NotFiniteError
from merging.recipe import Recipe
from merging.report import Report


def merge_changes(
    recipe: Recipe,
    found: Preflight,
    place: Path,
    clock: Clock,
    on_step: Callable[[Step], None] | None,
    listen: Callable[[], None] | None,
    room: int,
    workers: int | None,
    *,
    stop: threading.Event | None,
    fsync: bool,
) -> Report:
    """Write the adapter that a checked recipe makes of adapters; blocking."""
    changes, settings = found.changes, recipe.settings()
    assert changes
    many = hands(changes, settings, room, workers)
    story = provenance(recipe, changes.base, changes.adapters, place, listen)
    entries = entries_of(changes, found.ranks, recipe.out_dtype)
    models = [*changes.adapters, *([changes.base] if changes.base else [])]
    marked = partial(mark, dict(story), models, found.ranks, changes.work.fates)
    clock.lap("check")
    kind: dict[str, Any] = {"limit": 1 << 62, "hands": many, "stop": stop, "fsync": fsync, "stem": STEM}
    with metered() as taken, making(place, story, marked, entries, clock, **kind) as at:
        work = Adapting(changes, settings, found.ranks, at, on_step, recipe.seed)
        with closing(work.stream.files):
            try:
                work.all(clock)
            except NotFiniteError as error:
                at.place.spoiled = True
                raise work.blame(error.name) from None
        config = json.dumps(merged_config(changes, found.ranks), indent=2) + "\n"
        (at.place.folder / CONFIG).write_text(config, encoding="utf-8")
        (at.place.folder / RECIPE).write_text(recipe.to_yaml(place), encoding="utf-8")
        losses = {name: Loss(*at.place.told[names_of(changes, name)[1]]) for name in found.ranks}
        warnings = (*found.warnings, *work.warnings(), *told(losses))
        shares = {name: loss.share for name, loss in losses.items()}
        story |= {"fates": found.fates, "warnings": warnings, "lost": shares}
        sums = at.checksums
        work.progress.finish()
    size = sum(entry.bytes for entry in entries)
    cost = found.memory, taken
    return Report(place, size, clock.total, found.fates, clock.laps, warnings, sums, shares, work.kept, *cost)
