"""Write a base and its experts, random but shaped like fine-tuned models: python bench/family.py DIR --size 0.5b

Every block of every tensor is drawn from a generator of its own, keyed by seed, model, tensor and place, so that the
same arguments always give the same bytes, and memory stays at a few blocks however large the model is. A family that
is there already is used again when its arguments match, and experts that it lacks are added.

An expert is its base plus a low-rank update and dense noise whose rows and columns differ much in scale, which gives
the heavy tails that real task vectors have. Most rows of an expert's embedding did not move. As in real fine-tunes of
bfloat16 models, task vectors are coarse, and many of their entries are 0 or of equal magnitude.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from blocks import Block, Floats, Shapes, blocks, created, opened
from shapes import SIZES, parameters, shapes, write_sides

RANK = 8
MOVED = 0.02  # the typical size of a task vector's entry, in units of the spread of its tensor
STILL = 0.6  # share of the embedding's rows that a fine-tune never touches
MARK = "family.json"  # written when all is there


def family(folder: Path, size: str | None = None, experts: int = 3, seed: int = 0) -> Path:
    """The folder with a family of at least that many experts, written if it is not there yet."""
    known = _known(folder)
    size = size or known.get("size", "0.5b")
    told = {"size": size, "seed": seed, "dtype": "bf16"}
    if differ := [key for key, value in told.items() if known and known[key] != value]:
        raise SystemExit(f"{folder} holds a family of another {differ[0]}: {known[differ[0]]}. Name another folder.")
    there = known.get("experts", 0)
    if there >= experts:
        return folder
    if not known:
        write_model(folder / "base", size, partial(draw_base, seed))
    for number in range(there + 1, experts + 1):
        with opened(folder / "base" / "model.safetensors") as base:
            mover = Mover(seed, number, shapes(SIZES[size]))
            write_model(folder / f"expert-{number}", size, lambda block: base.read(block) + mover.tau(block))  # noqa: B023
    (folder / MARK).write_text(json.dumps({**told, "experts": experts, "params": parameters(SIZES[size])}, indent=1))
    return folder


def _known(folder: Path) -> dict:
    if (folder / MARK).is_file():
        return json.loads((folder / MARK).read_text())
    if folder.is_dir() and any(folder.iterdir()):
        raise SystemExit(f"{folder} holds something, but no finished family. Empty it or name another folder.")
    return {}


def write_model(folder: Path, size: str, draw: Callable[[Block], Floats]) -> None:
    """Write a model whose blocks are drawn by the function given, on all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    write_sides(folder, SIZES[size])
    layout = shapes(SIZES[size])
    with created(folder / "model.safetensors", layout) as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda block: file.write(block, draw(block)), blocks(layout)):
            pass


def generator(*key: object) -> np.random.Generator:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))


def spread(block: Block) -> float:
    """The standard deviation of a tensor's entries in the base."""
    if "embed" in block.name:
        return 0.02
    return 0.08 if len(block.shape) == 1 else 0.8 * block.shape[1] ** -0.5


def draw_base(seed: int, block: Block) -> Floats:
    values = generator(seed, "base", block.name, block.row).standard_normal(block.shape, dtype=np.float32)
    return values * np.float32(spread(block)) + np.float32("norm" in block.name)


class Mover:
    """What one expert adds to the base."""

    def __init__(self, seed: int, number: int, layout: Shapes) -> None:
        self.key, self.layout = (seed, "expert", number), layout
        self.scales = {name: MOVED * generator(*self.key, name, "scale").lognormal(0, 0.5) for name in layout}

    def tau(self, block: Block) -> Floats:
        """A block of its task vector."""
        draw = generator(*self.key, block.name, block.row)
        tau = draw.standard_normal(block.shape, dtype=np.float32)
        for axis, length in enumerate(block.shape):
            by = draw if axis == 0 else generator(*self.key, block.name, "columns")
            tau *= by.lognormal(0, 0.5, length).astype(np.float32).reshape(-1, *[1] * (tau.ndim - 1 - axis))
        if "embed" in block.name:
            tau[draw.random(len(tau)) < STILL] = 0
        elif tau.ndim == 2:
            tau += self.low_rank(block)
        tau *= np.float32(self.scales[block.name] * spread(block))
        return tau

    def low_rank(self, block: Block) -> Floats:
        rows, columns = self.layout[block.name]
        draw = generator(*self.key, block.name, "low rank")
        up, down = (draw.standard_normal((length, RANK), dtype=np.float32) for length in (rows, columns))
        spectrum = np.float32(0.6) ** np.arange(RANK, dtype=np.float32)
        return (up[block.row : block.row + block.shape[0]] * spectrum) @ down.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="0.5b")
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    family(options.folder, options.size, options.experts, options.seed)
    millions = parameters(SIZES[options.size]) / 1e6
    print(f"{options.folder}: a base and {options.experts} experts of {millions:.1f} M parameters")


if __name__ == "__main__":
    main()
