"""PCB-Merging: Parameter Competition Balancing for Model Merging (Du et al., 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np

from merging import kernels
from merging.lazy import torch
from merging.method import Blend, Group, Groups, Kernel, method
from merging.params import Param, Scaling, Weight
from merging.ranking import order_statistics
from merging.trace import tell
from merging.vectors import Picked, count_magnitudes, magnitudes, total

if TYPE_CHECKING:
    from torch import Tensor

Ratio = Annotated[float, Param("Ratio r", "Share of each task vector that survives the competition.", low=0.01)]
Clamp = Annotated[
    float | None,
    Param("Clamp share", "Share clamped at both ends of the magnitudes; the variant's own if empty.", high=0.1),
]
Variant = Annotated[
    Literal["release", "nlp", "vision", "pairwise"],
    Param("Variant", "How agreement between experts is measured: the four forms in the authors' code."),
]
_KINDS = {"release": 0, "nlp": 0, "vision": 1, "pairwise": 2}  # in the kernels
CLAMP = {"release": 1e-4, "nlp": 1e-2, "vision": 1e-2, "pairwise": 1e-2}


class Competition(NamedTuple):
    """What must be known of the whole scope before an entry can be merged; each is (experts)."""

    moved: Tensor  # whether the task vector has an entry that is not zero; the others take no part
    low: Tensor  # magnitudes are clamped between `low` and `high`
    high: Tensor
    threshold: Tensor  # the score below which an entry is dropped
    best: Tensor  # the highest score


def survey(groups: Groups, *, ratio: Ratio = 0.1, variant: Variant = "release", clamp: Clamp = None) -> Competition:
    """Find the bounds of the magnitudes; then score every entry, and find the threshold and the best score."""
    share = CLAMP[variant] if clamp is None else clamp

    def bounds(entries: int, _: int) -> list[int]:
        return [min(int(entries * share), entries - 1), max(int(entries * (1 - share) - 1), 0), entries - 1]

    low, high, largest = order_statistics(groups, magnitudes, bounds, count_magnitudes).T
    competition = Competition(largest > 0, low, high, torch.zeros_like(low), torch.zeros_like(low))

    def threshold(entries: int, _: int) -> list[int]:
        return [max(min(int(entries * (1 - ratio)), entries - 2), 0), entries - 1]

    picked = Picked(competition)
    scores = order_statistics(
        groups,
        lambda group: _scores(group, picked.of(group), variant),
        threshold,
        lambda group, *counting: _count_scores(group, picked.of(group), variant, *counting),
    )
    return competition._replace(threshold=scores[:, 0], best=scores[:, 1])


def fused(survey: Competition, values: dict[str, Any]) -> Kernel:
    """The merge of a tile in one go."""
    from merging.kernels import pcb as kernel

    kind, known = _KINDS[values["variant"]], [part.numpy() for part in survey]  # moved, low, high, threshold, best
    scalings = (values["scaling"] * values["weight"]).numpy()
    return lambda group, out: kernel.merge(group.bits, kind, *known, scalings, out)


@method(
    title="PCB-Merging",
    paper="https://arxiv.org/abs/2410.02396",
    formula=r"\begin{gathered}W = W_0 + \lambda\,\frac{\sum_i w_i\, S_i \odot c_i}{\sum_i S_i}, \qquad "
    r"S_i = \frac{\max(\beta_i,\, t_i) - t_i}{b_i - t_i}, \\"
    r"\beta_i = \exp(n N_i^2) \odot \tanh\!\big(\tau_i \odot \textstyle\sum_j \tau_j\big)\end{gathered}",
    where=r"$c_i$ is $\tau_i$ with the magnitudes of its largest and smallest entries clamped, and $N_i$ are these "
    r"magnitudes, shifted and scaled to go from 0 to 1. $\beta_i$ are the scores of the entries, $b_i$ is the best of "
    "them, and $t_i$ the one that a share $r$ (`ratio`) exceeds; so $S_i$ is 0 for what is dropped and 1 for the "
    r"best. $n$ counts the experts that moved. With `vision`, the sum is of $\operatorname{sign}\tau_j \odot N_j$; "
    r"with `pairwise`, the score has $\sum_j \tanh(\operatorname{sign}\tau_i \odot N_i \odot "
    r"\operatorname{sign}\tau_j \odot N_j)$ in place of the tanh.",
    use="when experts overlap and one wants the strongest and least disputed entries only: a ratio of 5 to 20 "
    "percent keeps few, at their full strength. It takes longer than TIES, since every entry is scored.",
    differs="Experts that did not move are left out, equal magnitudes count as the largest, and equal scores at the "
    "top as 1, all of which the code divides by zero; exponents are lowered by a common factor that cancels, "
    "so that many experts do not overflow. The search for weights by evaluation is not part of it.",
    survey=survey,
    fused=fused,
)
def pcb(
    base: Tensor,
    experts: Tensor,
    survey: Competition,
    *,
    scaling: Scaling = 1.0,
    variant: Variant = "release",
    weight: Weight,
) -> Blend:
    """Scores every entry by its size within its expert and its agreement with the others, and drops the low scores.

    What survives is averaged, each entry counting by its score; a lone survivor keeps its full strength.
    """
    tau = experts - base
    strength = _strength(tau, survey, variant)
    tell("kept", strength)
    clamped = tau.sign() * _clamped(tau, survey)
    tell("clamped", clamped)
    parts = (scaling * weight)[:, None] * strength * clamped
    return Blend(parts, total(strength).clamp(min=1e-12))


def _clamped(tau: Tensor, bounds: Competition) -> Tensor:
    return tau.abs().clamp(bounds.low[:, None], bounds.high[:, None])


def _scores(group: Group, competition: Competition, variant: str) -> Tensor:
    """The score of every entry of a tile. Valid until the thread asks for the next ones."""
    if not group.fused:
        return scores(group.tau, competition, variant)
    from merging.kernels import pcb as kernel

    out = kernels.scratch("values", (len(group.which), group.size), np.float32)
    kernel.score(group.bits, _KINDS[variant], *(values.numpy() for values in competition[:3]), out)
    return torch.from_numpy(out)


def _count_scores(group: Group, competition: Competition, variant: str, *counting: Any) -> None:
    from merging.kernels import pcb as kernel

    kernel.tally(group.bits, _KINDS[variant], *(values.numpy() for values in competition[:3]), *counting)


def scores(tau: Tensor, bounds: Competition, variant: str) -> Tensor:
    """How each entry fares: by its size within its expert, and by its agreement with the others; may be negative."""
    low, high = bounds.low[:, None], bounds.high[:, None]
    spread = high - low
    normal = torch.where(spread > 0, (_clamped(tau, bounds) - low) / spread, 1.0)
    experts = bounds.moved.sum()
    intra = torch.exp(experts * (normal.square() - 1))  # the factor exp(-n) cancels below, and nothing overflows
    agreement = _agreement(tau, normal, bounds.moved, variant)
    tell("magnitude", normal)
    tell("agreement", agreement)
    return intra * agreement


def _agreement(tau: Tensor, normal: Tensor, moved: Tensor, variant: str) -> Tensor:
    """How well each entry goes with those of the others, by its sign and size; less than 0 where they disagree."""
    if variant in ("release", "nlp"):
        return torch.tanh(tau * total(tau))
    sigma = torch.where(moved[:, None], tau.sign() * normal, 0.0)
    if variant == "vision":
        return torch.tanh(tau * total(sigma))
    return torch.stack([total(torch.tanh(row * sigma)) for row in sigma])


def _strength(tau: Tensor, competition: Competition, variant: str) -> Tensor:
    """How much each entry counts, from 0 for a dropped one to 1 for its expert's best."""
    score = scores(tau, competition, variant)
    tell("score", score)
    tell("threshold", competition.threshold, "expert")
    threshold, best = competition.threshold[:, None], competition.best[:, None]
    spread = best - threshold
    # Where the best score is the threshold, the released code divides 0 by 0: those entries count fully here.
    ranked = torch.where(spread > 0, (score.maximum(threshold) - threshold) / spread, (score >= threshold).float())
    return torch.where(competition.moved[:, None], ranked, 0.0)
