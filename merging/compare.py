"""Numbers about models before they are merged: of task vectors, and of what each two experts have in common."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from merging.checkpoint import Checkpoint
from merging.crew import crew
from merging.plan import plan
from merging.statistics import cache
from merging.statistics.comparison import Comparison as Comparison
from merging.statistics.probe import Probe as Probe
from merging.statistics.survey import Survey
from merging.statistics.tables import comparison, empty

PROBE = 1 << 24  # numbers kept in memory to try settings on; a model with no more is kept whole


def compare(
    base: Checkpoint,
    experts: list[Checkpoint],
    on_step: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
    workers: int | None = None,
    *,
    on_part: Callable[[Comparison], None] | None = None,
    cached: bool = False,
) -> Comparison:
    """Go twice over the weights of the base and the experts, which must fit it; MergeStopped when asked to stop.

    `on_step` is told of the bytes read, and of how many there are; `on_part` about every second of what is known by
    then. Any thread may call them, one at a time. What is `cached` is looked for on disk first, and kept there.
    """
    work = plan(base, experts)
    models = 1 + len(experts)
    found = empty(work, PROBE // models)
    key = cache.key([base, *experts], PROBE) if cached else ""
    if cached and cache.fill(found, key):
        return comparison(found)
    with crew(workers or os.cpu_count() or 1, stop) as team:
        Survey(
            found,
            team,
            on_step or (lambda *_: None),
            (lambda: on_part(comparison(found))) if on_part else (lambda: None),
        ).both()
    if cached and cache.key([base, *experts], PROBE) == key:  # nothing was changed meanwhile
        cache.keep(found, key)
    return comparison(found)
