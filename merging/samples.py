"""Entries of many tensors side by side, so that a setting can be tried on all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from merging.draws import Generator
from merging.groups import Group
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 64  # entries of each tensor, where it has so many


class Stack:
    """The entries of all tensors that the same experts have, one tensor after the other, those of one length together.

    `rows` are (1 + experts, entries) of float32, the base first.
    """

    def __init__(self, which: tuple[int, ...], tensors: Sequence[int], groups: Sequence[Group]) -> None:
        self.which, self.tensors, self.groups = which, list(tensors), list(groups)
        self.lengths = [group.size for group in groups]
        self.starts = np.array([0, *self.lengths]).cumsum()
        self.rows = torch.cat([torch.from_numpy(group.bits.view(np.float32)) for group in groups], 1)
        self._drawn: tuple[int, Tensor] | None = None

    @property
    def size(self) -> int:
        """The number of entries."""
        return int(self.starts[-1])

    @cached_property
    def tau(self) -> Tensor:
        """The task vectors, (experts, entries)."""
        return self.rows[1:] - self.rows[0]

    @cached_property
    def joined(self) -> Group:
        """All entries as if they were of one long tensor."""
        group = Group.of_bits("", self.rows.numpy().view(np.uint32))
        group.which = self.which
        return group

    @cached_property
    def alike(self) -> list[tuple[int, int, int, int]]:
        """The tensors that have as many entries, in rows as long: the first, the one after the last, entries, row."""
        kinds = [(group.size, group.row) for group in self.groups]
        edges = [0, *(i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]), len(kinds)]
        return [(first, last, *kinds[first]) for first, last in pairwise(edges)]

    def uniforms(self, seed: int, whole: bool) -> Tensor:
        """What is drawn at random, (experts, entries): as a merge draws it where each tensor's entries are all here."""
        known = self._drawn  # of another seed, perhaps, by the time that this one's is there
        if known is None or known[0] != seed:
            told = [(group.name, group.size) for group in self.groups] if whole else [("", self.size)]
            fused = self.groups[0].fused
            drawn = [Generator(seed, self.which, name, 0, size, fused=fused).uniforms().clone() for name, size in told]
            self._drawn = known = seed, torch.cat(drawn, 1)
        return known[1]


class Sample:
    """Some entries of each of a model's tensors, or all of them."""

    def __init__(self, groups: dict[int, Group], share: float) -> None:
        self.share = share  # of the model's entries
        kinds: dict[tuple[int, ...], list[int]] = {}
        for index in sorted(groups, key=lambda index: (groups[index].size, groups[index].row)):
            kinds.setdefault(groups[index].which, []).append(index)
        self.stacks = [Stack(which, some, [groups[index] for index in some]) for which, some in kinds.items()]

    @property
    def numbers(self) -> int:
        """How many numbers it holds in memory, of the base and of the experts."""
        return sum(stack.rows.numel() for stack in self.stacks)

    @property
    def whole(self) -> bool:
        """Whether all entries are there."""
        return self.share == 1


def thinned(groups: dict[int, Group], share: float, wanted: int) -> Sample:
    """About so many of the entries of these groups, which are that share of a model's, drawn evenly from each."""
    there = sum(group.size for group in groups.values())
    rate = wanted / max(there, 1)
    if rate >= 1 or not there:
        return Sample(groups, share)
    some = {index: _thinned(group, max(LEAST, int(rate * group.size))) for index, group in groups.items()}
    return Sample(some, share * sum(group.size for group in some.values()) / there)


def _thinned(group: Group, count: int) -> Group:
    if count >= group.size:
        return group
    place = np.random.default_rng(0).random(count)  # one entry from each of so many equal stretches
    places = ((np.arange(count) + place) * (group.size / count)).astype(np.int64).clip(max=group.size - 1)
    some = Group.of_bits(group.name, np.ascontiguousarray(group.bits[:, places]), 0, group.matrix)
    some.which = group.which
    return some
