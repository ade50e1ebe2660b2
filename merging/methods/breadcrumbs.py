"""Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks (Davari and Belilovsky, 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from merging.lazy import torch
from merging.method import Bits, Blend, Group, Groups, method
from merging.params import Normalize, Param, Scaling, Weight
from merging.ranking import order_statistics
from merging.sparse import ADDED, ELECTED, Merge, added, agreed, fused_by, restoring
from merging.trace import tell
from merging.vectors import count_magnitudes, magnitudes

if TYPE_CHECKING:
    from torch import Tensor

Kept = Annotated[  # one number per expert
    Any,
    Param("Density ρ", "Share of each task vector that is kept.", low=0.01, by_expert=True, limits=(0.0, 1.0)),
]
Gamma = Annotated[  # one number per expert
    Any,
    Param(
        "Outliers γ",
        "Share of each task vector that is dropped, largest magnitudes first.",
        high=0.1,
        step=0.005,
        by_expert=True,
        limits=(0.0, 1.0),
    ),
]
Rescale = Annotated[
    Literal["none", "l1"],
    Param("Rescale", "What makes up for dropped entries: nothing, or what restores the sum of magnitudes."),
]


class Trail(NamedTuple):
    """The magnitudes that are kept, and what these are divided by; each is (experts)."""

    low: Tensor
    high: Tensor
    divisor: Tensor


def survey(groups: Groups, *, density: Kept = 0.9, gamma: Gamma = 0.01, rescale: Rescale = "none") -> Trail:
    """Rank the magnitudes of each task vector, and find the ends of those that are kept."""

    def ends(entries: int, expert: int) -> list[int]:
        # Differs: one entry stays where ρ leaves none, and all of the largest where γ takes none; mergekit drops the
        # whole tensor then.
        kept = max(int(entries * density[expert]), 1)
        top = min(int(entries * gamma[expert]), entries - kept)
        return [entries - top - kept, max(entries - top - 1, 0)]

    low, high = order_statistics(groups, magnitudes, ends, count_magnitudes).T
    trail = Trail(low, high, torch.ones_like(low))
    return trail._replace(divisor=restoring(groups, trail, _fill, _plain)) if rescale == "l1" else trail


def _fill(trail: Trail, group: Group, kept: Bits) -> bool:
    from merging.kernels import sparse as kernel

    finite: bool = kernel.trimmed(group.bits, *(part.numpy() for part in trail), kept)
    return finite


def _plain(trail: Trail, group: Group) -> Tensor:
    return _kept(group.tau, trail)


_FORMULA = r"\hat\tau_i = \tau_i \odot \big[\,a_i \le |\tau_i| \le b_i\,\big]"
_WHERE = (
    "$b_i$ is the magnitude that leaves the largest entries out, a share of `gamma`, and $a_i$ the one that leaves a "
    r"share $\rho_i$ of all entries below it. With `rescale: l1`, what is kept is divided by its share of the sum of "
    "magnitudes."
)


@method(
    title="Breadcrumbs",
    paper="https://arxiv.org/abs/2312.06795",
    formula=r"W = W_0 + \lambda \sum_i w_i \hat\tau_i, \qquad " + _FORMULA,
    where=_WHERE + ADDED,
    use="when a few huge changes spoil a merge: they are dropped together with the smallest. Its values need "
    "little tuning when experts are added.",
    differs="Where γ takes less than one entry, nothing is cut above, and where ρ leaves none, one entry stays; "
    "mergekit drops all of the tensor then. Magnitudes that tie at an end are all kept.",
    survey=survey,
    fused=fused_by(_fill),
    scope="tensor",
)
def breadcrumbs(
    base: Tensor,
    experts: Tensor,
    survey: Trail,
    *,
    scaling: Scaling = 1.0,
    normalize: Normalize = False,
    weight: Weight,
) -> Blend:
    """Drops the largest entries of each task vector, which are outliers, and the smallest, and adds up the rest."""
    return added(_kept(experts - base, survey), weight, scaling, normalize)


@method(
    title="Breadcrumbs-TIES",
    paper="https://arxiv.org/abs/2312.06795",
    formula=r"\begin{gathered}W_p = W_{0,p} + \lambda\,\textstyle\sum_{i \in A_p} w_i \hat\tau_{i,p}, "
    rf"\qquad {_FORMULA}, \\{ELECTED}\end{{gathered}}",
    where=_WHERE
    + r" $\gamma_p$ is the sign that entry $p$ is given, positive where the sum is 0, and $A_p$ are the experts "
    r"that agree with it; with `merge: mean`, what they add is divided by the sum of their $w_i$.",
    use="like Breadcrumbs, where experts also contradict each other in sign.",
    differs="As with Breadcrumbs, whose authors have no election; it is mergekit's.",
    survey=survey,
    fused=fused_by(_fill),
    scope="tensor",
)
def breadcrumbs_ties(
    base: Tensor,
    experts: Tensor,
    survey: Trail,
    *,
    scaling: Scaling = 1.0,
    merge: Merge = "sum",
    weight: Weight,
) -> Blend:
    """Drops the largest and the smallest entries of each task vector, elects one sign per entry, and adds up those that
    agree.
    """
    return agreed(_kept(experts - base, survey), weight, scaling, merge)


def _kept(tau: Tensor, trail: Trail) -> Tensor:
    size = tau.abs()
    kept = (size >= trail.low[:, None]) & (size <= trail.high[:, None])
    masked = torch.where(kept, tau / trail.divisor[:, None], 0.0)
    tell("smallest kept", trail.low, "expert")
    tell("largest kept", trail.high, "expert")
    tell("masked", masked)
    return masked
