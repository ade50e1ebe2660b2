"""Runs a recipe: plans from headers, streams every tensor in chunks, and publishes the result by one rename."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.adapter import open_base, open_expert
from merging.checkpoint import Checkpoint
from merging.companions import carry_over
from merging.errors import MergeError, MergeStopped
from merging.header import dtype_of
from merging.lazy import torch
from merging.method import Group, Groups, Method, Outcome
from merging.output import lay_out, write
from merging.plan import Plan, plan
from merging.publish import published, target
from merging.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 18  # entries that are in memory at a time, of each model
SHARD = 5 << 30  # bytes of one output file, as Hugging Face writes them


@dataclass(frozen=True)
class Step:
    """How far a merge is, in visits to a tensor: a survey visits every tensor once in each of its passes."""

    done: int
    total: int
    name: str
    bytes_done: int
    bytes_total: int
    stage: str


@dataclass(frozen=True)
class Report:
    """What a merge did."""

    out: Path
    bytes: int
    seconds: float
    fates: dict[str, str]


def groups_of(base: Checkpoint, experts: tuple[Checkpoint, ...], name: str) -> Groups:
    """One tensor of all models as a stream of flat chunks; MergeError when a number in it is not finite."""

    def chunks() -> Iterator[Group]:
        size, matrix = base.entries[name].size, len(base.entries[name].shape) >= 2
        for start in range(0, size, CHUNK):
            stop = min(start + CHUNK, size)
            rows = [_finite(model, name, start, stop) for model in (base, *experts)]
            yield Group(name, rows[0], torch.stack(rows[1:]), start, matrix)

    return Groups(chunks)


def _finite(model: Checkpoint, name: str, start: int, stop: int) -> Tensor:
    values = model.read(name, start, stop).float()
    if not values.abs().max() < torch.inf:
        raise MergeError(
            f"`{name}` of {model.name} holds NaN or infinity. A merge would spread it; choose another model."
        )
    return values


def outcomes(method: Method, values: dict[str, Any], model: dict[str, Groups]) -> Iterator[tuple[Group, Outcome]]:
    """How each chunk of the model is merged, tensor by tensor, after the method's survey of the scope."""
    tensorwise = values.get("scope") == "tensor"
    whole = Groups(lambda: chain.from_iterable(groups.chunks() for groups in model.values()))
    survey = None if tensorwise else method.look(whole, values)
    for groups in model.values():
        if tensorwise:
            survey = method.look(groups, values)
        for group in groups.chunks():
            yield group, method.outcome(group, survey, values)


def merge_groups(method: Method, groups: list[Group], **values: Any) -> Iterator[tuple[str, Tensor]]:
    """Merge tensors that are in memory, by argument name and not by recipe key; for tests and notebooks."""
    shapes = {group.name: group.base.shape for group in groups}
    model = {}
    for group in groups:
        experts = group.experts.float().reshape(len(group.experts), -1)
        flat = Group(group.name, group.base.float().flatten(), experts, matrix=group.base.ndim >= 2)
        model[group.name] = Groups(partial(iter, (flat,)))
    defaults = {param.name: param.default for param in method.params.values()}
    known = {**defaults, "weight": torch.ones(len(groups[0].experts)), **values}
    known["weight"] = torch.as_tensor(known["weight"], dtype=torch.float32)
    for group, outcome in outcomes(method, known, model):
        yield group.name, outcome.merged(group).reshape(shapes[group.name])


