"""Random numbers that depend on nothing but where they are used: seed, expert, tensor and entry.

The generator is Philox-4x32-10 of Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3 (2011):
ten rounds turn a counter of four words, under a key of two, into four random words. Here the counter is the number of
an entry in its tensor, four entries to a count, and all the rest is the key. So no tile, worker or order can matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from merging import kernels
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from merging.groups import Bits

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57  # of the first and of the third word of a counter
BUMPS = 0x9E3779B9, 0xBB67AE85  # what the key grows by from round to round
WORD = 0xFFFFFFFF
STEP = 2.0**-24  # between the numbers that can be drawn, all of which float32 holds


def philox(counter: Bits, key: Bits) -> Bits:
    """Four random words for each counter: (4, counters) of uint64, whose upper halves are 0, like the counters."""
    first, second, third, fourth = counter
    keys = [int(word) for word in key]
    for _ in range(ROUNDS):
        left, right = first * np.uint64(MULTIPLIERS[0]), third * np.uint64(MULTIPLIERS[1])
        first, second, third, fourth = (
            (right >> np.uint64(32)) ^ second ^ np.uint64(keys[0]),
            right & np.uint64(WORD),
            (left >> np.uint64(32)) ^ fourth ^ np.uint64(keys[1]),
            left & np.uint64(WORD),
        )
        keys = [(word + bump) & WORD for word, bump in zip(keys, BUMPS, strict=True)]
    return np.stack([first, second, third, fourth])


@dataclass(frozen=True)
class Generator:
    """Draws for a run of a tensor's entries, of some experts that are known by their numbers in the recipe."""

    seed: int
    experts: tuple[int, ...]
    name: str
    start: int
    size: int
    device: str = "cpu"
    fused: bool = False  # whether the kernel may be used

    @cached_property
    def keys(self) -> Bits:
        """What tells the experts' numbers apart, (experts, 4) of uint32: two words of the key, two of the counter."""
        told = [f"{self.seed} {expert} {self.name}".encode("utf-8", "surrogatepass") for expert in self.experts]
        return np.frombuffer(b"".join(blake2b(text, digest_size=16).digest() for text in told), "<u4").reshape(-1, 4)

    def uniforms(self) -> Tensor:
        """Numbers from 0 to below 1, (experts, entries) of float32. Valid until the thread asks for the next ones."""
        if self.fused:
            from merging.kernels import draws

            out = kernels.scratch("uniforms", (len(self.experts), self.size), np.float32)
            draws.uniforms(self.keys, self.start, out)
            return torch.from_numpy(out)
        rows = np.stack([_uniforms(key, self.start, self.size) for key in self.keys])
        return torch.from_numpy(rows).to(self.device)


def _uniforms(key: Bits, start: int, size: int) -> Bits:
    """The numbers of the entries from `start` on, of one expert."""
    counts = np.arange(start // 4, (start + size + 3) // 4, dtype=np.uint64)
    other = np.broadcast_to(key[2:, None].astype(np.uint64), (2, len(counts)))
    counter = np.stack([counts & np.uint64(WORD), counts >> np.uint64(32), *other])
    words = philox(counter, key[:2]).T.reshape(-1)[start % 4 :][:size]
    return (words >> np.uint64(8)).astype(np.float32) * np.float32(STEP)
