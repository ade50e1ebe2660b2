"""NearSwap: the interpolation behind the model QuartetAnemoi-70B-t0.0001 (alchemonaut, 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from merging.lazy import torch
from merging.method import Blend, Kernel, method
from merging.params import Param
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor

Reach = Annotated[
    float,
    Param(
        "Reach t",
        "How far an entry may move; it arrives where it had less to go.",
        high=0.01,
        step=1e-4,
        limits=(0.0, 100.0),
    ),
]


def fused(_: None, values: dict[str, Any]) -> Kernel:
    """The merge of a tile in one go."""
    from merging.kernels import entries as kernel

    t = np.float32(values["t"])
    return lambda group, out: kernel.nearswap(group.bits, t, out)


@method(
    title="NearSwap",
    paper="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    formula=r"W = W_0 + s \odot \tau_1, \qquad s = \min\!\big(t / |\tau_1|,\ 1\big)",
    where="$t$ is the reach, and $s$ the share of the way that each entry goes.",
    use="to bring a model a little nearer to another one everywhere, without a jump anywhere. The reach is "
    "absolute, so look at how far entries moved before choosing it.",
    fused=fused,
    experts=(1, 1),
)
def nearswap(base: Tensor, experts: Tensor, *, t: Reach = 1e-3) -> Blend:
    """Moves every entry of the base model towards the one expert, by no more than the reach.

    Where the two are nearer than that, the expert's entry is taken.
    """
    tau = experts - base
    share = (torch.as_tensor(t) / tau.abs().clamp(min=1e-6)).clamp(max=1.0)
    tell("share of the way", share)
    return Blend(share * tau)
