"""PEFT's ways to make one LoRA adapter of several, as its `add_weighted_adapter` has them (PEFT 0.21)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from merging import kernels
from merging.adapter_method import Module, Ranks, adapter_method
from merging.draws import Generator
from merging.errors import MergeError
from merging.lazy import torch
from merging.low_rank import Factors, beside
from merging.params import Param, Weight
from merging.trace import listening, tell

if TYPE_CHECKING:
    from torch import Tensor

Combination = Annotated[
    Literal[
        "svd",
        "cat",
        "linear",
        "ties",
        "ties_svd",
        "dare_linear",
        "dare_linear_svd",
        "dare_ties",
        "dare_ties_svd",
        "magnitude_prune",
        "magnitude_prune_svd",
    ],
    Param(
        "Combination type",
        "How adapters become one. cat: exactly, side by side. Those with svd: by their products, cut to a rank. "
        "The others: by A and B apart, which mixes the adapters.",
    ),
]
OptionalDensity = Annotated[
    float | None, Param("Density", "Share of entries that ties, dare and magnitude_prune keep; they need it.")
]
Election = Annotated[
    Literal["total", "frequency"],
    Param("Sign rule", "Whose sign wins in ties: that of the larger sum, or that of more adapters."),
]

THINNED = {  # by rule, what its step is called
    "ties": "pruned",
    "magnitude_prune": "pruned",
    "dare_linear": "dropped and rescaled",
    "dare_ties": "dropped and rescaled",
}
Draws = Callable[[int, "Tensor"], "Tensor"]  # a number from 0 to below 1 for each entry of the adapter at that place


def ranks(ranks: list[int], widest: int, weight: Tensor, combination_type: str, density: float | None) -> Ranks:
    """The sum of all ranks, the largest, or the one that all have, by type."""
    rule, on_products = _parted(combination_type, len(weight))
    if rule not in ("cat", "svd", "linear") and density is None:
        raise MergeError(f"`combination_type: {combination_type}` needs a `density`. Give it one.")
    if rule == "cat":
        return Ranks(sum(ranks), sum(ranks))
    if on_products:
        return Ranks(widest, sum(ranks) if rule == "svd" else None)
    if len({*ranks}) > 1:
        words = f"`combination_type: {combination_type}` needs adapters of one rank, and these have"
        raise MergeError(f"{words} {', '.join(map(str, ranks))}. Choose `cat` or one with `svd`.")
    return Ranks(ranks[0], ranks[0])


def idle(values: dict[str, Any]) -> Iterator[str]:
    """A sentence for each parameter that the combination type does not take."""
    combination = values.get("combination_type", "svd")
    for key, takers in (("density", ("ties", "dare", "magnitude")), ("majority_sign_method", ("ties", "dare_ties"))):
        if key in values and not str(combination).startswith(takers):
            yield f"`{key}` has no effect with `combination_type: {combination}`, so it is ignored."


@adapter_method(
    name="peft",
    title="PEFT",
    paper="https://huggingface.co/docs/peft/developer_guides/lora#merge-adapters",
    formula=r"B A \approx \sum_i w_i s_i B_i A_i",
    where="$A_i$ and $B_i$ are the factors of adapter $i$, $s_i$ is its scaling (alpha over rank, or over the root "
    "of it), and $A$ and $B$ are the factors of the result, whose scaling is 1. With `cat` both sides are the same.",
    use="to have what PEFT itself would have made, or the exact sum by cat. Types on A and B apart keep the rank; "
    "those with svd are nearer to what the adapters do, and take longer.",
    differs="Where magnitudes tie at a threshold all of them are kept, of which PEFT picks some by index; what dare "
    "drops follows from the seed, in numbers of our own.",
    ranks=ranks,
    idle=idle,
)
def peft(
    module: Module,
    *,
    combination_type: Combination = "svd",
    density: OptionalDensity = None,
    majority_sign_method: Election = "total",
    weight: Weight,
) -> Factors | Tensor:
    """Makes one adapter of several, with the numbers that PEFT's own combination types give.

    Types on A and B apart are no sum of what the adapters do: they multiply one's B with another's A.
    """
    rule, on_products = _parted(combination_type, len(module.updates))
    weights = [float(weight[number]) for number in module.which]
    tell("weights", weight, "expert")
    if rule in ("cat", "svd"):
        parts = module.parts()
        _tell(module, "", weights, lambda at: module.scalings[at] * parts[at].product())
        return beside(parts, [w * s for w, s in zip(weights, module.scalings, strict=True)])
    if on_products:
        kept = thinned(rule, module.products(), density, partial(_draws, module, ""))
        _tell(module, THINNED.get(rule, ""), weights, lambda at: kept[at])
        return joined(rule, kept, weights, majority_sign_method)
    parts = module.parts()
    downs = thinned(rule, torch.stack([part.down for part in parts]), density, partial(_draws, module, ".A"))
    ups = thinned(rule, torch.stack([part.up for part in parts]), density, partial(_draws, module, ".B"))
    _tell(module, THINNED.get(rule, ""), weights, lambda at: module.scalings[at] * ups[at] @ downs[at])
    roots = [math.sqrt(abs(w * s)) for w, s in zip(weights, module.scalings, strict=True)]
    signed = [math.copysign(root, w * s) for root, w, s in zip(roots, weights, module.scalings, strict=True)]
    with listening(None):  # A and B apart have other entries than their product
        down = joined(rule, downs, signed, majority_sign_method)
        return Factors(down, joined(rule, ups, roots, majority_sign_method))


def _tell(module: Module, how: str, weights: Sequence[float], kept: Callable[[int], Tensor]) -> None:
    """What is kept of each update, by its place among them, and what it counts."""
    for at, number in enumerate(module.which):
        if how:
            tell(how, partial(kept, at), "entry", number)
        tell("weighted task vectors", partial(_weighted, kept, at, weights), "entry", number)


def _weighted(kept: Callable[[int], Tensor], at: int, weights: Sequence[float]) -> Tensor:
    return weights[at] * kept(at)


def _parted(combination: str, adapters: int) -> tuple[str, bool]:
    """The rule of a combination type, and whether it is applied to products. One adapter is always scaled alone."""
    if adapters == 1:
        return "linear", False
    return combination.removesuffix("_svd"), combination.endswith("svd")


def _draws(module: Module, side: str, place: int, like: Tensor) -> Tensor:
    name, size, fused = f"{module.name}{side}", like.numel(), kernels.usable()
    return Generator(module.seed, (module.which[place],), name, 0, size, fused=fused).uniforms().reshape(like.shape)


def thinned(rule: str, tensors: Tensor, density: float | None, draws: Draws) -> Tensor:
    """What a rule leaves of tensors, (adapters, *shape); `draws` are uniform, for what is dropped at random."""
    if rule == "linear":
        return tensors
    assert density is not None
    return dropped(tensors, density, draws) if rule.startswith("dare") else pruned(tensors, density)


def joined(rule: str, tensors: Tensor, weights: Sequence[float], election: str) -> Tensor:
    """One tensor of what a rule has left of several, (adapters, *shape)."""
    return agreed(tensors, weights, election) if rule.endswith("ties") else _sum(tensors, weights)


def _sum(tensors: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighted sum, with no copy of all of them in memory."""
    total = torch.zeros_like(tensors[0])
    for weight, tensor in zip(weights, tensors, strict=True):
        total += weight * tensor
    return total


