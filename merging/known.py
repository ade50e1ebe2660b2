"""Methods of one number per expert and tensor, by the inner products of models, which are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from merging.compare import Comparison
from merging.gram import Gram, products
from merging.groups import Group, Groups
from merging.lazy import torch
from merging.method import ASKED, FactorCoefficients, Method, TaskCoefficients, Whole, accepted

if TYPE_CHECKING:
    from torch import Tensor

MIXED = "its adapters are averaged factor by factor, and how long that step is does not follow from their lengths"


class Coefficients(NamedTuple):
    """What multiplies each model in each tensor; NaN where no such number is known."""

    weights: Tensor  # (tensors, experts), float64
    steps: Tensor  # (tensors, 1 + experts), of the base and the task vectors, in the merge minus the base
    wholes: dict[int, Whole]  # what makes a tensor that is merged as a whole matrix, by its index
    why: dict[int, str]  # why the step of a tensor is not known, in words


def coefficients(
    method: Method,
    values: Sequence[dict[str, Any]],
    depth: Sequence[float],
    based: bool,
    comparison: Comparison,
    surveys: dict[Any, Any],
) -> Coefficients:
    """The coefficients of every tensor that has values; those without any are not merged.

    `surveys` keeps what surveys of single tensors of this comparison say, which hardly a slider changes.
    """
    tensors, experts = comparison.norms.shape
    weights = torch.full((tensors, experts), torch.nan, dtype=torch.float64)
    steps = torch.full((tensors, 1 + experts), torch.nan, dtype=torch.float64)
    found = Coefficients(weights, steps, {}, {})
    kinds: dict[tuple[int, ...], list[int]] = {}
    for index, some in enumerate(values):
        if some:
            kinds.setdefault(tuple(comparison.has[index].nonzero().flatten().tolist()), []).append(index)
    for which, indices in kinds.items():
        outcomes = _outcomes(method, values, depth, based, comparison, which, indices, surveys)
        known = [index for index in indices if not isinstance(outcomes[index], Whole)]
        found.wholes.update({index: outcome for index, outcome in outcomes.items() if isinstance(outcome, Whole)})
        if not known:
            continue
        rows = torch.tensor(known)[:, None]
        own = torch.stack([outcomes[index].values for index in known]).double()
        of_base = torch.tensor([_of_base(outcomes[index]) for index in known], dtype=torch.float64)
        weights[rows, torch.tensor(which)] = own
        steps[known] = 0.0
        steps[rows, 1 + torch.tensor(which)] = own
        steps[known, 0] = torch.where(of_base.isnan(), own.sum(1), of_base) - 1
        for index in known:
            if isinstance(outcomes[index], FactorCoefficients):
                steps[index], found.why[index] = torch.nan, MIXED
    return found


def lengths(steps: Tensor, models: Tensor) -> Tensor:
    """The norms of sums of models, (tensors), by what multiplies each and by their inner products."""
    return torch.einsum("ti,tij,tj->t", steps, models.nan_to_num(), steps).clamp(min=0).sqrt()


def _of_base(outcome: Any) -> float:
    """What multiplies the base, beside what comes with the task vectors; NaN where the experts bring it along."""
    return float(outcome.base) if isinstance(outcome, TaskCoefficients) else torch.nan


def _outcomes(
    method: Method,
    values: Sequence[dict[str, Any]],
    depth: Sequence[float],
    based: bool,
    comparison: Comparison,
    which: tuple[int, ...],
    indices: list[int],
    surveys: dict[Any, Any],
) -> dict[int, Any]:
    """The outcome of each of these tensors, which the same experts have; made once for those that are alike."""
    group = Group("", torch.zeros(0), torch.zeros(len(which), 0))
    group.based = based
    places = torch.tensor([0, *(1 + index for index in which)])
    models = comparison.products.nan_to_num()[:, places[:, None], places]
    squares = comparison.squares.nan_to_num()[:, list(which)]
    tensorwise = method.survey is not None and values[indices[0]].get("scope") == "tensor"
    survey = None
    if method.survey and not tensorwise:
        survey = method.look(_Known(models.sum(0), squares.sum(0), based), values[indices[0]])
    told = dict[int, tuple[Any, ...]]()
    asked, made, found = accepted(method.function, dict.fromkeys(ASKED)), dict[Any, Any](), dict[int, Any]()
    for index in indices:
        _turn(group, comparison, index, depth[index])
        some = values[index]
        if tensorwise:
            if id(some) not in told:
                told[id(some)] = method.name, based, str(accepted(method.survey, some)) if method.survey else ""
            key = *told[id(some)], index
            if key not in surveys:
                surveys[key] = method.look(_Known(models[index], squares[index], based), some)
            found[index] = method.outcome(group, surveys[key], some)
            continue
        key = id(some), *(getattr(group, name) for name in asked if name not in ("base", "experts"))
        if key not in made:
            made[key] = method.outcome(group, survey, some)
        found[index] = made[key]
    return found


def _turn(group: Group, comparison: Comparison, index: int, depth: float) -> None:
    """Make the group, which has no entries, that of another tensor."""
    group.name, group.axes, group.depth = comparison.names[index], comparison.shapes[index], depth
    group.matrix, group.factored = len(group.axes) >= 2, bool(comparison.factored[index])


class _Known(Groups):
    """Tensors of which the sums are known that follow from inner products, and nothing else."""

    def __init__(self, models: Tensor, squares: Tensor, based: bool) -> None:
        if not based:  # of zeros and the experts
            models = Gram(models).models.clone()
            models[0] = models[:, 0] = 0
        self.sums: dict[Any, Tensor] = {products: models}
        self.one = None
        self.apart = lambda: (squares.clone(), None)  # whoever asks adds to them

    def sum(self, measure: Callable[[Group], Tensor], in_files: Any = None) -> Tensor:
        return self.sums[measure]