def merge(
    recipe: Recipe,
    out: str | Path,
    on_step: Callable[[Step], None] | None = None,
    stop: threading.Event | None = None,
) -> Report:
    """Run the recipe and write a model folder; blocking.

    Nothing is at `out` until all of it is: a merge that fails, or is stopped (MergeStopped), leaves it as it was.
    Raises MergeError before any weight is read when the models do not fit, the folder is taken or the disk is full.
    """
    started = time.perf_counter()
    method, values, weights = recipe.checked()
    base = open_base(recipe.base or recipe.experts[0])
    work = plan(base, [open_expert(path, base) for path in recipe.experts])
    place = target(out, work.bytes)
    values["weight"] = torch.tensor(weights)
    progress = _Progress(work, _passes(method, values, len(weights)), on_step, stop)
    with published(place) as folder:
        text = recipe.to_yaml(place)
        metadata = {"mergescope": _version(), "recipe": text}
        placed = lay_out(folder, work.written, SHARD, metadata)
        (folder / "mergescope.yaml").write_text(text, encoding="utf-8")
        carry_over(work, folder)
        _copy(work, placed, stop)
        model = {name: progress.watched(groups_of(work.base, work.experts, name), name) for name in work.merged}
        for group, outcome in outcomes(method, values, model):
            entry = placed[group.name]
            merged = outcome.merged(group).to(dtype_of(entry))
            if not merged.abs().max() < torch.inf:
                raise MergeError(f"The merged `{group.name}` is too large for {entry.dtype}. Lower the scaling.")
            write(entry, group.start, merged)
        progress.finish()
    return Report(place, work.bytes, time.perf_counter() - started, work.fates)


class _Progress:
    """Counts the tensors that go by, and stops the stream when it is asked to."""

    def __init__(
        self, work: Plan, passes: int, on_step: Callable[[Step], None] | None, stop: threading.Event | None
    ) -> None:
        self.sizes = {name: work.base.entries[name].bytes * (1 + len(work.experts)) for name in work.merged}
        self.entries = {name: work.base.entries[name].size for name in work.merged}
        self.passes, self.on_step, self.stop = passes, on_step, stop
        self.visits = dict.fromkeys(work.merged, 0)
        self.done = self.bytes = 0

    def watched(self, groups: Groups, name: str) -> Groups:
        """The same groups, each pass over them counted as a visit."""

        def chunks() -> Iterator[Group]:
            for group in groups.chunks():
                self._tell(name)
                if self.stop and self.stop.is_set():
                    raise MergeStopped("Stopped. Nothing was written.")
                yield group
                self.bytes += self.sizes[name] * len(group.base) // self.entries[name]
            self.visits[name] += 1
            self.done += 1

        return Groups(chunks)

    def finish(self) -> None:
        self._tell("")

    def _tell(self, name: str) -> None:
        if self.on_step:
            total, size = (self.passes + 1) * len(self.sizes), (self.passes + 1) * sum(self.sizes.values())
            stage = "Done" if not name else "Surveying" if self.visits[name] < self.passes else "Merging"
            self.on_step(Step(self.done, total, name, self.bytes, size, stage))


def _passes(method: Method, values: dict[str, Any], experts: int) -> int:
    """How often the method's survey will go over its groups, found by letting it go over two numbers.

    What the method has against the values themselves (weights that add up to 0) is said here, before any work.
    """
    passes = 0
    small = Group("", torch.zeros(2), torch.arange(2.0 * experts).reshape(experts, 2))

    def chunks() -> Iterator[Group]:
        nonlocal passes
        passes += 1
        return iter([small])

    method.outcome(small, method.look(Groups(chunks), values), values)
    return passes


def _copy(work: Plan, placed: dict[str, Any], stop: threading.Event | None) -> None:
    owners = dict.fromkeys(work.copied, work.base) | {name: work.experts[index] for name, index in work.kept.items()}
    for name, owner in owners.items():
        for start in range(0, owner.entries[name].size, CHUNK):
            if stop and stop.is_set():
                raise MergeStopped("Stopped. Nothing was written.")
            values = owner.read(name, start, min(start + CHUNK, owner.entries[name].size))
            write(placed[name], start, values.to(dtype_of(placed[name])))


def _version() -> str:
    try:
        return version("mergescope")
    except PackageNotFoundError:
        return "0.1.0"
