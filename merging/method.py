"""What a merge method is: a function, and what its signature says about it.

A method is told apart by what its function returns. `TaskCoefficients` and `ModelCoefficients` hold one number per
expert and tensor; a `Blend` is made entry by entry. The engine lifts tensors to float32 before a method sees them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from merging.errors import MergeError
from merging.groups import Bits as Bits
from merging.groups import Group as Group
from merging.groups import Groups as Groups
from merging.groups import of_some as of_some
from merging.lazy import torch
from merging.params import Param, Scope, nearest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TaskCoefficients:
    """The merge is the base model plus the sum of `values` times the task vectors."""

    values: Tensor  # (experts)

    def merged(self, group: Group) -> Tensor:
        return group.base + _weighted_sum(self.values, group.tau)


@dataclass(frozen=True)
class ModelCoefficients:
    """The merge is the sum of `values` times the experts; the base model does not enter."""

    values: Tensor  # (experts)

    def merged(self, group: Group) -> Tensor:
        return _weighted_sum(self.values, group.experts)


@dataclass(frozen=True)
class FactorCoefficients:
    """The merge is the base model plus `scaling` times B A, which are the sums of `ups` times the B_i, `downs` the A_i.

    For tensors that adapters change by s_i B_i A_i; the factors here are those times the root of s_i.
    """

    downs: Tensor  # (experts)
    ups: Tensor  # (experts)
    scaling: float

    @property
    def values(self) -> Tensor:
        """The weight with which each expert's own product enters; products of one's B with another's A come on top."""
        return self.scaling * self.downs * self.ups


@dataclass(frozen=True)
class Blend:
    """The merge is the base model plus `scaling` times the sum of `parts`, divided by `divisor`."""

    parts: Tensor  # (experts, *shape): what each expert puts in
    divisor: Tensor | float = 1.0  # (*shape)
    scaling: float = 1.0

    def merged(self, group: Group) -> Tensor:
        total = self.parts[0].clone()
        for part in self.parts[1:]:
            total += part
        return group.base + self.scaling * (total / self.divisor)

    def shares(self) -> Tensor:
        """What each expert adds to the base model, entry by entry, (experts, *shape)."""
        return self.scaling * (self.parts / self.divisor)


def _weighted_sum(weights: Tensor, tensors: Tensor) -> Tensor:
    total = weights[0] * tensors[0]
    for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
        total += weight * tensor
    return total


Outcome = TaskCoefficients | FactorCoefficients | ModelCoefficients | Blend
Kernel = Callable[[Bits, Bits], bool]  # writes the merge of a tile, from bits to bits; whether it is finite
Fused = Callable[[Any, dict[str, Any]], Kernel | None]  # by survey and values of a tensor; None where there is none


@dataclass(frozen=True)
class Method:
    """A registered merge function and what was read from its signature."""

    name: str
    title: str
    paper: str
    formula: str
    function: Callable[..., Outcome]
    survey: Callable[..., Any] | None
    fused: Fused | None
    params: dict[str, Param] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The function's docstring as one paragraph, written for users."""
        return " ".join((self.function.__doc__ or "").split())

    @property
    def entrywise(self) -> bool:
        """Whether the merge is decided entry by entry, and not by one number per expert and tensor."""
        return _annotation(self.function, "return") is Blend

    @property
    def needs_base(self) -> bool:
        """Whether the base model enters the merge; without it the experts alone say what comes out."""
        return _annotation(self.function, "return") is not ModelCoefficients

    def checked(self, values: dict[str, Any]) -> dict[str, Any]:
        """All parameters that are not per expert, by name, each within its range; MergeError names what is wrong."""
        known = {param.key: param for param in self.params.values() if not param.per_expert}
        for key in values:
            if key not in known:
                raise MergeError(f"{self.title} has no parameter `{key}`. {nearest(str(key), list(known))}")
        return {param.name: param.checked(values.get(key, param.default)) for key, param in known.items()}

    def filled(self, values: dict[str, Any], experts: int) -> dict[str, Any]:
        """Values by argument name as the function wants them: with one number per expert where it asks for that."""
        defaults = {param.name: param.default for param in self.params.values()}
        known = {**defaults, **values}
        for param in self.params.values():
            value = known[param.name]
            numbers = [value] * experts if isinstance(value, int | float) else value
            if param.per_expert:
                known[param.name] = torch.as_tensor(numbers, dtype=torch.float32)
            elif param.by_expert:
                known[param.name] = [float(number) for number in numbers]
        return {"weight": torch.ones(experts), **known}

    def look(self, groups: Groups, values: dict[str, Any]) -> Any:
        """What the method's survey says of these groups, or None when it has no survey."""
        return self.survey(groups, **_accepted(self.survey, values)) if self.survey else None

    def outcome(self, group: Group, survey: Any, values: dict[str, Any]) -> Outcome:
        """How one tensor, or a run of its entries, is merged."""
        names = ("base", "experts", "matrix", "factored")  # what is not asked for is not made
        asked = {name: getattr(group, name) for name in names if name in _names(self.function)}
        return self.function(**asked, **_accepted(self.function, {**values, "survey": survey}))


METHODS: dict[str, Method] = {}


def find_method(name: str) -> Method:
    """The registered method of that name; MergeError suggests the nearest one."""
    if name not in METHODS:
        raise MergeError(f"There is no method `{name}`. {nearest(name, list(METHODS))}")
    return METHODS[name]


def method(
    *,
    title: str,
    paper: str,
    formula: str,
    name: str = "",
    survey: Callable[..., Any] | None = None,
    fused: Fused | None = None,
    scope: Literal["model", "tensor"] = "model",
) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Register a merge function; its keyword arguments, and its survey's, become the method's parameters.

    A method with a survey also has the parameter `scope`, which the engine acts on: the survey is handed the whole
    model, or one tensor at a time. `scope` here is its default. `fused` makes a kernel that does the same in one go.
    """

    def register(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
        params = {**(_params(survey) if survey else {}), **_params(function)}
        if survey:
            params["scope"] = _param("scope", Scope, scope)
        key = name or function.__name__
        METHODS[key] = Method(key, title, paper, formula, function, survey, fused, params)
        return function

    return register


def _params(function: Callable[..., Any]) -> dict[str, Param]:
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return {p.name: _param(p.name, _annotation(function, p.name), p.default) for p in keywords}


def _param(name: str, annotation: Any, default: Any) -> Param:
    value, *notes = get_args(annotation)
    param: Param = next(note for note in notes if isinstance(note, Param))
    default = param.default if default is inspect.Parameter.empty else default
    if get_origin(value) is Literal:
        return replace(param, name=name, default=default, kind="choice", choices=get_args(value))
    if value is bool:
        return replace(param, name=name, default=default, kind="switch")
    return replace(param, name=name, default=default, optional=default is None)


@cache
def _annotation(function: Callable[..., Any], name: str) -> Any:
    annotation = function.__annotations__[name]
    return eval(annotation, function.__globals__) if isinstance(annotation, str) else annotation


@cache
def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _accepted(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in _names(function) if name in values}
