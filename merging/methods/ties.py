"""TIES-Merging: Resolving Interference When Merging Models (Yadav et al., 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from merging.lazy import torch
from merging.method import Blend, Group, Groups, method
from merging.params import Density, Param, Scaling, Weight
from merging.vectors import magnitudes, order_statistics

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


class Trim(NamedTuple):
    """What must be known of the whole scope before an entry can be merged."""

    thresholds: Tensor  # (experts): an entry below is trimmed
    norms: Tensor  # (experts): of the trimmed task vectors, where the sign rule asks for them
    majority: Tensor  # (): the sign that an entry gets whose election is a draw


def survey(groups: Groups, *, density: Density = 0.2, sign: Sign = "mass", weight: Weight) -> Trim:
    """Rank the magnitudes of each task vector, then count the signs that the trimmed entries elect."""
    thresholds = _thresholds(groups, density)
    trim = Trim(thresholds, torch.zeros_like(thresholds), torch.zeros(()))
    if sign != "mass":
        squares = groups.total(lambda group: _trim(group, thresholds).double().square().sum(1))
        trim = trim._replace(norms=squares.sqrt().float())
    balance = groups.total(lambda group: _elect(_trim(group, thresholds), trim, sign, weight).double().sum())
    return trim._replace(majority=balance.sign().float())


@method(
    title="TIES-Merging",
    paper="https://arxiv.org/abs/2306.01708",
    formula=r"W = W_0 + \lambda\,\tau_m, \qquad"
    r"\tau_{m,p} = \operatorname{mean}\{\hat\tau_{i,p} : \operatorname{sign}\hat\tau_{i,p} = \gamma_p\}, \qquad"
    r"\gamma_p = \operatorname{sign}\sum_i \hat\tau_{i,p}",
    survey=survey,
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
    tau = _trim(Group("", base, experts), survey.thresholds)
    gamma = _elect(tau, survey, sign, weight)
    gamma = torch.where(gamma == 0, survey.majority, gamma)
    weighted = weight[:, None] * tau
    # Where the majority is a draw, too, the authors' comparison falls to the negative side.
    agrees = torch.where(gamma > 0, weighted > 0, weighted < 0)
    if merge == "max":
        return Blend(_largest(weighted * (agrees & (gamma != 0))), 1.0, scaling)
    parts = weighted * agrees
    if merge == "sum":
        return Blend(parts, 1.0, scaling)
    count = (weight[:, None] * agrees).sum(0)
    nothing = count.abs() <= 1e-6 * weight.abs().sum()  # no expert, or weights that cancel but for rounding
    return Blend(parts, torch.where(nothing, 1.0, count), scaling)


def _thresholds(groups: Groups, density: float) -> Tensor:
    def ranks(entries: int) -> list[int]:
        # The (d - k)-th smallest, counted from 1, as in the code: k + 1 entries stay. Where k is 0 the largest does.
        return [max(entries - int(entries * density) - 1, 0)]

    values, _ = order_statistics(groups, magnitudes, ranks)
    return values[:, 0]


def _trim(group: Group, thresholds: Tensor) -> Tensor:
    tau = group.tau
    return torch.where(tau.abs() >= thresholds[:, None], tau, 0.0)


def _elect(tau: Tensor, trim: Trim, sign: str, weight: Tensor) -> Tensor:
    """The sign each entry is given, (entries); 0 where the election is a draw."""
    if sign == "mass":
        return (weight[:, None] * tau).sum(0).sign()
    # Differs: an expert without a task vector has no share of its norm, and takes no part; the code elects by NaN.
    votes = (trim.norms > 0) & (weight != 0)
    share = tau.square() / torch.where(votes, trim.norms, torch.inf)[:, None].square()
    signs = weight.sign()[:, None] * tau.sign()
    if sign == "normmass":
        return (signs * share).sum(0).sign()
    return signs.gather(0, share.argmax(0, keepdim=True))[0]


def _largest(parts: Tensor) -> Tensor:
    """Only the part of largest magnitude at each entry, the first expert's on ties."""
    winner = parts.abs().argmax(0, keepdim=True)
    return torch.zeros_like(parts).scatter_(0, winner, parts.gather(0, winner))
