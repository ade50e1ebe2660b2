"""A tensor whose rows are gathered from those of one or several models, as it is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.header import SIZES, dtype_of, ended
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Source:
    """One tensor of a model; and for every row of the result, the row of that tensor, or -1 where it has none."""

    model: Checkpoint
    name: str
    rows: Tensor

    def fill(self, out: Tensor, first: int, wanted: Tensor) -> None:
        """Put its rows into `out`, which starts at row `first` of the result, where they are wanted and there."""
        rows = self.rows[first : first + len(out)]
        places = (wanted & (rows >= 0)).nonzero().flatten()
        if len(places):
            out[places] = self._read(rows[places], out.shape[1]).to(out.dtype)

    def _read(self, rows: Tensor, width: int) -> Tensor:
        """These rows of the tensor; those that follow each other are read at once."""
        ends = ((rows.diff() != 1).nonzero().flatten() + 1).tolist()
        runs = [(int(rows[start]), stop - start) for start, stop in pairwise([0, *ends, len(rows)])]
        if self.name not in self.model.made and len(runs) > 1:
            return self._scattered(runs, len(rows), width)
        parts = [self.model.read(self.name, row * width, (row + count) * width) for row, count in runs]
        return torch.cat(parts).reshape(-1, width)

    def _scattered(self, runs: list[tuple[int, int]], rows: int, width: int) -> Tensor:
        """The rows of all runs from a file that is opened once; there can be as many runs as rows."""
        entry = self.model.entries[self.name]
        out = torch.empty(rows, width, dtype=dtype_of(entry))
        view, size, at = memoryview(out.view(torch.uint8).numpy().data).cast("B"), width * SIZES[entry.dtype], 0
        try:
            with entry.file.open("rb", buffering=0) as file:
                for row, count in runs:
                    file.seek(entry.offset + row * size)
                    end = at + count * size
                    while at < end and (got := file.readinto(view[at:end])):
                        at += got
                    if at < end:
                        raise ended(entry.file, self.name)
        except OSError as error:
            raise MergeError(f"{entry.file} could not be read ({error.strerror}). Check the file.") from error
        return out


@dataclass(frozen=True, eq=False)
class Gathered:
    """Each row comes from the first of `sources` that has it, or else is the mean of all `others` that have it.

    A row that nobody has is zero; it stands for no token.
    """

    shape: tuple[int, ...]  # of one row
    sources: tuple[Source, ...]
    others: tuple[Source, ...]

    @property
    def files(self) -> set[Path]:
        """What it is computed from."""
        found = set()
        for source in (*self.sources, *self.others):
            made = source.model.made.get(source.name)
            found |= made.files if made else {source.model.entries[source.name].file}
        return found

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype that all rows are stored in, or float32 where they differ or are computed."""
        lacking = torch.stack([source.rows < 0 for source in self.sources]).all(0)
        stored = all(source.name not in source.model.made for source in self.sources)
        kinds = {dtype_of(source.model.entries[source.name]) for source in self.sources}
        return kinds.pop() if stored and len(kinds) == 1 and not lacking.any() else torch.float32

    def read(self, start: int, stop: int) -> Tensor:
        """Entries of the gathered tensor, laid flat; rows are read whole."""
        width = math.prod(self.shape)
        if stop <= start or not width:
            return torch.empty(0, dtype=self.dtype)
        first, last = start // width, (stop - 1) // width + 1
        out = torch.zeros(last - first, width, dtype=self.dtype)
        lacking = torch.ones(last - first, dtype=torch.bool)
        for source in self.sources:
            source.fill(out, first, lacking)
            lacking &= source.rows[first:last] < 0
        if lacking.any():
            out[lacking] = self._mean(first, last, lacking)[lacking]
        return out.flatten()[start - first * width : stop - first * width]

    def _mean(self, first: int, last: int, wanted: Tensor) -> Tensor:
        total = torch.zeros(last - first, math.prod(self.shape))
        count = torch.zeros(last - first, 1)
        for source in self.others:
            rows = torch.zeros_like(total)
            source.fill(rows, first, wanted)
            total += rows
            count += (source.rows[first:last] >= 0)[:, None]
        return total / count.clamp(min=1)
