"""What methods look at: one tensor of all models, in runs of entries, and passes over many of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from functools import cached_property, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from merging import kernels
from merging.crew import Crew
from merging.draws import Generator
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

TILE = 1 << 17  # entries that are computed at once; all sums add tiles in order, in whatever pieces they are read
FEW = 1 << 18  # numbers that are quicker sorted than counted
UNITS = 16  # at most one in so many is looked at in a sample
Bits = np.ndarray[Any, Any]


def whole(length: int, unit: int) -> int:
    """The entries of as many whole units as there are in `length`, but of one at least."""
    return max(unit, length - length % unit)


class Group:
    """One tensor of the base model and the same of the experts, or a run of entries of it.

    It holds stored bits, (1 + experts, entries), the base first: bfloat16 as uint16, float32 as uint32. `base`,
    `experts` and `tau` are float32 tensors that are made of them when they are asked for.
    """

    def __init__(self, name: str, base: Tensor | None, experts: Tensor, start: int = 0, matrix: bool = True) -> None:
        first = torch.zeros(experts.shape[1:]) if base is None else base
        rows = torch.cat([first.reshape(1, -1).float(), experts.reshape(len(experts), -1).float()]).contiguous()
        self._fill(name, rows.numpy().view(np.uint32), start, matrix, tuple(first.shape))
        self.based = base is not None

    def _fill(self, name: str, bits: Bits, start: int, matrix: bool, shape: tuple[int, ...]) -> None:
        self.name, self.bits, self.start, self.matrix = name, bits, start, matrix  # start: in the tensor, laid flat
        self.shape = shape
        self.axes, self.depth = shape, 0.0  # the lengths of the whole tensor's axes; see `depths` in settings
        self.unit = 1  # entries that are never parted: those of a row, where the method looks at rows
        self.based = True  # whether the base's numbers are there and enter
        self.collected: Any = None  # what is known of the experts from running them; see `Collected`
        self.which = tuple(range(len(bits) - 1))  # of the recipe's experts, where not all of them have the tensor
        self.numbers: tuple[int, ...] = ()  # of the experts in the recipe, where `which` counts otherwise
        self.seed = 0  # of what is drawn at random
        self.weight: Any = None  # (experts), where the experts are weighed
        self.device = "cpu"
        self.plain = False  # whether it is looked at by the torch code that defines a method, not by kernels
        self.factored = False  # whether each expert's task vector is a product of an adapter's factors, or zero

    @classmethod
    def of_bits(cls, name: str, bits: Bits, start: int = 0, matrix: bool = True) -> Group:
        """A run of a tensor's entries, laid flat, as they are stored."""
        group = cls.__new__(cls)
        group._fill(name, bits, start, matrix, (bits.shape[1],))
        return group

    @property
    def size(self) -> int:
        """The number of entries."""
        return int(self.bits.shape[1])

    @property
    def fused(self) -> bool:
        """Whether kernels can be used on it."""
        return self.device == "cpu" and not self.plain and kernels.usable()

    @cached_property
    def base(self) -> Tensor:
        """The base model's entries, (*shape)."""
        return self._lifted(self.bits[0]).reshape(self.shape)

    @cached_property
    def experts(self) -> Tensor:
        """The experts' entries, (experts, *shape)."""
        return self._lifted(self.bits[1:]).reshape(len(self.bits) - 1, *self.shape)

    @property
    def tau(self) -> Tensor:
        """The task vectors, (experts, *shape)."""
        return self.experts - self.base

    @property
    def row(self) -> int:
        """The number of entries along the tensor's last axis."""
        return self.axes[-1] if self.axes else 1

    @property
    def generator(self) -> Generator:
        """What draws at random for its entries."""
        numbers = self.numbers or self.which
        return Generator(self.seed, numbers, self.name, self.start, self.size, self.device, self.fused)

    @property
    def vectors(self) -> Tensor:
        """What is merged, (experts, *shape): the task vectors, or the experts where the base does not enter."""
        return self.tau if self.based else self.experts

    @property
    def information(self) -> Tensor:
        """The experts' diagonal Fisher information, (experts, *shape); the same for all where nothing is known."""
        if self.collected is None:
            return torch.ones(len(self.bits) - 1, *self.shape, device=self.device)
        found: Tensor = self.collected.information(self.start, self.start + self.size)
        return found.reshape(-1, *self.shape).to(self.device)

    @property
    def inputs(self) -> tuple[Callable[[], Tensor], ...]:
        """What reads the inner products of each expert's inputs, (columns, columns); the same where nothing is known.

        Nothing for what is no linear layer's.
        """
        if self.collected is not None:
            found: tuple[Callable[[], Tensor], ...] = self.collected.inputs()
            return found
        return (partial(torch.eye, self.axes[1]),) * (len(self.bits) - 1) if len(self.axes) == 2 else ()

    def _lifted(self, bits: Bits) -> Tensor:
        signed = np.int16 if bits.itemsize == 2 else np.int32
        dtype = torch.bfloat16 if bits.itemsize == 2 else torch.float32
        return torch.from_numpy(bits.view(signed)).view(dtype).to(self.device).float()

    def cut(self, start: int, stop: int) -> Group:
        """Some of its entries, laid flat."""
        bits = np.ascontiguousarray(self.bits[:, start:stop])
        return self._alike(Group.of_bits(self.name, bits, self.start + start, self.matrix))

    def weighed(self, weight: Tensor) -> Group:
        """The same entries, with other weights."""
        group = self._alike(Group.of_bits(self.name, self.bits, self.start, self.matrix))
        group.shape, group.weight = self.shape, weight
        return group

    def _alike(self, group: Group) -> Group:
        group.which, group.weight, group.device = self.which, self.weight, self.device
        group.axes, group.unit, group.seed, group.numbers = self.axes, self.unit, self.seed, self.numbers
        group.depth, group.based, group.collected = self.depth, self.based, self.collected
        group.factored, group.plain = self.factored, self.plain
        return group

    def tiles(self) -> Iterator[Group]:
        """The runs of entries over which sums are taken."""
        tile = whole(TILE, self.unit)
        if self.size <= tile:
            yield self
            return
        for start in range(0, self.size, tile):
            yield self.cut(start, min(start + tile, self.size))

    def picked(self, starts: Sequence[int], length: int) -> Group:
        """The runs of entries that begin at these places, one after the other."""
        places = (np.array(starts)[:, None] + np.arange(length)).ravel()
        return self._alike(
            Group.of_bits(self.name, np.ascontiguousarray(self.bits[:, places]), self.start, self.matrix)
        )


