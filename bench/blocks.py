"""Safetensors files of bfloat16 tensors, written and read in blocks of rows, in any order and from any thread."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENTRIES = 1 << 20  # of a block, at most, unless one row has more

Floats = NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Block:
    """Some rows of a tensor."""

    name: str
    row: int
    shape: tuple[int, ...]


def blocks(shapes: Shapes) -> Iterator[Block]:
    """All tensors, cut into blocks."""
    for name, (rows, *others) in shapes.items():
        step = max(1, ENTRIES // math.prod(others))
        for row in range(0, rows, step):
            yield Block(name, row, (min(step, rows - row), *others))


@dataclass(frozen=True)
class Weights:
    """An open file, and where in it each tensor begins."""

    descriptor: int
    offsets: dict[str, int]

    def read(self, block: Block) -> Floats:
        raw = os.pread(self.descriptor, 2 * math.prod(block.shape), self._start(block))
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(block.shape)

    def write(self, block: Block, values: Floats) -> None:
        bits = values.view(np.uint32)
        bits = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16  # to the nearest, ties to even
        os.pwrite(self.descriptor, bits.astype("<u2").tobytes(), self._start(block))

    def _start(self, block: Block) -> int:
        return self.offsets[block.name] + 2 * block.row * math.prod(block.shape[1:])


@contextmanager
def created(file: Path, shapes: Shapes) -> Iterator[Weights]:
    """A new file with its header and its full length."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    with opened(file, "r+b") as weights:
        yield weights


@contextmanager
def opened(file: Path, mode: str = "rb") -> Iterator[Weights]:
    """A file that is there."""
    with file.open(mode) as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        starts = {name: 8 + length + told["data_offsets"][0] for name, told in header.items()}
        yield Weights(stream.fileno(), starts)
