"""One tensor of a merge under one setting: what the survey says of it, and how the method merges any run of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from merging.crew import Crew, crew
from merging.errors import MergeError
from merging.groups import Group, of_some
from merging.method import FactorCoefficients, Outcome, Whole
from merging.passes import outcome_of, tensorwise, values_of
from merging.plan import Plan
from merging.ranking import NotFiniteError
from merging.sampled import of_model
from merging.settings import Settings, depths
from merging.stream import Span, Stream


@dataclass(frozen=True)
class Lens:
    """What is known of a tensor before any of its entries is merged; made by `lens`."""

    work: Plan
    settings: Settings
    name: str
    values: dict[str, Any]  # of the experts that have the tensor, by argument name
    survey: Any
    estimated: bool  # whether the survey saw a sample of the model, and not all of it
    whole: bool  # whether the tensor is merged with all its entries in memory
    stream: Stream

    @property
    def shape(self) -> tuple[int, ...]:
        return self.work.base.entries[self.name].shape

    @property
    def size(self) -> int:
        return self.work.base.entries[self.name].size

    @property
    def experts(self) -> tuple[str, ...]:
        """The names of those that have the tensor."""
        return tuple(self.work.experts[index].name for index in self.work.merged[self.name])

    @property
    def unit(self) -> int:
        """The entries that the method must see together: those of a row, or one."""
        return self.stream.unit(self.work.base.entries[self.name].row)

    def empty(self) -> Group:
        """The tensor without an entry, for methods that have one number for each expert."""
        return self.stream.empty(self.name)

    def run(self, start: int, stop: int) -> Group:
        """The entries of a run of whole units, valid until the thread reads the next one."""
        return next(self.stream.tiles(Span(self.name, start, stop, max(self.unit, stop - start))))

    def outcome(self, group: Group) -> Outcome:
        """How the method's torch definition merges a run of the tensor, as the engine would ask it."""
        return self.settings.method.outcome(group, of_some(self.survey, group.which), self.values)

    @contextmanager
    def averaged(self, outcome: FactorCoefficients) -> Iterator[None]:
        """Within, runs are read with one expert, whose factors are averages of all adapters'."""
        self.stream.average(self.name, outcome)
        try:
            yield
        finally:
            del self.stream.sources[self.name]

    def close(self) -> None:
        """Close the files."""
        self.stream.files.close()


def lens(work: Plan, settings: Settings, name: str, stop: threading.Event | None = None) -> Lens:
    """Survey what the method must know before it merges this tensor: exactly, or by a sample where the model is asked.

    With `scope: tensor` all of the tensor is read, and a model that is small; else runs of every tensor. MergeError
    where the tensor is not merged or the method refuses it, MergeStopped when asked to stop. To be closed.
    """
    if name not in work.merged:
        words = f"`{name}` is not merged, but {work.fates[name]}" if name in work.fates else f"There is no `{name}`"
        raise MergeError(f"{words}. Choose another tensor.")
    method, depth = settings.method, depths(work.merged)
    if method.ranks:
        raise MergeError(f"{method.title} merges adapters by their factors, not by entries. Choose another method.")
    if words := method.miscounted(len(work.merged[name])):
        raise MergeError(f"`{name}`: {words}, and no more have this tensor. Choose another method.")
    if method.collects and not work.collected:
        raise MergeError(f"{method.title} weighs by statistics of the experts, which are not read here.")
    values = values_of(work, settings, name, depth[name])
    whole = method.whole and isinstance(outcome_of(work, settings, name, depth[name]), Whole)
    with crew(os.cpu_count() or 1, stop) as team:
        stream = Stream(work, team, with_base=settings.with_base, tensorwise=tensorwise(settings))
        stream.unit, stream.seed = method.unit, settings.seed
        known = work.merged if method.survey and not tensorwise(settings) else [name]
        stream.weights = {key: values_of(work, settings, key, depth[key])["weight"] for key in known}
        try:
            survey, exact = _surveyed(work, settings, name, values, stream, team)
        except NotFiniteError:
            stream.files.close()
            words = f"`{name}`, or its task vector," if tensorwise(settings) else "Some tensor, or its task vector,"
            raise MergeError(f"{words} holds NaN or infinity, and is not merged. Choose another model.") from None
        except BaseException:
            stream.files.close()
            raise
    return Lens(work, settings, name, values, survey, not exact, whole, stream)


def _surveyed(
    work: Plan, settings: Settings, name: str, values: dict[str, Any], stream: Stream, team: Crew
) -> tuple[Any, bool]:
    """What the survey says, and whether it saw all that it asks about."""
    method = settings.method
    if method.survey is None:
        return None, True
    if tensorwise(settings):
        return method.look(stream.tensor(name, team), values), True
    # What ranks has its sums beside its ranks, and both of the sample; else sums are of the whole model.
    groups, exact = of_model(work, stream, team, summed=not method.entrywise or bool(method.collects))
    return method.look(groups, method.filled(settings.fixed, len(work.experts))), exact
