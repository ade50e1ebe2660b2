"""EMR-Merging: Tuning-Free High-Performance Model Merging (Huang et al., 2024), as far as one model can hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from merging.lazy import torch
from merging.method import Blend, Kernel, method
from merging.params import ShortScaling
from merging.trace import tell
from merging.vectors import largest, total

if TYPE_CHECKING:
    from torch import Tensor


def fused(_: None, values: dict[str, Any]) -> Kernel:
    """The merge of a tile in one go."""
    from merging.kernels import entries as kernel

    scaling = np.float32(values["scaling"])
    return lambda group, out: kernel.emr(group.bits, scaling, out)


@method(
    title="EMR-Merging",
    paper="https://arxiv.org/abs/2405.17461",
    formula=r"W_p = W_{0,p} + \lambda\,\gamma_p \max\{|\tau_{i,p}| : \tau_{i,p}\gamma_p > 0\}, \qquad "
    r"\gamma_p = \operatorname{sign}\sum_i \tau_{i,p}",
    where=r"$\gamma_p$ is the sign that entry $p$ is given, negative where the sum is 0. The maximum is over the "
    "experts.",
    use="when there should be nothing to tune. It is the half of its method that fits into one model: the "
    "accuracies in its paper need each task's mask, too.",
    differs="The tasks' masks and factors are left out, for which one model has no place. The scaling is an addition.",
    fused=fused,
)
def emr(base: Tensor, experts: Tensor, *, scaling: ShortScaling = 1.0) -> Blend:
    """Elects a sign for every entry, and takes the largest change of that sign: the unified task vector.

    The paper's masks and factors, which bring each task back out of it, do not fit into one model and are left out.
    """
    tau = experts - base
    # A sum of zero counts as negative, as in the code.
    sign = torch.where(total(tau) > 0, 1.0, -1.0)
    agreeing = torch.where(torch.where(sign > 0, tau > 0, tau < 0), tau, 0.0)
    tell("elected sign", sign, "entry")
    tell("agreeing", agreeing)
    return Blend(largest(agreeing), 1.0, scaling)
