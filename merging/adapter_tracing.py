"""The steps of a merge of adapters into one on a handful of a matrix's entries, as the method tells them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from merging.adapter_method import Module, Modules, combined
from merging.adapter_predictions import as_sum
from merging.adapter_ranks import needs, ranks
from merging.changes import Changes
from merging.crew import Crew, crew
from merging.errors import MergeError
from merging.findings import MEMORY
from merging.lazy import torch
from merging.lens import lens
from merging.low_rank import Factors, compressed, of_matrix
from merging.passes import tensorwise, values_of
from merging.ranking import NotFiniteError
from merging.settings import Settings, depths
from merging.trace import Listener, Told, listening, tell
from merging.tracing import Trace, broken, picked, trace
from merging.whole import cramped

if TYPE_CHECKING:
    from torch import Tensor

SURVEYED = 1 << 24  # numbers of updates in a common basis that are surveyed; of more matrices, some stand for all


def trace_adapters(
    found: Changes,
    settings: Settings,
    rank: int | None,
    name: str,
    entries: Sequence[int] | None = None,
    *,
    memory: int = MEMORY,
    stop: threading.Event | None = None,
) -> Trace:
    """Merge one matrix by a method of adapters alone and keep every step at some entries, as `trace` does.

    `rank` is the one that is asked for. What was trained in full is added up. MergeError where no adapter changes the
    tensor, memory does not suffice or a number is not finite; MergeStopped when asked to stop.
    """
    if name not in found.work.merged:
        raise MergeError(f"No adapter changes `{name}`. Choose another tensor.")
    if not found.updates(name):
        with closing(lens(found.work, as_sum(settings), name, stop)) as seen:
            return trace(seen, entries, memory=memory, stop=stop)
    wanted = ranks(found, settings, rank)[name]
    entry = found.work.base.entries[name]
    picks = picked(found.work, name, entries)
    for words in cramped(found.work, {name: needs(found, settings)[name].bytes}, memory, 0):
        raise MergeError(words)
    places = torch.tensor([pick.place for pick in picks])
    try:
        survey, estimated = _surveyed(found, settings, name, stop)
        listener = Listener(_turned(found, name, places), len(found.work.experts))
        with listening(listener):
            Crew(1, stop).run(partial(_merge, _module(found, settings, name), settings, survey, wanted), [found])
        steps = [*listener.told.values()]
    except NotFiniteError:
        raise broken(name) from None
    if found.base:
        base = torch.cat([found.base.read(name, pick.place, pick.place + 1) for pick in picks]).double()
        steps = [Told("base", "entry", base), *steps, Told("merged", "entry", base + steps[-1].values)]
    if not all(step.values.isfinite().all() for step in (steps[0], steps[-1])):
        raise broken(name)
    experts = tuple(expert.name for expert in found.work.experts)
    return Trace(name, entry.shape, experts, tuple(picks), tuple(steps), estimated)


def _module(found: Changes, settings: Settings, name: str) -> Module:
    return Module(name, found.updates(name), settings.seed)


def _turned(found: Changes, name: str, places: Tensor) -> Tensor:
    """Places in the base's matrix, laid flat, as places in PEFT's layout of it."""
    rows, columns = found.work.base.entries[name].shape
    if not next(update.transposed for update in found.updates(name) if update):
        return places
    return places % columns * rows + places // columns


def _merge(module: Module, settings: Settings, survey: Any, rank: int, found: Changes) -> None:
    """Merge a matrix, and tell how."""
    for scaling, part, number in zip(module.scalings, module.parts(), module.which, strict=True):
        tell("task vectors", partial(_product, part, scaling), "entry", number)
    values = values_of(found.work, settings, module.name, depths(found.work.merged)[module.name])
    made = combined(settings.method, module, survey, values)
    factors, _ = compressed(made, rank) if isinstance(made, Factors) else of_matrix(made, rank)
    if factors is not made:
        tell("before it is cut to a rank", made.product() if isinstance(made, Factors) else made, "entry")
    tell("merged task vector", factors.product(), "entry")


def _product(part: Factors, scaling: float) -> Tensor:
    return scaling * part.product()


def _surveyed(found: Changes, settings: Settings, name: str, stop: threading.Event | None) -> tuple[Any, bool]:
    """What the method's survey says, and whether it saw but some of the matrices."""
    method = settings.method
    if method.survey is None:
        return None, False
    if tensorwise(settings):
        names, values = [name], values_of(found.work, settings, name, depths(found.work.merged)[name])
        some = names
    else:
        names = [other for other in found.work.merged if found.updates(other)]
        values, some = method.filled(settings.fixed, len(found.work.experts)), _some(found, names, name)
    with crew(os.cpu_count() or 1, stop) as team:
        modules = [_module(found, settings, other) for other in some]
        return method.look(Modules(modules, team), values), len(some) < len(names)  # type: ignore[arg-type]


def _some(found: Changes, names: list[str], name: str) -> list[str]:
    """The matrices that stand for all of these names: evenly drawn, with the one of this name."""

    def size(module: Module) -> int:
        return len(module.updates) * sum(module.ranks) * module.shape[1]

    total = sum(size(Module(other, found.updates(other))) for other in names)
    count = max(1, len(names) * SURVEYED // max(1, total))
    if count >= len(names):
        return names
    taken = {name} | {names[number * len(names) // count] for number in range(count)}
    return [other for other in names if other in taken]
