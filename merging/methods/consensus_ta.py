"""Consensus TA: Localizing Task Information for Improved Model Merging and Compression (Wang et al., 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from merging.lazy import torch
from merging.method import Blend, Kernel, method
from merging.params import Param, ShortScaling
from merging.trace import tell
from merging.vectors import total

if TYPE_CHECKING:
    from torch import Tensor

TallLambda = Annotated[
    float,
    Param(
        "Mask λ",
        "A task uses an entry where its own change is larger than so many times that of all others together.",
        step=0.05,
        limits=(0.0, 100.0),
    ),
]
Threshold = Annotated[
    float,
    Param(
        "Threshold k",
        "How many tasks must use an entry for it to be kept.",
        high=8.0,
        step=1.0,
        limits=(0.0, 1e6),
        counts="experts",
    ),
]


def fused(_: None, values: dict[str, Any]) -> Kernel:
    """The merge of a tile in one go."""
    from merging.kernels import entries as kernel

    known = [np.float32(values[name]) for name in ("tall_lambda", "threshold", "scaling")]
    return lambda group, out: kernel.consensus(group.bits, *known, out)


@method(
    title="Consensus TA",
    paper="https://arxiv.org/abs/2405.07813",
    formula=r"W = W_0 + \lambda\, \big[\textstyle\sum_i m_i \ge k\big] \odot \tau, \qquad "
    r"m_i = \big[\,|\tau_i| > \lambda_t\, |\tau - \tau_i|\,\big], \quad \tau = \textstyle\sum_i \tau_i",
    where=r"$m_i$ marks the entries that task $i$ uses, $\lambda_t$ is `tall_lambda`, and $k$ is `threshold`.",
    use="with many tasks, where what a single one uses hurts the others. With two experts it leaves little "
    "but what both of them use.",
    differs="One mask λ holds for all tasks; the authors choose one for each on validation data.",
    fused=fused,
)
def consensus_ta(
    base: Tensor,
    experts: Tensor,
    *,
    tall_lambda: TallLambda = 0.4,
    threshold: Threshold = 2.0,
    scaling: ShortScaling = 0.3,
) -> Blend:
    """Adds up the task vectors in the entries that enough tasks use, and leaves the others as the base model has them.

    A task uses an entry if its own change stands out against that of the others.
    """
    tau = experts - base
    whole = total(tau)
    masks = (tau.abs() > tall_lambda * (whole - tau).abs()).float()
    used = total(masks)
    tell("sum of the task vectors", whole, "entry")
    tell("mask", masks)
    tell("tasks that use it", used, "entry")
    return Blend(torch.where(used >= threshold, tau, 0.0), 1.0, scaling)
