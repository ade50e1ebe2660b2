"""DARE: Language Models are Super Mario (Yu et al., 2023), with task arithmetic or with TIES' election behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from merging.draws import Generator
from merging.lazy import torch
from merging.method import Bits, Blend, Group, Groups, method
from merging.params import Normalize, Scaling, Weight
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


class Odds(NamedTuple):
    """How entries are dropped, and what makes up for that; each is (experts)."""

    chance: Tensor  # of an entry to be kept
    divisor: Tensor  # of what is kept


def survey(groups: Groups, *, density: Chance = 0.5, rescale: Rescale = "probability") -> Odds:
    """How much is kept; and how much of the sum of magnitudes that is, where it shall be restored."""
    chance = torch.tensor(density, dtype=torch.float32)
    odds = Odds(chance, torch.ones_like(chance))
    if rescale == "probability":
        return odds._replace(divisor=torch.where(chance > 0, chance, 1.0))
    return odds._replace(divisor=restoring(groups, odds, _fill, _plain)) if rescale == "l1" else odds


def _fill(odds: Odds, group: Group, kept: Bits) -> bool:
    from merging.kernels import sparse as kernel

    known = group.generator.keys, group.start, odds.chance.numpy(), odds.divisor.numpy()
    finite: bool = kernel.dropped(group.bits, *known, kept)
    return finite


def _plain(odds: Odds, group: Group) -> Tensor:
    return _kept(group.tau, odds, group.generator)


_FORMULA = r"\hat\tau_i = m_i \odot \tau_i / \rho_i, \qquad m_i \sim \operatorname{Bernoulli}(\rho_i)"
_WHERE = (
    r"$m_i$ is drawn for each entry, 1 with probability $\rho_i$ and else 0. With `rescale: l1`, the share of the sum "
    r"of magnitudes that is kept stands in place of the divisor $\rho_i$, and 1 with `none`."
)


@method(
    title="DARE",
    paper="https://arxiv.org/abs/2311.03099",
    formula=r"W = W_0 + \lambda \sum_i w_i \hat\tau_i, \qquad " + _FORMULA,
    where=_WHERE + ADDED,
    use="before adding up experts whose changes are small, as those of instruction tuning are: most of them "
    "can be dropped at random, and what is left collides less. Where changes are large, as after long "
    "training, little may be dropped.",
    differs=DRAWN,
    survey=survey,
    fused=fused_by(_fill),
    scope="tensor",
)
def dare_linear(
    base: Tensor,
    experts: Tensor,
    survey: Odds,
    generator: Generator,
    *,
    scaling: Scaling = 1.0,
    normalize: Normalize = False,
    weight: Weight,
) -> Blend:
    """Drops entries of the task vectors at random, rescales the others to make up for it, and adds all up."""
    return added(_kept(experts - base, survey, generator), weight, scaling, normalize)


@method(
    title="DARE-TIES",
    paper="https://arxiv.org/abs/2311.03099",
    formula=rf"\begin{{gathered}}{MEAN}, \qquad {_FORMULA}, \\{ELECTED}\end{{gathered}}",
    where=_WHERE + AGREED,
    use="like DARE, where experts also contradict each other in sign.",
    differs=DRAWN + " Nothing is trimmed before the election, as in mergekit.",
    survey=survey,
    fused=fused_by(_fill),
    scope="tensor",
)
def dare_ties(
    base: Tensor,
    experts: Tensor,
    survey: Odds,
    generator: Generator,
    *,
    scaling: Scaling = 1.0,
    merge: Merge = "mean",
    weight: Weight,
) -> Blend:
    """Drops entries of the task vectors at random, rescales the others, elects one sign per entry, and averages those
    that agree.
    """
    return agreed(_kept(experts - base, survey, generator), weight, scaling, merge)


def _kept(tau: Tensor, odds: Odds, generator: Generator) -> Tensor:
    kept = generator.uniforms() < odds.chance[:, None]
    rescaled = torch.where(kept, tau / odds.divisor[:, None], 0.0)
    tell("chance to be kept", odds.chance, "expert")
    tell("drawn", kept)
    tell("dropped and rescaled", rescaled)
    return rescaled
