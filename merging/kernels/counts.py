"""What becomes of the entries of many tensors, in one go: counts, and sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from merging.kernels.bits import kernel

ZERO = np.float32(0)


@kernel
def count_up(shares: Any, tau: Any, starts: Any, of_experts: Any, of_tensors: Any) -> None:
    """Write what `merging.counts.counted` says, of the runs of entries that begin at `starts`; the last is the end."""
    for run in range(len(starts) - 1):
        own, both = of_experts[run], of_tensors[run]
        own[:] = 0.0
        both[:] = 0.0
        for i in range(starts[run], starts[run + 1]):
            deciding, step = 0, 0.0
            for expert in range(len(tau)):
                share, moved = shares[expert, i], tau[expert, i]
                signed = share if moved > ZERO else (-share if moved < ZERO else ZERO)
                deciding += share != ZERO
                step += np.float64(share)
                own[expert, 0] += share != ZERO
                own[expert, 1] += moved != ZERO
                own[expert, 2] += np.float64(signed)
                own[expert, 3] += np.float64(abs(moved))
                own[expert, 4] += np.float64(moved) * np.float64(moved)
            both[0] += step * step
            both[1] += deciding == 0
            both[2] += deciding == 1
