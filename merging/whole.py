"""Tensors that are merged with all their entries in memory: what that takes, how long, and as many at once as fit."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from merging.crew import crew
from merging.errors import MergeError
from merging.groups import Group
from merging.lazy import torch
from merging.method import Method, Whole, find_method
from merging.passes import outcome_of
from merging.plan import Plan
from merging.ranking import NotFiniteError
from merging.settings import Settings, depths
from merging.sizes import in_words

if TYPE_CHECKING:
    from torch import Tensor

    from merging.stream import Stream

FIRST = 128 * 128  # entries of the smallest matrix that the time is measured on
ENOUGH = 0.1  # seconds: what took so long tells how long larger ones take
ROUNDS = 1, 9  # of many that are measured, for what each of them takes


def whole_tensors(work: Plan, settings: Settings) -> dict[str, int]:
    """The tensors that must be in memory with all their entries, the largest first, and the bytes that each takes."""
    if not settings.method.whole:
        return {}
    depth, found = depths(work.merged), {}
    for name, which in work.merged.items():
        outcome = outcome_of(work, settings, name, depth[name])
        if isinstance(outcome, Whole):
            found[name] = round(4 * work.base.entries[name].size * (1 + len(which) + outcome.copies))
    return dict(sorted(found.items(), key=lambda told: -told[1]))


def shared(memory: int, workers: int, each: int, tensors: Mapping[str, int]) -> int:
    """The workers, of which each takes so much beside the tensors: fewer where the largest needs some of that."""
    largest = next(iter(tensors.values()), 0)
    return max(1, min(workers, (memory - largest) // each))


class Room:
    """Memory that tensors in work share: the next one waits until there is enough for it."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.changed = threading.Condition()

    def admitted(self, tensors: Mapping[str, int]) -> Iterator[str]:
        """The tensors, each when there is room for its bytes; whoever takes one says so when it leaves."""
        for name, size in tensors.items():
            with self.changed:
                while self.left < size:
                    self.changed.wait()
                self.left -= size
            yield name

    def leave(self, size: int) -> None:
        """A tensor of that many bytes is done with."""
        with self.changed:
            self.left += size
            self.changed.notify_all()


def made_whole(outcome: Whole, stream: Stream, name: str) -> Tensor:
    """The merge of a tensor with all its entries, (*shape) of float32; NotFiniteError where an input is not finite."""
    base, vectors = stream.whole(name)
    if not all(part.isfinite().all() for part in (vectors if base is None else (base, *vectors))):
        raise NotFiniteError(name)
    try:
        return outcome.of(base, vectors)
    except torch.linalg.LinAlgError as error:
        words = f"The singular values of `{name}` could not be found, since its task vectors are too unlike."
        raise MergeError(f"{words} Choose another method, or other experts.") from error


def cramped(work: Plan, tensors: Mapping[str, int], memory: int, each: int) -> Iterator[str]:
    """A sentence where one worker, who takes so much, leaves no room for one of the tensors; the largest is named."""
    for name, size in tensors.items():
        if size + each > memory:
            shape = " × ".join(f"{side:,}" for side in work.base.entries[name].shape)
            unit = 10 ** (len(str(size + each)) - 2)
            needed = in_words(-(-(size + each) // unit) * unit)
            words = f"`{name}` ({shape}) is merged as a whole, which takes {needed} of memory"
            yield f"{words}, and {in_words(memory)} is allowed. Allow it that much, or choose another method."
        return


def seconds(work: Plan, settings: Settings, tensors: Mapping[str, int], workers: int, room: int) -> float:
    """About how long the tensors will take, from how long smaller ones of their form take on a machine at rest."""
    total, depth = 0.0, depths(work.merged)
    for name, size in tensors.items():
        choices = settings.of(name, depth[name])
        words = tuple((key, value) for key, value in choices.items() if isinstance(value, str | bool))
        shape, experts = work.base.entries[name].shape, len(work.merged[name])
        total += _measured(settings.method.name, words, experts, shape) / max(1, min(workers, room // size))
    return total


@cache
def _measured(name: str, words: tuple[tuple[str, Any], ...], experts: int, shape: tuple[int, ...]) -> float:
    """The seconds that a tensor takes: measured on ever larger ones of its form, until one took long enough."""
    method = find_method(name)
    take = partial(_seconds, method, method.filled(dict(words), experts), experts)
    take((8,) * len(shape))  # what is imported when it is first used is here now
    share, before = FIRST / max(1, math.prod(shape)), 0.0  # of the entries
    while share < 1:
        start = time.thread_time()
        taken = take(tuple(max(1, round(side * share ** (1 / len(shape)))) for side in shape))
        if time.thread_time() - start > ENOUGH:
            return grown(before, taken, share**-0.5)
        before, share = taken, 4 * share
    return take(shape)


def grown(before: float, taken: float, times: float) -> float:
    """The seconds for sides so many times as long, where one took `taken`, and another of half the sides `before`.

    Part of it grows with the entries, as the square of the sides; the rest as products and decompositions, as the cube.
    """
    cubic = min(max(2 * (taken - 4 * before), 0.0), taken)
    return (taken - cubic) * times**2 + cubic * times**3


def _seconds(method: Method, values: dict[str, Any], experts: int, shape: tuple[int, ...]) -> float:
    vectors = torch.randn(experts, *shape, generator=torch.Generator().manual_seed(0))
    group = Group("layers.0.w", torch.zeros(1, 1), torch.zeros(experts, 1, 1))
    group.axes = shape
    outcome = method.outcome(group, None, values)
    assert isinstance(outcome, Whole)
    with crew(1, None):
        if outcome.rounds == 1:
            return _clocked(outcome.step, vectors)
        few, more = (_clocked(outcome.step, vectors, rounds) for rounds in ROUNDS)
        each = max(0.0, (more - few) / (ROUNDS[1] - ROUNDS[0]))
        return few + each * (outcome.rounds - ROUNDS[0])


def _clocked(step: Callable[..., Any], *given: Any) -> float:
    """The processor's time, not the clock's: what else the machine does just now it need not do later."""
    start = time.thread_time()
    step(*given)
    return time.thread_time() - start