def pruned(tensors: Tensor, density: float) -> Tensor:
    """Each adapter's entries of largest magnitude, the share `density` of them rounded down; the others zero.

    Differs: where magnitudes tie at the threshold all of them are kept, of which PEFT picks some by index.
    """
    size = tensors[0].numel()
    below = size - int(density * size)
    if below == size:
        return torch.zeros_like(tensors)
    out = torch.empty_like(tensors)
    for tensor, kept in zip(tensors, out, strict=True):
        magnitudes = tensor.abs()
        least = np.partition(magnitudes.flatten().numpy(), below)[below]
        kept.copy_(torch.where(magnitudes >= float(least), tensor, 0.0))
    return out


def dropped(tensors: Tensor, density: float, draws: Draws) -> Tensor:
    """Each entry with the probability `density`, divided by it; the others zero."""
    if density >= 1:
        return tensors
    out = torch.empty_like(tensors)
    for place, (tensor, kept) in enumerate(zip(tensors, out, strict=True)):
        kept.copy_(torch.where(draws(place, tensor) < density, tensor / (density or 1.0), 0.0))
    return out


def agreed(tensors: Tensor, weights: Sequence[float], election: str) -> Tensor:
    """The weighted sum of the entries that have the elected sign, divided by their number.

    The sign is elected before the entries are weighed, and is positive in a draw.
    """
    votes = torch.zeros_like(tensors[0])
    for tensor in tensors:
        votes += tensor if election == "total" else tensor.sign()
    elected = torch.where(votes >= 0, 1.0, -1.0)
    tell("elected sign", elected, "entry")
    total, count = torch.zeros_like(votes), torch.zeros_like(votes)
    for weight, tensor in zip(weights, tensors, strict=True):
        agrees = tensor.sign() == elected
        total += torch.where(agrees, weight * tensor, 0.0)
        count += agrees
    tell("adapters that agree", count, "entry")
    return total / count.clamp(min=1)
