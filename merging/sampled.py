"""Runs of entries that stand for a tensor, or for a whole model: spread evenly, and the same every time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING

from merging.crew import Crew
from merging.groups import FEW, Group, Groups, whole
from merging.lazy import torch
from merging.plan import Plan
from merging.stream import Span, Stream

if TYPE_CHECKING:
    from torch import Tensor

GOLDEN = 0.6180339887498949  # multiples of it fall into no step with the length of a row
RUN = 256  # entries of a run, but for whole units
LEAST = 64  # runs of a model at least


def spread(size: int, wanted: int, length: int) -> list[range]:
    """Runs of that length from a tensor of that size, about so many entries in all; one run where all are wanted."""
    if size <= wanted:
        return [range(size)]
    length = max(1, min(length, wanted))
    count = max(1, wanted // length)
    step = size / count
    starts = [int((number + number * GOLDEN % 1 * (1 - length / step)) * step) for number in range(count)]
    return [range(start, start + length) for start in starts]


def read_runs(work: Plan, name: str, runs: list[range]) -> tuple[Tensor, Tensor]:
    """The places of these runs' entries, (entries), and the numbers of base and experts, (1 + experts, entries)."""
    models = [work.base, *(work.experts[index] for index in work.merged[name])]
    rows = [torch.cat([model.read(name, run.start, run.stop).float() for run in runs]) for model in models]
    return torch.cat([torch.arange(run.start, run.stop) for run in runs]), torch.stack(rows)


class Sample(Groups):
    """Runs that stand for a model in a survey. Where the survey ranks nothing, sums are those of the whole model."""

    def __init__(self, groups: list[Group], sizes: list[int], summed: bool, crew: Crew) -> None:
        known = Groups.of(groups)
        super().__init__(groups, Group.tiles, known.sizes, crew, Group.picked)
        self.factors = torch.tensor(sizes).double() / torch.tensor(known.sizes) if summed else None

    def sum(self, measure: Callable[[Group], Tensor], in_files: object = None) -> Tensor:
        found = super().sum(measure)
        if self.factors is None or not found.ndim:
            return found
        return found * self.factors.reshape(-1, *(1 for _ in found.shape[1:])).to(found.dtype)


def of_model(work: Plan, stream: Stream, crew: Crew, *, summed: bool) -> tuple[Groups, bool]:
    """What a survey of the whole model may go over in no time, and whether it is all of the model.

    `summed` says that the survey only takes sums.
    """
    entries = {name: work.base.entries[name] for name in work.merged}
    total = sum(entry.size for entry in entries.values())
    alone = summed and all(expert.adapter for expert in work.experts)  # whose factors are few
    if total <= FEW or alone:
        return stream.model(list(entries)), True
    unit = max(stream.unit(entry.row) for entry in entries.values())
    every = total / max(LEAST, FEW // max(RUN, unit))
    ends = dict(zip(entries, accumulate(entry.size for entry in entries.values()), strict=True))
    groups, place = list[Group](), every / 2
    for name, end in ends.items():
        while place < end:
            groups.append(_run(stream, name, int(place) - (end - entries[name].size)))
            place += every
    seen = {index for group in groups for index in work.merged[group.name]}
    for index in set(range(len(work.experts))) - seen:
        groups += [_run(stream, name, 0) for name in _first_of(work, index)]
    sizes = [sum(entries[name].size for name, has in work.merged.items() if i in has) for i in range(len(work.experts))]
    return Sample(groups, sizes, summed, crew), False


def _first_of(work: Plan, index: int) -> list[str]:
    """The first tensor that an expert has, in a list."""
    return [name for name, has in work.merged.items() if index in has][:1]


def _run(stream: Stream, name: str, place: int) -> Group:
    """The run of a tensor's whole units that begins with the one around that place, in memory of its own."""
    entry = stream.plan.base.entries[name]
    unit = stream.unit(entry.row)
    start = place // unit * unit
    stop = min(start + max(unit, whole(RUN, unit)), entry.size)
    tile = next(stream.tiles(Span(name, start, stop, unit)))
    return tile.picked([0], tile.size)
