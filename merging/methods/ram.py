"""RAM: Reinforced Agent Merging (2026)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from merging.lazy import torch
from merging.method import Blend, Kernel, method
from merging.params import Param
from merging.trace import tell
from merging.vectors import total

if TYPE_CHECKING:
    from torch import Tensor

Epsilon = Annotated[
    float,
    Param(
        "Epsilon ε",
        "A change of an entry counts if its magnitude is larger.",
        high=1e-3,
        step=1e-6,
        limits=(0.0, 100.0),
    ),
]


def fused(_: None, values: dict[str, Any]) -> Kernel:
    """The merge of a tile in one go."""
    from merging.kernels import entries as kernel

    epsilon = np.float32(values["epsilon"])
    return lambda group, out: kernel.ram(group.bits, epsilon, out)


@method(
    title="RAM",
    paper="https://arxiv.org/abs/2601.13572",
    formula=r"W = W_0 + \frac{\sum_i m_i \odot \tau_i}{\max(\sum_i m_i,\, 1)}, \qquad m_i = [\,|\tau_i| > \epsilon\,]",
    where=r"$m_i$ marks the entries that expert $i$ changed, by more than $\epsilon$.",
    use="for experts that each changed few entries, as reinforcement learning does: what only one of them "
    "learned keeps its size, which an average would shrink.",
    fused=fused,
)
def ram(base: Tensor, experts: Tensor, *, epsilon: Epsilon = 1e-5) -> Blend:
    """Averages every entry over the experts that changed it, so that what only one of them learned keeps its size."""
    tau = experts - base
    active = tau.abs() > epsilon
    changed = total(active.float())
    tell("mask", active)
    tell("experts that changed it", changed, "entry")
    return Blend(torch.where(active, tau, 0.0), changed.clamp(min=1.0))
