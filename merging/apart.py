"""How far two merges are from each other: their weights, tensor by tensor, read in one pass over both."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from merging.adapter import is_adapter, open_base, open_expert
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.crew import Crew, crew
from merging.errors import MergeError
from merging.groups import TILE
from merging.history import Past
from merging.places import in_order
from merging.progress import Step


@dataclass(frozen=True)
class Distance:
    """How far a tensor of one model is from that of another, in Frobenius norms: ‖a‖, ‖b‖ and ‖a − b‖.

    NaN where a number is not finite.
    """

    name: str
    shape: tuple[int, ...]
    first: float
    second: float
    apart: float

    @property
    def relative(self) -> float:
        """‖a − b‖ / ‖a‖: 0 where the tensors are equal, infinite where only the second is not zero."""
        if self.apart == 0 or math.isnan(self.apart):
            return self.apart
        return self.apart / self.first if self.first else math.inf


@dataclass(frozen=True)
class Apart:
    """Two models: the tensors that both have, in the order of the layers, and why others cannot be compared."""

    tensors: tuple[Distance, ...]
    others: dict[str, str]

    @property
    def whole(self) -> Distance:
        """The same over all these tensors together."""

        def norm(of: str) -> float:
            return math.sqrt(math.fsum(getattr(told, of) ** 2 for told in self.tensors))

        return Distance("", (), norm("first"), norm("second"), norm("apart"))


def weights_apart(
    first: Past,
    second: Past,
    on_step: Callable[[Step], None] | None = None,
    stop: threading.Event | None = None,
    workers: int | None = None,
) -> Apart:
    """Read the results of two merges and measure how far they are apart; adapters as what they make of their base.

    MergeError where a result is not there any more, MergeStopped when asked to stop. `on_step` may be called by any
    thread, one at a time.
    """
    one, other = _opened(first), _opened(second)
    both = in_order([name for name in one.entries if name in other.entries])
    others = {name: f"only merge {first.number} has it" for name in one.entries if name not in other.entries}
    others |= {name: f"only merge {second.number} has it" for name in other.entries if name not in one.entries}
    for name in both:
        ours, theirs = (model.entries[name].shape for model in (one, other))
        if ours != theirs:
            others[name] = (
                f"its shape is {_sides(ours)} in merge {first.number} and {_sides(theirs)} in {second.number}"
            )
    alike = [name for name in both if name not in others]
    with crew(workers or os.cpu_count() or 1, stop) as team:
        return Apart(tuple(_distances(one, other, alike, team, on_step)), others)


def _opened(past: Past) -> Checkpoint:
    out = past.report.out
    if not out.is_dir():
        words = f"The result of merge {past.number} is not at {out} any more"
        raise MergeError(f"{words}. Repeat that merge to compare it.")
    model = open_checkpoint(out)
    if not is_adapter(model):
        return model
    if past.recipe.base is None:
        raise MergeError(f"Merge {past.number} is an adapter without a base, whose factors alone tell no distance.")
    return open_expert(out, open_base(past.recipe.base))


def _sides(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def _distances(
    one: Checkpoint, other: Checkpoint, names: list[str], team: Crew, on_step: Callable[[Step], None] | None
) -> list[Distance]:
    found: dict[str, Distance] = {}
    sizes = {name: one.entries[name].bytes + other.entries[name].bytes for name in names}
    lock, read, total = threading.Lock(), 0, sum(sizes.values())

    def look(name: str) -> None:
        nonlocal read
        distance = _distance(one, other, name, team)
        with lock:
            found[name] = distance
            read += sizes[name]
            if on_step:
                on_step(Step(len(found), len(names), name, read, total, "Comparing"))

    team.run(look, names)
    return [found[name] for name in names]


def _distance(one: Checkpoint, other: Checkpoint, name: str, team: Crew) -> Distance:
    """One tensor, in runs of entries, in float64."""
    entry, squares = one.entries[name], [0.0, 0.0, 0.0]
    for start in range(0, entry.size, TILE):
        team.listen()
        stop = min(start + TILE, entry.size)
        a, b = one.read(name, start, stop).double(), other.read(name, start, stop).double()
        squares = [known + float(part.dot(part)) for known, part in zip(squares, (a, b, a - b), strict=True)]
    norms = [math.sqrt(square) if math.isfinite(square) else math.nan for square in squares]
    return Distance(name, entry.shape, *norms)
