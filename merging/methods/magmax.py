"""MagMax: Leveraging Model Merging for Seamless Continual Learning (Marczak et al., 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from merging.method import Blend, Kernel, method
from merging.params import ShortScaling
from merging.vectors import largest

if TYPE_CHECKING:
    from torch import Tensor


def fused(_: None, values: dict[str, Any]) -> Kernel:
    """The merge of a tile in one go."""
    from merging.kernels import entries as kernel

    scaling = np.float32(values["scaling"])
    return lambda group, out: kernel.magmax(group.bits, scaling, out)


@method(
    title="MagMax",
    paper="https://arxiv.org/abs/2407.06322",
    formula=r"W_p = W_{0,p} + \lambda\,\tau_{g,p}, \qquad g = \operatorname{argmax}_i |\tau_{i,p}|",
    where="$g$ is the expert that changed entry $p$ most.",
    use="for experts that learned one task after the other, as in its paper, or that hardly change the same "
    "entries. Nothing is averaged: where two meet, the louder one wins.",
    fused=fused,
)
def magmax(base: Tensor, experts: Tensor, *, scaling: ShortScaling = 1.0) -> Blend:
    """Takes, for every entry, the change of the expert that changed it most; of equal ones, the first expert's."""
    return Blend(largest(experts - base), 1.0, scaling)
