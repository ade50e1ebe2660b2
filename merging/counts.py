"""What becomes of the entries of many tensors, by what each expert adds to the base there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from merging import kernels
from merging.groups import Bits
from merging.lazy import torch
from merging.samples import Sample, Stack

if TYPE_CHECKING:
    from torch import Tensor


class Counts(NamedTuple):
    """What becomes of the entries looked at, by tensor and by expert; float64, 0 where a tensor is not in the sample.

    An expert's entry is kept where it enters the merge: where its share, what it adds to the base, is not 0.
    """

    kept: Tensor  # (tensors, experts), the number of such entries
    moved: Tensor  # (tensors, experts), of those that are not the base's
    pushed: Tensor  # (tensors, experts), sum of the shares along the task vector's own signs
    sizes: Tensor  # (tensors, experts), sum of |tau|
    squares: Tensor  # (tensors, experts), sum of tau^2
    steps: Tensor  # (tensors), sum of the squares of what is added to the base
    decided: Tensor  # (tensors, 3), entries which no expert enters, one, or several
    entries: Tensor  # (tensors)


def counts_of(sample: Sample, shares: Callable[[Stack], Tensor], tensors: int, experts: int) -> Counts:
    """The counts over a sample, `shares` being what gives a stack's experts' shares, (experts, entries)."""
    own, both = torch.zeros(tensors, experts, 5, dtype=torch.float64), torch.zeros(tensors, 3, dtype=torch.float64)
    entries = torch.zeros(tensors, dtype=torch.float64)
    for stack in sample.stacks:
        of_experts, of_tensors = counted(shares(stack), stack.tau, stack.starts)
        own[torch.tensor(stack.tensors)[:, None], torch.tensor(stack.which)] = torch.from_numpy(of_experts)
        both[stack.tensors] = torch.from_numpy(of_tensors)
        entries[stack.tensors] = torch.tensor(stack.lengths, dtype=torch.float64)
    several = entries - both[:, 1] - both[:, 2]
    kept, moved, pushed, sizes, squares = own.unbind(2)
    return Counts(
        kept, moved, pushed, sizes, squares, both[:, 0], torch.stack([both[:, 1], both[:, 2], several], 1), entries
    )


def counted(shares: Tensor, tau: Tensor, starts: Bits) -> tuple[Bits, Bits]:
    """Of runs of entries, (runs, experts, 5): kept, moved, pushed, sizes and squares; and (runs, 3) over the experts.

    These are the sum of squares of the step, and the entries that no expert enters, or one.
    """
    if kernels.usable():
        from merging.kernels import counts as kernel

        runs = len(starts) - 1
        own, both = np.empty((runs, len(tau), 5)), np.empty((runs, 3))
        kernel.count_up(shares.numpy(), tau.numpy(), starts, own, both)
        return own, both
    shares, tau = shares.double(), tau.double()
    enters = shares != 0
    parts = [enters.double(), (tau != 0).double(), shares * tau.sign(), tau.abs(), tau.square()]
    deciding = enters.sum(0)
    over = [shares.sum(0).square(), (deciding == 0).double(), (deciding == 1).double()]
    added = partial(np.add.reduceat, indices=starts[:-1], axis=-1)
    return added(torch.stack(parts).numpy()).transpose(2, 1, 0), added(torch.stack(over).numpy()).T
