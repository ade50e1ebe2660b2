"""TIES-Merging: Resolving Interference When Merging Models (Yadav et al., 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np

from merging.lazy import torch
from merging.method import Blend, Group, Groups, Kernel, method
from merging.params import Density, Param, Scaling, Weight
from merging.ranking import order_statistics
from merging.vectors import Picked, count_magnitudes, magnitudes, total

if TYPE_CHECKING:
    from torch import Tensor

Sign = Annotated[
    Literal["mass", "normfrac", "normmass"],
    Param("Sign rule", "Whose sign wins: the larger sum, the largest share of an expert, or the larger sum of shares."),
]
Merge = Annotated[
    Literal["mean", "sum", "max"],
    Param("Merge rule", "What becomes of the entries that agree with the elected sign."),
]


Variant = Annotated[
    Literal["release", "mergekit"],
    Param("Variant", "The authors' code, or mergekit's reading: one entry less is kept, and draws are positive."),
]


class Trim(NamedTuple):
    """What must be known of the whole scope before an entry can be merged."""

    thresholds: Tensor  # (experts): an entry below is trimmed
    norms: Tensor  # (experts): of the trimmed task vectors, where the sign rule asks for them
    majority: Tensor  # (): the sign that an entry gets whose election is a draw


def survey(groups: Groups, *, density: Density = 0.2, sign: Sign = "mass", variant: Variant = "release") -> Trim:
    """Rank the magnitudes of each task vector, then count the signs that the trimmed entries elect."""
    thresholds = _thresholds(groups, density, variant)
    trim = Trim(thresholds, torch.zeros_like(thresholds), torch.ones(()))
    if sign != "mass":
        picked = Picked(trim)
        kept = groups.sum(lambda group: _squares(group, picked.of(group)))
        trim = trim._replace(norms=kept.sqrt().float())
    if variant == "mergekit":
        return trim
    whole = Picked(trim)
    return trim._replace(majority=groups.sum(lambda group: _balance(group, whole.of(group), sign)).sign().float())


def fused(survey: Trim, values: dict[str, Any]) -> Kernel | None:
    """The merge of a tile in one go, for the usual rules."""
    if values["sign"] != "mass" or values["merge"] == "max":
        return None
    from merging.kernels import ties as kernel

    thresholds, weight, averaged = survey.thresholds.numpy(), values["weight"].numpy(), values["merge"] == "mean"
    numbers = (float(survey.majority), values["scaling"], float(_least(values["weight"])))
    majority, scaling, least = (np.float32(number) for number in numbers)
    return lambda bits, out: kernel.merge(bits, thresholds, weight, majority, scaling, averaged, least, out)


@method(
    title="TIES-Merging",
    paper="https://arxiv.org/abs/2306.01708",
    formula=r"W = W_0 + \lambda\,\tau_m, \qquad"
    r"\tau_{m,p} = \operatorname{mean}\{\hat\tau_{i,p} : \operatorname{sign}\hat\tau_{i,p} = \gamma_p\}, \qquad"
    r"\gamma_p = \operatorname{sign}\sum_i \hat\tau_{i,p}",
    survey=survey,
    fused=fused,
)
def ties(
    base: Tensor,
    experts: Tensor,
    survey: Trim,
    *,
    scaling: Scaling = 1.0,
    sign: Sign = "mass",
    merge: Merge = "mean",
    weight: Weight,
) -> Blend:
    """Trims each task vector to its largest entries, elects one sign per entry, and averages those that agree."""
    tau = _trimmed(experts - base, survey.thresholds)
    gamma = _elect(tau, survey, sign, weight)
    gamma = torch.where(gamma == 0, survey.majority, gamma)
    weighted = weight[:, None] * tau
    # Where the majority is a draw, too, the authors' comparison falls to the negative side.
    agrees = torch.where(gamma > 0, weighted > 0, weighted < 0)
    if merge == "max":
        return Blend(_largest(torch.where(agrees & (gamma != 0), weighted, 0.0)), 1.0, scaling)
    parts = torch.where(agrees, weighted, 0.0)
    if merge == "sum":
        return Blend(parts, 1.0, scaling)
    count = total(weight[:, None] * agrees)
    nothing = count.abs() <= _least(weight)  # no expert, or weights that cancel but for rounding
    return Blend(parts, torch.where(nothing, 1.0, count), scaling)


def _least(weight: Tensor) -> Tensor:
    return 1e-6 * weight.abs().sum()


def _thresholds(groups: Groups, density: list[float], variant: str) -> Tensor:
    def ranks(entries: int, expert: int) -> list[int]:
        # The (d - k)-th smallest, counted from 1, as in the code: k + 1 entries stay. mergekit keeps k, ties aside.
        kept = int(entries * density[expert]) + (variant == "release")
        return [min(max(entries - kept, 0), entries - 1)]

    return order_statistics(groups, magnitudes, ranks, count_magnitudes)[:, 0]


def _trimmed(tau: Tensor, thresholds: Tensor) -> Tensor:
    return torch.where(tau.abs() >= thresholds[:, None], tau, 0.0)


def _squares(group: Group, trim: Trim) -> Tensor:
    return _trimmed(group.tau, trim.thresholds).cpu().double().square().sum(1)


def _balance(group: Group, trim: Trim, sign: str) -> Tensor:
    """How many more entries elect a positive sign than a negative one."""
    if group.fused and sign == "mass":
        from merging.kernels import ties as kernel

        balance = kernel.balance(group.bits, trim.thresholds.numpy(), group.weight.numpy())
        return torch.tensor(balance, dtype=torch.float64)
    elected = _elect(_trimmed(group.tau, trim.thresholds), trim, sign, group.weight.to(group.device))
    return elected.cpu().double().sum()


def _elect(tau: Tensor, trim: Trim, sign: str, weight: Tensor) -> Tensor:
    """The sign each entry is given, (entries); 0 where the election is a draw."""
    if sign == "mass":
        return total(weight[:, None] * tau).sign()
    # Differs: an expert without a task vector has no share of its norm, and takes no part; the code elects by NaN.
    votes = (trim.norms > 0) & (weight != 0)
    share = tau.square() / torch.where(votes, trim.norms, torch.inf)[:, None].square()
    signs = weight.sign()[:, None] * tau.sign()
    if sign == "normmass":
        return total(signs * share).sign()
    return signs.gather(0, share.argmax(0, keepdim=True))[0]


def _largest(parts: Tensor) -> Tensor:
    """Only the part of largest magnitude at each entry, the first expert's on ties."""
    winner = parts.abs().argmax(0, keepdim=True)
    return torch.zeros_like(parts).scatter_(0, winner, parts.gather(0, winner))
