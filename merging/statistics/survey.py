"""Two passes over a base and its experts, on all cores, in the pieces and tiles that merges read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.crew import Crew
from merging.factored import with_factors
from merging.groups import Bits, Stored
from merging.lazy import torch
from merging.statistics import magnitudes
from merging.statistics.measures import BINS, Left, Look, Tally, trimmed, trimmed_in
from merging.statistics.probe import Sampler
from merging.statistics.tables import TRIMMED, Tables, samplers
from merging.stream import Span, Stream

if TYPE_CHECKING:
    from torch import Tensor

Tiles = dict[int, tuple[Bits, ...]]  # what is measured of tiles, by their first entries
EVERY = 1.0  # seconds between two tellings of what is known


@dataclass
class _Tensor:
    """A tensor that is being read: what its pieces have told so far."""

    left: int  # pieces that have not told yet
    counted: Any
    samplers: dict[str, Sampler] = field(default_factory=dict)
    tiles: Tiles = field(default_factory=dict)

    def sums(self) -> list[Bits]:
        """What the tiles measured, added in their order, as a merge adds."""
        rows = [self.tiles[start] for start in sorted(self.tiles)]
        return [np.add.accumulate(np.stack(parts), axis=0)[-1] for parts in zip(*rows, strict=True)]


class Survey:
    """Fills the tables of a plan's tensors. `listen` is called with nothing about every second, by one thread."""

    def __init__(
        self, found: Tables, team: Crew, on_step: Callable[[int, int], None], listen: Callable[[], None]
    ) -> None:
        self.found, self.work, self.crew, self.on_step, self.listen = found, found.work, team, on_step, listen
        self.stream = Stream(found.work, team)
        self.rows = {name: row for row, name in enumerate(found.work.merged)}
        self.open: dict[str, _Tensor] = {}
        self.lock = threading.Lock()
        self.counts = np.zeros((len(found.work.experts), BINS), np.int64)  # over the whole model
        self.bytes = {
            name: found.work.base.entries[name].bytes * (1 + len(which)) for name, which in found.work.merged.items()
        }
        self.done, self.told = 0, time.monotonic()

    def both(self) -> None:
        """Both passes; MergeStopped when asked to stop."""
        names = list(self.work.merged)
        with closing(self.stream.files):
            self.crew.run(self._look, [span for name in names for span in self.stream.spans(name)])
            thresholds = magnitudes.thresholds(self.counts, TRIMMED)
            self.found.tables["thresholds"][:] = thresholds
            self.found.tables["energies"][:] = magnitudes.energies(self.counts)
            again = [name for name in names if not self._broken(name)]
            self.done = sum(self.bytes[name] for name in names if name not in again) + sum(self.bytes.values())
            spans = [span for name in again for span in self.stream.spans(name)]
            self.crew.run(lambda span: self._trim(span, thresholds), spans)

    def _broken(self, name: str) -> bool:
        row = self.rows[name]
        return not self.found.tables["products"][row].isfinite().all()

    def _look(self, span: Span) -> None:
        """The first pass over a piece."""
        which = self.work.merged[span.name]
        with self.lock:
            tensor = self._opened(span.name, lambda: Tally.empty(len(which)))
            tensor.samplers = tensor.samplers or samplers(self.found, span.name)
        look, stored = Look(len(which), list(tensor.samplers.values())), self.stream.in_files(span)
        if stored and (measured := look.stored(stored)):
            tiles = _by_start(span, stored, zip(*measured, strict=True))
        else:
            tiles = {tile.start: look.tile(tile) for tile in self.stream.read(span)}
        counted = look.counted()
        with self.lock:
            self._told(tensor, span, tiles, counted, self._looked)

    def _trim(self, span: Span, thresholds: Tensor) -> None:
        """The second pass over a piece."""
        which = self.work.merged[span.name]
        mine = thresholds[list(which)].contiguous()
        with self.lock:
            tensor = self._opened(span.name, lambda: Left.empty(*mine.shape))
        left, stored = Left.empty(*mine.shape), self.stream.in_files(span)
        measured = trimmed_in(stored, mine, left) if stored else None
        if stored and measured is not None:
            tiles = _by_start(span, stored, ((each,) for each in measured))
        else:
            tiles = {tile.start: (trimmed(tile, mine, left),) for tile in self.stream.read(span)}
        with self.lock:
            self._told(tensor, span, tiles, left, self._trimmed)

    def _opened(self, name: str, empty: Callable[[], Any]) -> _Tensor:
        if name not in self.open:
            self.open[name] = _Tensor(len(self.stream.spans(name)), empty())
        return self.open[name]

    def _told(
        self,
        tensor: _Tensor,
        span: Span,
        tiles: Tiles,
        counted: Any,
        finish: Callable[[str, _Tensor], None],
    ) -> None:
        """A piece is done: put it to the others, and note its tensor when it was the last."""
        tensor.counted.add(counted)
        tensor.tiles |= tiles
        tensor.left -= 1
        self.done += span.size * self.bytes[span.name] // self.work.base.entries[span.name].size
        if not tensor.left:
            del self.open[span.name]
            finish(span.name, tensor)
        total = 2 * sum(self.bytes.values())
        self.on_step(min(self.done, total), total)
        if time.monotonic() - self.told >= EVERY:
            self.told = time.monotonic()
            self.listen()

    def _looked(self, name: str, tensor: _Tensor) -> None:
        """Note what the first pass knows of a tensor."""
        row, which, tables = self.rows[name], list(self.work.merged[name]), self.found.tables
        entries, counted = self.work.base.entries[name].size, tensor.counted
        squares, found, powers = tensor.sums()
        known = torch.full((len(self.work.experts),), torch.nan, dtype=torch.float64)
        known[which] = torch.from_numpy(squares)
        tables["squares"][row] = with_factors(self.work, name, known)
        tables["products"][row] = _placed(found, [0, *(1 + index for index in which)], len(known) + 1)
        base = torch.tensor(found[0, 0])
        tables["base_squares"][row] = torch.where(base < torch.inf, base, torch.nan)
        tables["still"][row, which] = torch.from_numpy(counted.still).double()
        tables["means"][row, which], tables["kurtosis"][row, which] = _shape(powers, found.diagonal()[1:], entries)
        tables["energy"][row, which] = magnitudes.energies(counted.counts)
        for kind in ("both", "conflicts"):
            tables[kind][row] = _placed(getattr(counted, kind), which, len(known))
        self.found.kept[row] = {kind: sampler.bits for kind, sampler in tensor.samplers.items()}
        tables["read"][row] = True
        if np.isfinite(found).all():
            self.counts[which] += counted.counts

    def _trimmed(self, name: str, tensor: _Tensor) -> None:
        """Note what the second pass knows of a tensor."""
        row, which, tables = self.rows[name], self.work.merged[name], self.found.tables
        parts = {"products": tensor.sums()[0], "both": tensor.counted.both, "conflicts": tensor.counted.conflicts}
        for kind, values in parts.items():
            tables[f"trimmed_{kind}"][row] = _placed(values, which, len(self.work.experts))


def _by_start(span: Span, stored: Stored, measured: Iterable[tuple[Bits, ...]]) -> Tiles:
    return {span.start + number * stored.tile: each for number, each in enumerate(measured)}


def _placed(values: Bits, which: Any, count: int) -> Tensor:
    """A table of some models, (..., some, some), among that of all, (..., count, count), with 0 for the others."""
    found = np.zeros((*values.shape[:-2], count, count))
    found[..., np.array(which)[:, None], np.array(which)] = values
    return torch.from_numpy(found)


def _shape(powers: Bits, squares: Bits, entries: int) -> tuple[Tensor, Tensor]:
    """Means and kurtosis, (experts) each, from sums of powers, (3, experts), and of squares, (experts)."""
    (first, third, fourth), second = torch.from_numpy(powers / entries), torch.from_numpy(squares / entries)
    variance = second - first**2
    moment = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    finite = second < torch.inf
    return first.where(finite, torch.nan), (moment / variance**2).where(finite & (variance > 0), torch.nan)
