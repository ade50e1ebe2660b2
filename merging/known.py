"""Methods of one number per expert and tensor, by the inner products of models, which are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from merging.compare import Comparison
from merging.errors import MergeError
from merging.gram import Gram, products
from merging.groups import Group, Groups
from merging.lazy import torch
from merging.method import ASKED, FactorCoefficients, Method, TaskCoefficients, Whole, accepted
from merging.recent import Recent

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
    surveys: Recent[Any],
) -> Coefficients:
    """The coefficients of every tensor that has values; those without any are not merged.

    `surveys` keeps what surveys of single tensors of this comparison say, which hardly a slider changes.
    """
    tensors, experts = comparison.norms.shape
    weights = torch.full((tensors, experts), torch.nan, dtype=torch.float64)
    steps = torch.full((tensors, 1 + experts), torch.nan, dtype=torch.float64)
    found = Coefficients(weights, steps, {}, {})
    kinds: dict[tuple[int, ...], list[int]] = {}
    for index, (has, some) in enumerate(zip(comparison.has.tolist(), values, strict=True)):
        if some:
            kinds.setdefault(tuple(expert for expert, there in enumerate(has) if there), []).append(index)
    for which, indices in kinds.items():
        alike = _Alike(method, based, comparison, which, surveys)
        outcomes = list(alike.outcomes(values, depth, indices))
        found.wholes.update({index: told for some, told in outcomes if isinstance(told, Whole) for index in some})
        known = [(some, told) for some, told in outcomes if not isinstance(told, Whole)]
        if not known:
            continue
        rows = torch.tensor([index for some, _ in known for index in some])
        own = torch.cat([told.values.double().expand(len(some), len(which)) for some, told in known])
        of_base = torch.cat([_of_base(told).expand(len(some)) for some, told in known])
        weights[rows[:, None], torch.tensor(which)] = own
        steps[rows] = 0.0
        steps[rows[:, None], 1 + torch.tensor(which)] = own
        steps[rows, 0] = torch.where(of_base.isnan(), own.sum(1), of_base) - 1
        mixed = [index for some, told in known if isinstance(told, FactorCoefficients) for index in some]
        steps[mixed] = torch.nan
        found.why.update(dict.fromkeys(mixed, MIXED))
    return found


def lengths(steps: Tensor, models: Tensor) -> Tensor:
    """The norms of sums of models, (tensors), by what multiplies each and by their inner products."""
    return torch.einsum("ti,tij,tj->t", steps, models.nan_to_num(), steps).clamp(min=0).sqrt()


def _of_base(outcome: Any) -> Tensor:
    """What multiplies the base, beside what comes with the task vectors; NaN where the experts bring it along."""
    told = outcome.base if isinstance(outcome, TaskCoefficients) else torch.nan
    return torch.as_tensor(told, dtype=torch.float64)


class _Alike:
    """The tensors that the same experts have, of which a method is asked as seldom as it can be."""

    def __init__(
        self, method: Method, based: bool, comparison: Comparison, which: tuple[int, ...], surveys: Recent[Any]
    ) -> None:
        self.method, self.based, self.comparison, self.which, self.surveys = method, based, comparison, which, surveys
        places = torch.tensor([0, *(1 + index for index in which)])
        self.models = comparison.products.nan_to_num()[:, places[:, None], places]
        self.squares = comparison.squares.nan_to_num()[:, list(which)]
        self.group = Group("", torch.zeros(0), torch.zeros(len(which), 0))
        self.group.based = based

    def outcomes(
        self, values: Sequence[dict[str, Any]], depth: Sequence[float], indices: list[int]
    ) -> Iterator[tuple[list[int], Any]]:
        """Tensors, and the outcome of all of them: one for each, or one that they share."""
        first = values[indices[0]]
        tensorwise = self.method.survey is not None and first.get("scope") == "tensor"
        survey = (
            None if tensorwise else self.method.look(_Known(self.models.sum(0), self.squares.sum(0), self.based), first)
        )
        # The name is there for words alone where each tensor has a survey.
        told = {"base", "experts", *(["name"] if tensorwise else [])}
        asked = [name for name in accepted(self.method.function, dict.fromkeys(ASKED)) if name not in told]
        batches: dict[Any, list[int]] = {}
        for index in indices:
            self._turn(index, depth[index])
            key = id(values[index]), *(getattr(self.group, name) for name in asked)
            batches.setdefault(key, []).append(index)
        for some in batches.values():
            self._turn(some[0], depth[some[0]])
            mine = values[some[0]]
            if tensorwise:
                yield from self._surveyed(some, depth, mine)
            else:
                yield some, self.method.outcome(self.group, survey, mine)

    def _surveyed(self, some: list[int], depth: Sequence[float], values: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
        """The outcome of tensors that differ in what a survey says of each, and in nothing else."""
        surveys = self._surveys(some, values)
        try:
            yield some, self.method.outcome(self.group, _stacked(surveys), values)
        except MergeError:  # it has something against one of them, which it names
            for index, survey in zip(some, surveys, strict=True):
                self._turn(index, depth[index])
                yield [index], self.method.outcome(self.group, survey, values)

    def _surveys(self, some: list[int], values: dict[str, Any]) -> list[Any]:
        """What the survey says of each of these tensors on its own."""
        assert self.method.survey
        told = self.method.name, self.based, str(accepted(self.method.survey, values))
        found = list[Any]()
        for index in some:
            kept = self.surveys.get((told, index))
            if kept is None:
                known = _Known(self.models[index], self.squares[index], self.based)
                kept = self.surveys.put((told, index), self.method.look(known, values))
            found.append(kept)
        return found

    def _turn(self, index: int, depth: float) -> None:
        """Make the group, which has no entries, that of another tensor."""
        group, known = self.group, self.comparison
        group.name, group.axes, group.depth = known.names[index], known.shapes[index], depth
        group.matrix, group.factored = len(group.axes) >= 2, bool(known.factored[index])


def _stacked(surveys: list[Any]) -> Any:
    """What is said of each of several tensors as if it were one survey, with an axis for these in front."""
    first = surveys[0]
    if first is None:  # nothing is surveyed of tensors that are merged as a whole
        return None
    if isinstance(first, Gram):
        return Gram(torch.stack([survey.products for survey in surveys]))
    if isinstance(first, torch.Tensor):
        return torch.stack(surveys)
    if isinstance(first, tuple):
        parts = [_stacked(list(several)) for several in zip(*surveys, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    raise TypeError(f"A survey of one tensor is a {type(first).__name__}, and no tensor, Gram or tuple of these.")


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
