"""What looks wrong with experts before they are merged, in words, each with its reason."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from merging.statistics.comparison import Comparison

FAR = 0.5  # of the base's norm, beyond which an expert is hardly a fine-tune of it
NEAR = 0.05  # of the shorter task vector, below which two experts are nearly the same
LOUD = 10  # times as far from the base as the other experts


def warnings(comparison: Comparison) -> list[str]:
    """What to know of the experts, one sentence each."""
    if broken := _broken(comparison, comparison.base_norms.isnan()):
        return [f"{comparison.base}: {broken}"]
    found = _of_pairs(comparison)
    squares = torch.where(comparison.has, comparison.base_norms.square()[:, None], 0.0).sum(0)
    norms = comparison.norms.square().nansum(0).sqrt()
    for index, expert in enumerate(comparison.experts):
        norm, base = norms[index], squares[index].sqrt()
        others = torch.cat([norms[:index], norms[index + 1 :]])
        if broken := _broken(comparison, comparison.has[:, index] & comparison.norms[:, index].isnan()):
            found.append(f"{expert}: {broken}")
        elif norm == 0:
            found.append(f"{expert} equals the base model: it adds nothing.")
        elif norm > FAR * base:
            found.append(f"{expert} is {norm / base:.0%} away from the base: was it fine-tuned from this one?")
        elif len(others) and norm > LOUD * others.max() > 0:
            times = f"{norm / others.max():.0f} times as far from the base as any other expert"
            found.append(f"{expert} is {times}: it decides a merge that does not go by norms.")
    return found


def _broken(comparison: Comparison, marked: Tensor) -> str:
    names = [name for name, mark in zip(comparison.names, marked.tolist(), strict=True) if mark]
    return f"`{names[0]}` holds NaN or infinity, so this merge will be refused." if names else ""


def _of_pairs(comparison: Comparison) -> list[str]:
    return [
        words
        for i, j in combinations(range(len(comparison.experts)), 2)
        if (words := _of_pair(comparison, i, j, f"{comparison.experts[i]} and {comparison.experts[j]}"))
    ]


def _of_pair(comparison: Comparison, i: int, j: int, pair: str) -> str:
    products = comparison.products[:, 1:, 1:].nan_to_num(posinf=0, neginf=0).sum(0)
    one, other, common = (float(products[place]) for place in ((i, i), (j, j), (i, j)))
    if not (one and other):
        return ""
    apart = max(one + other - 2 * common, 0.0) ** 0.5 / min(one, other) ** 0.5
    if apart < 1e-7:  # what is left of squares that cancel
        return f"{pair} are the same: one of them adds nothing but weight."
    if apart < NEAR:
        return f"{pair} differ by {apart:.1%} of what they moved: one of them adds next to nothing."
    if comparison.cosines[i, j] < -0.99:
        return f"{pair} undo each other: what is left is rounding, and PCB-Merging ranks by it."
    if comparison.cosines[i, j] > 0.9999:
        return f"{pair} moved the same way from the base: one of them adds nothing."
    return ""
