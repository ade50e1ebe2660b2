"""TIES-Merging: Resolving Interference When Merging Models (Yadav et al., 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np

from merging.lazy import torch
from merging.method import Blend, Group, Groups, Kernel, method
from merging.params import Density, Param, Scaling, Weight
from merging.ranking import order_statistics
from merging.sparse import ELECTED, MEAN
from merging.trace import tell
from merging.vectors import Picked, count_magnitudes, disjoint, largest, least, magnitudes, total

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
    numbers = (float(survey.majority), values["scaling"], float(least(values["weight"])))
    majority, scaling, small = (np.float32(number) for number in numbers)
    return lambda group, out: kernel.merge(group.bits, thresholds, weight, majority, scaling, averaged, small, out)


@method(
    title="TIES-Merging",
    paper="https://arxiv.org/abs/2306.01708",
    formula=rf"\begin{{gathered}}{MEAN}, \qquad "
    rf"\hat\tau_i = \big[\,|\tau_i| \ge t_i\,\big] \odot \tau_i, \\{ELECTED}\end{{gathered}}",
    where=r"$t_i$ is the magnitude that leaves a share $\rho_i$ of the entries, $\gamma_p$ the sign that entry $p$ is "
    r"given, and $A_p$ are the experts that agree with it. Where the sum is 0, $\gamma_p$ is the sign that most "
    "entries elect. That is with `sign: mass` and `merge: mean`: `sum` leaves the divisor out, and `max` takes the "
    r"largest $w_i \hat\tau_{i,p}$ of $A_p$. The other sign rules elect by shares of squared norms, where of $w_i$ "
    "the sign counts.",
    use="when several experts of one base contradict each other in sign, which plain addition turns into "
    "nothing. A scaling between 1 and 2 is usual; a smaller density helps when there are many experts.",
    differs="An expert without a task vector takes no part in the elections by norms, where the code elects by NaN; "
    "a density of 1 trims nothing, where the code fails. A weight for each expert is an addition, after "
    "mergekit's; so is the variant of that name.",
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
    tell("threshold", survey.thresholds, "expert")
    tell("trimmed", tau)
    gamma = _elect(tau, survey, sign, weight)
    gamma = torch.where(gamma == 0, survey.majority, gamma)
    tell("elected sign", gamma, "entry")
    weighted = weight[:, None] * tau
    # Where the majority is a draw, too, the authors' comparison falls to the negative side.
    agrees = torch.where(gamma > 0, weighted > 0, weighted < 0)
    if merge == "max":
        return Blend(largest(torch.where(agrees & (gamma != 0), weighted, 0.0)), 1.0, scaling)
    return Blend(*disjoint(weighted, agrees, weight, merge), scaling)


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
