"""DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling (Deep et al., 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from merging.draws import Generator
from merging.errors import MergeError
from merging.lazy import torch
from merging.method import Bits, Blend, Group, Groups, method
from merging.params import Normalize, Param, Scaling, Weight
from merging.sparse import (
    ADDED,
    AGREED,
    DRAWN,
    ELECTED,
    MEAN,
    Chance,
    Merge,
    Rescale,
    added,
    agreed,
    fused_by,
    restoring,
)
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor

Epsilon = Annotated[  # one number per expert
    Any,
    Param(
        "Epsilon ε",
        "How much likelier than the density the largest entry of a row is kept, and the smallest less.",
        high=0.5,
        by_expert=True,
    ),
]


class Odds(NamedTuple):
    """How entries are dropped, and what makes up for that; each is (experts)."""

    lowest: Tensor  # the chance of a row's smallest entry to be kept
    highest: Tensor  # and of its largest
    divisor: Tensor  # of what is kept; 0 for the chance that it had


def survey(groups: Groups, *, density: Chance = 0.5, epsilon: Epsilon = 0.05, rescale: Rescale = "probability") -> Odds:
    """How likely entries are kept; and how much of the sum of magnitudes that leaves, where it shall be restored."""
    ends = torch.tensor([_ends(*told) for told in zip(density, epsilon, strict=True)], dtype=torch.float32)
    odds = Odds(ends[:, 0], ends[:, 1], torch.zeros(len(ends)))
    if rescale == "probability":
        return odds
    odds = odds._replace(divisor=torch.ones(len(ends)))
    return odds._replace(divisor=restoring(groups, odds, _fill, _plain)) if rescale == "l1" else odds


def _fill(odds: Odds, group: Group, kept: Bits) -> bool:
    from merging.kernels import della as kernel

    known = group.row, chances(odds, group.row).numpy(), odds.divisor.numpy()
    finite: bool = kernel.sampled(group.bits, group.generator.keys, group.start, *known, kept)
    return finite


def _plain(odds: Odds, group: Group) -> Tensor:
    return _kept(group.tau, odds, group.row, group.generator)


def _ends(density: float, epsilon: float) -> tuple[float, float]:
    """The chances of a row's smallest and of its largest entry."""
    if density in (0, 1):
        return density, density
    if not 0 < density - epsilon <= density + epsilon < 1:
        raise MergeError(
            f"Epsilon ε is {epsilon:g} and density ρ {density:g}, but ρ - ε and ρ + ε must lie between 0 and 1. "
            "Lower epsilon, or bring the density nearer to 0.5."
        )
    return density - epsilon, density + epsilon


_KEPT = r"\hat\tau_i = m_i \odot \tau_i / q_i"
_CHANCE = (
    r"m_i \sim \operatorname{Bernoulli}(q_i), \qquad "
    r"q_i = \rho_i - \epsilon_i + 2\epsilon_i\, \frac{r_i - 1}{c - 1}"
)
_WHERE = (
    "$r_i$ are the ranks of the magnitudes in their row, from 1 for the smallest to $c$, the row's length, and "
    r"$\epsilon_i$ is the expert's epsilon; in a row of one entry, $q_i$ is $\rho_i$. $m_i$ is drawn for each entry, "
    "1 with probability $q_i$ and else 0. With `rescale: l1`, the share of the sum of magnitudes that is kept stands "
    "in place of the divisor $q_i$, and 1 with `none`."
)
_DIFFERS = DRAWN + " Entries of a row that are equal rank by their place."


@method(
    title="DELLA",
    paper="https://arxiv.org/abs/2406.11617",
    formula=rf"\begin{{gathered}}{MEAN}, \qquad {_KEPT}, \\{_CHANCE}, \\{ELECTED}\end{{gathered}}",
    where=_WHERE + AGREED,
    use="like DARE-TIES, where large changes should be dropped less often than small ones; that matters at "
    "low densities.",
    differs=_DIFFERS,
    survey=survey,
    fused=fused_by(_fill),
    scope="tensor",
)
def della(
    base: Tensor,
    experts: Tensor,
    survey: Odds,
    row: int,
    generator: Generator,
    *,
    scaling: Scaling = 1.0,
    merge: Merge = "mean",
    weight: Weight,
) -> Blend:
    """Drops entries of the task vectors at random, the small ones of a row more often than the large ones, rescales the
    others, elects one sign per entry, and averages those that agree.
    """
    return agreed(_kept(experts - base, survey, row, generator), weight, scaling, merge)


@method(
    title="DELLA, linear",
    paper="https://arxiv.org/abs/2406.11617",
    formula=r"\begin{gathered}W = W_0 + \lambda\,\textstyle\sum_i w_i \hat\tau_i, \qquad "
    rf"{_KEPT}, \\{_CHANCE}\end{{gathered}}",
    where=_WHERE + ADDED,
    use="like DARE, where large changes should be dropped less often than small ones, and signs hardly conflict.",
    differs=_DIFFERS,
    survey=survey,
    fused=fused_by(_fill),
    scope="tensor",
)
def della_linear(
    base: Tensor,
    experts: Tensor,
    survey: Odds,
    row: int,
    generator: Generator,
    *,
    scaling: Scaling = 1.0,
    normalize: Normalize = False,
    weight: Weight,
) -> Blend:
    """Drops entries of the task vectors at random, the small ones of a row more often than the large ones, rescales the
    others, and adds all up.
    """
    return added(_kept(experts - base, survey, row, generator), weight, scaling, normalize)


def _kept(tau: Tensor, odds: Odds, row: int, generator: Generator) -> Tensor:
    ranks = tau.abs().reshape(len(tau), -1, row).argsort(dim=2, stable=True).argsort(2)  # equal ones by their place
    by_rank = chances(odds, row)
    chance = torch.stack([by_rank[expert][ranks[expert]] for expert in range(len(tau))]).reshape(tau.shape)
    divisor = torch.where(odds.divisor[:, None] > 0, odds.divisor[:, None], chance)
    kept = generator.uniforms() < chance
    rescaled = torch.where(kept, tau / divisor, 0.0)
    tell("rank in its row", ranks.reshape(tau.shape))
    tell("chance to be kept", chance)
    tell("drawn", kept)
    tell("dropped and rescaled", rescaled)
    return rescaled


def chances(odds: Odds, row: int) -> Tensor:
    """The chance of each rank in a row of that length to be kept, (experts, row), the smallest magnitude first."""
    lowest, highest = odds.lowest[:, None], odds.highest[:, None]
    if row == 1:
        return (lowest + highest) / 2
    return lowest + (highest - lowest) * torch.arange(row, device=lowest.device) / (row - 1)
