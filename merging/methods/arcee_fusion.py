"""Arcee Fusion: what mergekit 0.1 merges two models with, by how much each change matters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from merging.lazy import torch
from merging.method import Bits, Blend, Group, Groups, Kernel, method
from merging.ranking import order_statistics
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor


def survey(groups: Groups) -> Tensor:
    """The importance from which on a change is kept, (): the median, and 1.5 times the distance of the quartiles."""

    def quartiles(entries: int, _: int) -> list[int]:
        return [int(share * (entries - 1)) for share in (0.25, 0.5, 0.75)]

    ranked = order_statistics(groups, lambda group: importance(group.base, group.experts, group.row), quartiles)
    low, middle, high = ranked[0]
    threshold: Tensor = middle + 1.5 * (high - low)
    return threshold


def fused(survey: Tensor, _: dict[str, Any]) -> Kernel:
    """The merge of a tile in one go, but for its importance: that is torch's, to the last bit."""
    from merging.kernels import entries as kernel

    threshold = np.float32(survey)

    def merge(group: Group, out: Bits) -> bool:
        known = importance(group.base, group.experts, group.row)[0].numpy()
        finite: bool = kernel.chosen(group.bits, known, threshold, out)
        return finite

    return merge


@method(
    title="Arcee Fusion",
    paper="https://www.arcee.ai/blog/meet-mergekit-v0-1-arcee-fusion-expanded-model-support-multi-gpu-acceleration",
    formula=r"W = W_0 + \big[\,s \ge t\,\big] \odot \tau_1, \qquad "
    r"s = |\tau_1| \odot \operatorname{KL}\big(\operatorname{softmax} W_1,\ \operatorname{softmax} W_0\big)",
    where="$s$ is how much each change matters, by its size and by the Kullback-Leibler divergence of its row, which "
    "the softmax makes a distribution, from the base's. $t$ is the median of $s$ and 1.5 times the distance of its "
    "quartiles.",
    use="to take over from one expert only what stands out, and to leave the base as it is elsewhere. There "
    "is nothing to tune.",
    differs="All entries of a tensor are ranked, where the code takes a sample of large ones.",
    survey=survey,
    fused=fused,
    scope="tensor",
    experts=(1, 1),
)
def arcee_fusion(base: Tensor, experts: Tensor, survey: Tensor, row: int) -> Blend:
    """Takes over only those changes of the one expert that matter: large ones, in rows whose distribution changed."""
    tau = experts - base
    known = importance(base, experts, row)
    tell("importance", known)
    tell("threshold", survey, "tensor")
    return Blend(torch.where(known >= survey, tau, 0.0))


def importance(base: Tensor, experts: Tensor, row: int) -> Tensor:
    """How much each change matters, (experts, entries): its magnitude times the divergence of its row from the base's.

    In float32 throughout, as in the code: the divergence of rows that are nearly equal is mostly rounding.
    """
    before, after = base.reshape(-1, row), experts.reshape(len(experts), -1, row)
    p, q = (rows.softmax(-1) + 1e-8 for rows in (after, before))
    divergence = (p * (p / q).log()).sum(-1, keepdim=True)
    return ((after - before).abs() * divergence).reshape(experts.shape)
