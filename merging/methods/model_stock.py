"""Model Stock: All We Need Is Just a Few Fine-Tuned Models (Jang et al., 2024)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from merging.gram import Gram, along, by_lines, gram
from merging.lazy import torch
from merging.method import Groups, TaskCoefficients, Whole, method
from merging.params import Param
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor

FilterWise = Annotated[bool, Param("Filter-wise", "Take the angles of each row of a matrix, and not of the tensor.")]
NOTHING = 1e-9  # what is 0 but for rounding, among cosines


def survey(groups: Groups, *, filter_wise: FilterWise = False) -> Gram | None:
    """The task vectors' inner products, where one number for the tensor follows from them."""
    return None if filter_wise else gram(groups)


@method(
    title="Model Stock",
    paper="https://arxiv.org/abs/2403.19522",
    formula=r"W = t\,\overline{W} + (1-t)\,W_0, \qquad t = \frac{n\cos\theta}{1+(n-1)\cos\theta}",
    where=r"$\overline{W}$ is the mean of the experts, $\theta$ the angle between two task vectors, whose cosine is "
    "the mean over all pairs, and $t$ the share of the way. With `filter_wise`, each row of a matrix has its own "
    r"$\theta$ and $t$.",
    use="for two or more runs of one task from one base, at no cost and with nothing to tune: where the runs agree it "
    "takes their mean, where they do not it stays near the base.",
    differs="The angle of more than two experts is the mean over their pairs, after mergekit. Where their directions "
    "cancel, for which the formula is infinite, the base stays.",
    survey=survey,
    scopes=("tensor",),
    experts=(2, None),
)
def model_stock(survey: Gram, *, filter_wise: FilterWise = False) -> TaskCoefficients | Whole:
    """Moves each tensor from the base towards the mean of the experts, the further the better the experts agree.

    How far follows from the angle between their task vectors, as if they were draws around one centre.
    """
    if filter_wise:
        notes: list[str] = []
        return Whole(partial(_by_rows, notes=notes), copies=6, notes=notes)
    share, experts = interpolation(survey.vectors), survey.norms.shape[-1]
    tell("norms", survey.norms, "expert")
    tell("mean cosine", lambda: mean_cosine(survey.vectors), "tensor")
    tell("t", share, "tensor")
    odd = not share.ndim and not 0 <= share <= 1
    note = f"steps t = {float(share):.2f} towards the mean, not between 0 and 1" if odd else ""
    return TaskCoefficients((share[..., None] / experts).expand(*share.shape, experts).float(), note=note)


def interpolation(vectors: Tensor) -> Tensor:
    """The share t of the way to the mean, (...), by the inner products of task vectors, (..., experts, experts)."""
    experts, cosine = vectors.shape[-1], mean_cosine(vectors)
    spread = 1 + (experts - 1) * cosine
    # Differs: where the directions of the experts cancel the released formula is 0 / 0 or infinite; the base stays.
    cancel = spread <= NOTHING
    return torch.where(cancel, 0.0, experts * cosine / torch.where(cancel, 1.0, spread))


def mean_cosine(vectors: Tensor) -> Tensor:
    """The cosine between two task vectors, (...), as the mean over all pairs, by their inner products."""
    experts = vectors.shape[-1]
    norms = vectors.diagonal(dim1=-2, dim2=-1).sqrt()
    cosines = vectors / (norms[..., None] * norms[..., None, :]).clamp(min=1e-6)
    one, other = torch.triu_indices(experts, experts, 1)
    return cosines[..., one, other].clamp(-1, 1).mean(-1)


def _by_rows(tau: Tensor, notes: list[str]) -> Tensor:
    """The step of each row by its own angles, (experts, *shape) to (*shape); what has one axis is one row."""
    found: list[Tensor] = []

    def step(rows: Tensor, products: Tensor) -> Tensor:
        share = interpolation(products)
        found.append(share)
        return share.to(rows)[:, None] * rows.mean(1)

    steps, shares = by_lines(step, tau), torch.cat(found)
    tell("t of the row", lambda: along(shares, tau), "entry")
    odd = (shares < 0) | (shares > 1)
    if odd.any():
        count = f"{int(odd.sum()):,} of {len(odd):,} rows"
        notes.append(f"takes steps t that are not between 0 and 1 towards the mean in {count}")
    return steps
