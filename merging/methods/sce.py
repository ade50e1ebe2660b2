"""SCE: the merge of FuseChat: Knowledge Fusion of Chat Models (Wan et al., 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np

from merging import kernels
from merging.lazy import torch
from merging.method import Blend, Group, Groups, Kernel, method
from merging.params import Param
from merging.ranking import nth_largest
from merging.trace import tell
from merging.vectors import squares, sums, total

if TYPE_CHECKING:
    from torch import Tensor

TopK = Annotated[
    float,
    Param(
        "Select κ", "Share of the entries that are merged: those on which the experts differ most, by their variance."
    ),
]


class Selection(NamedTuple):
    """What must be known of the whole scope before an entry can be merged."""

    threshold: Tensor  # (): an entry of less variance is left out
    weight: Tensor  # (experts)


def survey(groups: Groups, *, select_topk: TopK = 1.0) -> Selection:
    """Find the variance from which on entries are selected; then weigh each expert by its mean square among these."""
    threshold = _threshold(groups, select_topk)
    whole = select_topk == 1
    found = squares(groups)[:, 0] if whole else groups.sum(lambda group: _squares(group, threshold))
    means = found / torch.tensor(groups.sizes).clamp(min=1)
    # The rule is an absolute one in the code: smaller changes than these are all of one weight.
    equal = torch.full_like(means, 1 / len(means))
    return Selection(threshold, torch.where(means.sum() >= 1e-6, means / means.sum(), equal).float())


def _threshold(groups: Groups, share: float) -> Tensor:
    """The variance of the last entry that is selected, (); 0 selects all, and infinity none."""
    if share == 1:
        return torch.zeros(())
    varied = groups.sum(lambda group: (_variance(group) != 0).sum().cpu().double())
    return nth_largest(groups, lambda group: _variance(group)[None], (varied * share).long())


def fused(survey: Selection, _: dict[str, Any]) -> Kernel:
    """The merge of a tile in one go."""
    from merging.kernels import sce as kernel

    threshold, weight = np.float32(survey.threshold), survey.weight.numpy()
    return lambda group, out: kernel.sce(group.bits, threshold, weight, out)


def _variance(group: Group) -> Tensor:
    """The variance of a tile's entries. Valid until the thread asks for the next ones."""
    if not group.fused:
        return variance(group.tau)
    from merging.kernels import sce as kernel

    out = kernels.scratch("values", (1, group.size), np.float32)[0]
    kernel.variances(group.bits, out)
    return torch.from_numpy(out)


def _squares(group: Group, threshold: Tensor) -> Tensor:
    """The sums of squares of what is selected of a tile's task vectors, (experts) of float64."""
    if not group.fused:
        return sums(_selected(group.tau, threshold.to(group.device)).cpu().double().square())
    from merging.kernels import sce as kernel

    return torch.from_numpy(kernel.squares(group.bits, np.float32(threshold)))


def variance(tau: Tensor) -> Tensor:
    """The mean square of what each expert differs from their mean, (entries)."""
    spread = tau - total(tau) / len(tau)
    return total(spread.square()) / len(tau)


def _selected(tau: Tensor, threshold: Tensor) -> Tensor:
    varied = variance(tau)
    tell("variance", varied, "entry")
    return torch.where(varied >= threshold, tau, 0.0)


@method(
    title="SCE",
    paper="https://arxiv.org/abs/2408.07990",
    formula=r"\begin{gathered}W = W_0 + \frac{\sum_i c_i\, m_i \odot \hat\tau_i}{\sum_i c_i\, m_i}, \qquad "
    r"\hat\tau_i = \big[\,v \ge v_\kappa\,\big] \odot \tau_i, \\"
    r"c_i = \frac{\operatorname{mean}(\hat\tau_i^2)}{\sum_j \operatorname{mean}(\hat\tau_j^2)}, \qquad "
    r"m_i = \big[\operatorname{sign}\hat\tau_i = \operatorname{sign}\textstyle\sum_j \hat\tau_j\big]\end{gathered}",
    where=r"$v$ is the variance of each entry over the experts, and $v_\kappa$ the one from which on a share $\kappa$ "
    "(`select_topk`) of the entries that vary is selected. $c_i$ is the weight of expert $i$: its share of the mean "
    "squares, or $1/n$ where these add up to less than 0.000001. $m_i$ marks what is not erased; a sum of 0 counts "
    "as positive.",
    use="for experts of one base with different skills, whose weights should follow from how much each "
    "changed. Most fine-tuning changes so little that the released rule weighs all experts alike.",
    differs="Variances, which are calculated in float32, are all selected where they tie at the threshold; mergekit "
    "picks by index.",
    survey=survey,
    fused=fused,
    scope="tensor",
)
def sce(base: Tensor, experts: Tensor, survey: Selection) -> Blend:
    """Selects the entries that vary most between the experts, calculates a weight for each expert from the size of its
    changes, and erases those that go against the majority.
    """
    tau = _selected(experts - base, survey.threshold)
    sign = torch.where(total(tau) >= 0, 1.0, -1.0)
    agrees = torch.where(sign > 0, tau > 0, tau < 0)
    tell("selected", tau)
    tell("coefficients", survey.weight, "expert")
    tell("elected sign", sign, "entry")
    tell("not erased", agrees)
    weight = survey.weight[:, None]
    return Blend(torch.where(agrees, weight * tau, 0.0), total(weight * agrees).clamp(min=1e-6))