class Stored(NamedTuple):
    """Where a piece of a tensor is stored."""

    place: tuple[
        Any, ...
    ]  # the open files, where the tensor begins in each, the piece's first entry, scratch, its tile
    size: int
    which: tuple[int, ...]  # of the recipe's experts

    @property
    def tile(self) -> int:
        """The entries that the scratch holds of each model."""
        return int(self.place[-1])


class Groups:
    """What a survey goes over, as often as it likes: pieces that are read when their turn comes, by a crew.

    A piece is shown tile by tile, and a tile is valid until the same worker is shown the next one.
    """

    def __init__(
        self,
        pieces: Sequence[Any],
        read: Callable[[Any], Iterable[Group]],
        sizes: Sequence[int],
        crew: Crew | None = None,
        pick: Callable[[Any, Sequence[int], int], Group] | None = None,
    ) -> None:
        self.pieces, self.read = pieces, read
        self.sizes = sizes  # the number of entries of each expert
        self.few = max(sizes) <= FEW  # whether all of them may be held in memory
        self.pick = pick  # the runs of a piece that begin at these places, of that length, as one group
        self.crew = crew or Crew()
        self.watch: Callable[[Any], None] = lambda _: None  # told of every piece before it is read
        self.in_files: Callable[[Any], Stored | None] = lambda _: None  # a piece that can be read as it is
        self.one: Group | None = None  # all there is, where that is one group over copies of which torch may map
        # Where adapters are among the experts: what their factors tell of norms, and the groups with all else.
        self.apart: Callable[[], tuple[Tensor, Groups | None]] | None = None

    @staticmethod
    def of(groups: Sequence[Group]) -> Groups:
        """Groups that are in memory."""
        experts = 1 + max(max(group.which) for group in groups)
        sizes = [sum(group.size for group in groups if index in group.which) for index in range(experts)]
        return Groups(groups, Group.tiles, sizes, pick=Group.picked)

    @property
    def together(self) -> Groups:
        """The same pieces, as if they were of one expert: for statistics of all experts at once."""

        def read(piece: Any) -> Iterator[Group]:
            return map(_as_one, self.read(piece))

        def pick(*told: Any) -> Group:
            assert self.pick
            return _as_one(self.pick(*told))

        sizes = [sum(piece.size for piece in self.pieces)]
        joint = Groups(self.pieces, read, sizes, self.crew, pick if self.pick else None)
        joint.few, joint.watch = self.few, self.watch
        return joint

    def each(self, visit: Callable[[int, Group], None]) -> None:
        """One pass: show every tile, and its number, to `visit`, several at a time."""

        def show(numbered: tuple[int, Any]) -> None:
            first, piece = numbered
            self.watch(piece)
            for number, tile in enumerate(self.read(piece), first):
                visit(number, tile)

        self.crew.run(show, zip(self._first()[:-1], self.pieces, strict=True))

    def _first(self) -> list[int]:
        """The number of each piece's first tile, and at the end the number of tiles."""
        return [0, *accumulate(-(-piece.size // whole(TILE, piece.unit)) for piece in self.pieces)]

    def sum(
        self, measure: Callable[[Group], Tensor], in_files: Callable[[Stored], Bits | None] | None = None
    ) -> Tensor:
        """The sum of a measure of shape (experts, ...) or () over all entries, always added in the same order.

        `in_files` takes it of a whole piece at once: of each of its tiles, (tiles, experts, ...).
        """
        rows: list[Any] = [None] * self._first()[-1]

        def show(numbered: tuple[int, Any]) -> None:
            first, piece = numbered
            self.watch(piece)
            stored = self.in_files(piece) if in_files else None
            measured = in_files(stored) if in_files and stored else None
            if stored and measured is not None:
                rows[first : first + len(measured)] = [self._of_all(row, stored.which) for row in measured]
                return
            for number, tile in enumerate(self.read(piece), first):
                rows[number] = self._of_all(measure(tile).numpy(), tile.which)

        self.crew.run(show, zip(self._first()[:-1], self.pieces, strict=True))
        return torch.from_numpy(np.add.accumulate(np.stack(rows), axis=0)[-1:]).squeeze(0)

    def fold(self, begin: Callable[[], Any], add: Callable[[Group, Any], None]) -> list[Any]:
        """What each worker has made of the tiles it was shown, beginning with `begin`."""
        made: dict[int, Any] = {}

        def visit(_: int, tile: Group) -> None:
            worker = threading.get_ident()
            if worker not in made:
                made[worker] = begin()
            add(tile, made[worker])

        self.each(visit)
        return list(made.values())

    def sample(self, measure: Callable[[Group], Tensor], every: int, length: int) -> list[tuple[Any, Tensor]]:
        """A measure of runs of entries, one in `every` entries: the experts of a piece, and (experts, runs, length)."""
        if not (pick := self.pick):
            return []
        ends = accumulate(piece.size for piece in self.pieces)
        long = [-(-length // piece.unit) * piece.unit for piece in self.pieces]  # the runs in whole units
        steps = [whole(max(every, UNITS * piece.unit), piece.unit) for piece in self.pieces]
        runs = [
            range((piece.size - end) % step // piece.unit * piece.unit, piece.size - run + 1, step)
            for end, piece, run, step in zip(ends, self.pieces, long, steps, strict=True)
        ]
        found: dict[int, Any] = {}

        def look(number: int) -> None:
            group = pick(self.pieces[number], runs[number], long[number])
            values = measure(group).cpu().unflatten(1, (-1, long[number]))
            found[number] = group.which, values[..., :length].clone()

        self.crew.run(look, [number for number, places in enumerate(runs) if places])
        return [found[number] for number in sorted(found)]

    def _of_all(self, values: Bits, which: tuple[int, ...]) -> Bits:
        """Values of some experts in the place of each, with 0 for the others."""
        if values.ndim == 0 or len(which) == len(self.sizes):
            return values
        everyone = np.zeros((len(self.sizes), *values.shape[1:]), values.dtype)
        everyone[list(which)] = values
        return everyone


def _as_one(group: Group) -> Group:
    """The group as if it were of one expert."""
    one = copy(group)
    one.which = (0,)
    return one


def of_some(survey: Any, which: tuple[int, ...], device: str = "cpu") -> Any:
    """What a survey says of some experts: its first axis is that of all experts, or it has none."""
    if isinstance(survey, torch.Tensor):
        everyone = not survey.ndim or which == tuple(range(len(survey)))
        return (survey if everyone else survey[list(which)]).to(device)
    if isinstance(survey, tuple):
        return type(survey)(*(of_some(part, which, device) for part in survey))
    return survey
