"""How long the steps are of tensors that are merged as whole matrices, where all of their entries are in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from time import perf_counter

from merging.crew import breathe
from merging.groups import Group
from merging.method import Whole

LATER = "is merged as a whole matrix, which is worked out when nothing moves"
LARGE = "is merged as a whole matrix, and not all of its entries are at hand"
SLOW = "is merged as a whole matrix, and the smaller ones took long enough"
MIXED = "is merged as a whole matrix, in which no entry is one expert's"
PATIENCE = 5.0  # seconds


def lengths(
    wholes: dict[int, Whole], groups: dict[int, Group], shapes: tuple[tuple[int, ...], ...], based: bool
) -> Iterator[tuple[int, float, str]]:
    """The number of each tensor, the norm of what is added to its base, and what is not known of it, in words.

    The quick ones come first, and when the next one would take longer than anyone waits, that and the others are NaN.
    """
    start, done = perf_counter(), 0.0
    for index in sorted(wholes, key=lambda index: _work(shapes[index])):
        breathe()
        group, shape, spent = groups[index], shapes[index], perf_counter() - start
        if group.size < math.prod(shape):
            yield index, math.nan, LARGE
        elif done and spent * (1 + _work(shape) / done) > PATIENCE:
            yield index, math.nan, SLOW
        else:
            yield index, _length(wholes[index], group, shape, based), MIXED
            done += _work(shape)


def _work(shape: tuple[int, ...]) -> float:
    """What decomposing a matrix costs, as far as it goes by its shape."""
    return float(math.prod(shape) * min(shape, default=1))


def _length(outcome: Whole, group: Group, shape: tuple[int, ...], based: bool) -> float:
    base, experts = group.base.reshape(shape), group.experts.reshape(-1, *shape)
    step = outcome.scaling * outcome.step(experts - base) if based else outcome.step(experts) - base
    return float(step.norm())
