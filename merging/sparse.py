"""Task vectors of which entries were dropped: what makes up for these, and what the rest adds up to.

Tensors are float32 of shape (experts, entries) unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from merging import kernels
from merging.lazy import torch
from merging.method import Bits, Blend, Fused, Group, Groups, Kernel
from merging.params import Param
from merging.trace import tell
from merging.vectors import Picked, averaging, disjoint, least, sums, total

if TYPE_CHECKING:
    from torch import Tensor

Chance = Annotated[  # one number per expert
    Any,
    Param(
        "Density ρ",
        "Share of each task vector that is kept, drawn at random.",
        low=0.01,
        by_expert=True,
        limits=(0.0, 1.0),
    ),
]
Rescale = Annotated[
    Literal["probability", "l1", "none"],
    Param(
        "Rescale",
        "What makes up for dropped entries: each that is kept is divided by the probability of that, or all by what "
        "restores the sum of magnitudes, or nothing.",
    ),
]
Merge = Annotated[
    Literal["mean", "sum"], Param("Merge rule", "What becomes of the entries that agree with the elected sign.")
]
DRAWN = (
    "The random numbers: each entry's is drawn by seed, expert, tensor and place, so that a recipe gives the same "
    "model anywhere."
)
ADDED = r" With `normalize`, the sum is divided by $\sum_i w_i$."
MEAN = r"W_p = W_{0,p} + \lambda\,\frac{\sum_{i \in A_p} w_i \hat\tau_{i,p}}{\sum_{i \in A_p} w_i}"
ELECTED = (
    r"A_p = \{i : \operatorname{sign}(w_i \hat\tau_{i,p}) = \gamma_p\}, \qquad "
    r"\gamma_p = \operatorname{sign}\textstyle\sum_i w_i \hat\tau_{i,p}"
)
AGREED = (
    r" $\gamma_p$ is the sign that entry $p$ is given, positive where the sum is 0, and $A_p$ are the experts that "
    "agree with it; with `merge: sum`, what they add is not divided."
)
LEAST = 1e-30  # what is divided by, where one tiny entry would stand for a whole tensor

Fill = Callable[[Any, Group, Bits], bool]  # by a kernel, what is kept of a tile; whether all that was read is finite
Plain = Callable[[Any, Group], "Tensor"]  # the same in torch; both by what a survey says


def restoring(groups: Groups, survey: Any, fill: Fill, plain: Plain) -> Tensor:
    """What must be divided by so that the magnitudes of what is kept have each expert's sum again, (experts)."""
    picked = Picked(survey)

    def measure(group: Group) -> Tensor:
        if not group.fused:
            return torch.stack([sums(rows.abs()) for rows in (plain(picked.of(group), group), group.tau)], 1)
        from merging.kernels import sparse as kernel

        kept = _room(group)
        fill(picked.of(group), group, kept)
        return torch.from_numpy(kernel.sums(group.bits, kept))

    after, before = groups.sum(measure).T
    return torch.where(after > 0, after / before, 1.0).float().clamp(min=LEAST)


def fused_by(fill: Fill) -> Fused:
    """What makes the kernels that merge a tile by the rule of the values, as `added` and `agreed` do it."""
    return partial(_kernel, fill)


def _kernel(fill: Fill, survey: Any, values: dict[str, Any]) -> Kernel:
    from merging.kernels import sparse as kernel

    weight, rule = values["weight"], kernel.SUM
    divisor: Any = averaging(weight) if values.get("normalize") else 1.0
    if "merge" in values:
        rule, divisor = kernel.AGREED_MEAN if values["merge"] == "mean" else kernel.AGREED_SUM, least(weight)
    known = weight.numpy(), rule, np.float32(divisor), np.float32(values["scaling"])

    def merge(group: Group, out: Bits) -> bool:
        kept = _room(group)
        finite: bool = fill(survey, group, kept) and kernel.blend(group.bits[0], kept, *known, out)
        return finite

    return merge


def _room(group: Group) -> Bits:
    """Memory for a value of each expert's entries, this thread's own."""
    return kernels.scratch("kept", (len(group.which), group.size), np.float32)


def added(tau: Tensor, weight: Tensor, scaling: float, normalize: bool) -> Blend:
    """The sum of the weighted task vectors, or their average."""
    return Blend(weight[:, None] * tau, averaging(weight) if normalize else 1.0, scaling)


def agreed(tau: Tensor, weight: Tensor, scaling: float, merge: str) -> Blend:
    """A sign is elected for each entry by the weighted sum, 0 being positive; what agrees is averaged or added."""
    weighted = weight[:, None] * tau
    sign = torch.where(total(weighted) >= 0, 1.0, -1.0)
    tell("elected sign", sign, "entry")
    agrees = torch.where(sign > 0, weighted > 0, weighted < 0)
    return Blend(*disjoint(weighted, agrees, weight, merge), scaling)
