"""Fisher merging: Merging Models with Fisher-Weighted Averaging (Matena and Raffel, 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from merging.lazy import torch
from merging.method import Blend, Group, Groups, method
from merging.params import Param, Weight
from merging.ranking import NotFiniteError
from merging.trace import tell
from merging.vectors import total

if TYPE_CHECKING:
    from torch import Tensor

Normalize = Annotated[
    bool, Param("Normalize", "Divide each expert's information by its length over the whole model first.")
]
FLOOR = 1e-6  # of the information: where no expert has any, they are averaged


def survey(groups: Groups, *, normalize: Normalize = False) -> Tensor:
    """What each expert's information is divided by, (experts)."""
    if not normalize:
        return torch.ones(len(groups.sizes))
    squares = groups.sum(_squares)
    if not squares.isfinite().all():
        raise NotFiniteError
    return torch.where(squares > 0, squares, 1.0).sqrt().float()


def _squares(group: Group) -> Tensor:
    return group.information.cpu().double().square().sum(1)


@method(
    title="Fisher merging",
    paper="https://arxiv.org/abs/2111.09832",
    formula=r"W = \sum_i w_i F_i \odot W_i \Big/ \sum_i w_i F_i",
    where="$F_i$ is what expert $i$ knows of each entry, its diagonal Fisher information: the mean square of the "
    "gradient of the log-likelihood on its own text, and 0.000001, the floor. With `normalize`, it is divided by its "
    "length first.",
    use="when there is a text of each expert's task, and single entries matter more to one expert than to others. "
    "`python -m merging collect` makes the statistics.",
    differs="The floor below the information, and whether it is brought to one length first, differ between codes; "
    "both are said here.",
    survey=survey,
    scopes=("model",),
)
def fisher(base: Tensor, experts: Tensor, information: Tensor, survey: Tensor, *, weight: Weight) -> Blend:
    """Averages the experts entry by entry, each counting by how much its own predictions depend on that entry.

    Needs statistics of every expert, collected from a text of its task: `python -m merging collect`.
    """
    share = weight[:, None] * (information / survey[:, None] + FLOOR)
    divisor = total(share)
    tell("Fisher information", information)
    tell("what each counts", share)
    return Blend(share * (experts - base), torch.where(divisor == 0, 1.0, divisor))
