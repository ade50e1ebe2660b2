"""PCB-Merging: Parameter Competition Balancing for Model Merging (Du et al., 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from merging.lazy import torch
from merging.method import Blend, Group, Groups, method
from merging.params import Param, Scaling, Weight
from merging.vectors import magnitudes, order_statistics

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

    def bounds(entries: int) -> list[int]:
        return [min(int(entries * share), entries - 1), max(int(entries * (1 - share) - 1), 0), entries - 1]

    limits, _ = order_statistics(groups, magnitudes, bounds)
    low, high, largest = limits.T
    competition = Competition(largest > 0, low, high, torch.zeros_like(low), torch.zeros_like(low))

    def threshold(entries: int) -> list[int]:
        return [max(min(int(entries * (1 - ratio)), entries - 2), 0), entries - 1]

    scores, _ = order_statistics(groups, lambda group: _scores(group, competition, variant), threshold)
    return competition._replace(threshold=scores[:, 0], best=scores[:, 1])


@method(
    title="PCB-Merging",
    paper="https://arxiv.org/abs/2410.02396",
    formula=r"W = W_0 + \frac{\sum_i \lambda_i\, S_i \odot c_i}{\sum_i S_i}, \qquad"
    r"\beta_i = e^{\,n N_i^2} \odot \tanh\!\big(\tau_i \odot \textstyle\sum_j \tau_j\big)",
    survey=survey,
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
    group = Group("", base, experts)
    strength = _strength(group, survey, variant)
    clamped = group.tau.sign() * _clamped(group, survey)
    parts = (scaling * weight)[:, None] * strength * clamped
    return Blend(parts, strength.sum(0).clamp(min=1e-12))


def _clamped(group: Group, bounds: Competition) -> Tensor:
    return magnitudes(group).clamp(bounds.low[:, None], bounds.high[:, None])


def _scores(group: Group, bounds: Competition, variant: str) -> Tensor:
    tau = group.tau
    low, high = bounds.low[:, None], bounds.high[:, None]
    spread = high - low
    normal = torch.where(spread > 0, (_clamped(group, bounds) - low) / spread, 1.0)
    experts = bounds.moved.sum()
    intra = torch.exp(experts * (normal.square() - 1))  # the factor exp(-n) cancels below, and nothing overflows
    if variant in ("release", "nlp"):
        return intra * torch.tanh(tau * tau.sum(0))
    sigma = torch.where(bounds.moved[:, None], tau.sign() * normal, 0.0)
    if variant == "vision":
        return intra * torch.tanh(tau * sigma.sum(0))
    return intra * torch.stack([torch.tanh(row * sigma).sum(0) for row in sigma])


def _strength(group: Group, competition: Competition, variant: str) -> Tensor:
    """How much each entry counts, from 0 for a dropped one to 1 for its expert's best."""
    scores = _scores(group, competition, variant)
    threshold, best = competition.threshold[:, None], competition.best[:, None]
    spread = best - threshold
    # Where the best score is the threshold, the released code divides 0 by 0: those entries count fully here.
    ranked = torch.where(spread > 0, (scores.maximum(threshold) - threshold) / spread, (scores >= threshold).float())
    return torch.where(competition.moved[:, None], ranked, 0.0)
