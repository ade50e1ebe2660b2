"""What a merge method is: a function, and what its signature says about it.

A method is told apart by what its function returns. `TaskCoefficients` and `ModelCoefficients` hold one number per
expert and tensor; a `Blend` is made entry by entry; a `Whole` needs all entries of a tensor at once. One that may
return task or model coefficients can do without a base. The engine lifts tensors to float32 before a method sees them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, get_args, get_origin

from merging.errors import MergeError
from merging.groups import Bits as Bits
from merging.groups import Group as Group
from merging.groups import Groups as Groups
from merging.groups import of_some as of_some
from merging.lazy import torch
from merging.outcomes import Blend as Blend
from merging.outcomes import FactorCoefficients as FactorCoefficients
from merging.outcomes import ModelCoefficients as ModelCoefficients
from merging.outcomes import Outcome as Outcome
from merging.outcomes import TaskCoefficients as TaskCoefficients
from merging.outcomes import Whole as Whole
from merging.params import Param, Scope, nearest

SCOPES = ("model", "tensor")
Kernel = Callable[[Group, Bits], bool]  # writes the merge of a tile as bits; whether it is finite
Fused = Callable[[Any, dict[str, Any]], Kernel | None]  # by survey and values of a tensor; None where there is none
COLLECTED = ("information", "inputs")  # what is known of experts from running them over text
ASKED = ("base", "experts", "name", "matrix", "axes", "row", "depth", "based", "factored", "generator", *COLLECTED)


@dataclass(frozen=True)
class Method:
    """A registered merge function and what was read from its signature."""

    name: str
    title: str
    paper: str
    formula: str  # in LaTeX
    where: str  # what its symbols mean that are not in `symbols.SHARED`, as Markdown with LaTeX between $
    use: str  # when to take it, after "Use it"
    differs: str  # from the code that its authors released; empty where nothing does
    function: Callable[..., Outcome]
    survey: Callable[..., Any] | None
    fused: Fused | None
    params: dict[str, Param] = field(default_factory=dict)
    experts: tuple[int, int | None] = (1, None)  # how many it takes, at least and at most
    ranks: Callable[..., Any] | None = None  # of adapters alone: which ranks its result may have
    idle: Callable[[dict[str, Any]], Iterable[str]] | None = None  # sentences on values, by key, that change nothing

    @property
    def summary(self) -> str:
        """The function's docstring as one paragraph, written for users."""
        return " ".join((self.function.__doc__ or "").split())

    @property
    def brief(self) -> str:
        """The first sentence of the summary."""
        return self.summary.partition(". ")[0].removesuffix(".") + "."

    @property
    def origin(self) -> str:
        """A word for what `paper` leads to."""
        return "paper" if any(site in self.paper for site in ("arxiv.org", "doi.org")) else "source"

    @property
    def entrywise(self) -> bool:
        """Whether the merge is decided entry by entry, and not by one number per expert and tensor."""
        return Blend in self.outcomes

    @property
    def whole(self) -> bool:
        """Whether some tensors may have to be in memory with all their entries."""
        return Whole in self.outcomes

    @property
    def collects(self) -> str:
        """What it asks for of the experts that only running them tells; empty when nothing."""
        return next((name for name in COLLECTED if name in _names(self.function)), "")

    @property
    def needs_base(self) -> bool:
        """Whether there is no merge without a base model."""
        return self.ranks is None and ModelCoefficients not in self.outcomes

    @property
    def takes_base(self) -> bool:
        """Whether the base model enters the merge where there is one; else the experts alone say what comes out."""
        return self.ranks is None and set(self.outcomes) != {ModelCoefficients}

    @property
    def random(self) -> bool:
        """Whether it draws at random, so that the recipe's seed matters."""
        return "generator" in _names(self.function)

    @property
    def surveyed(self) -> tuple[str, ...]:
        """The names of the parameters that its survey needs, which has one value of each for all that it goes over."""
        return _names(self.survey) if self.survey else ()

    def varies(self, param: Param) -> Literal["always", "scope: tensor", "never"]:
        """Whether a recipe may give the parameter another value in each tensor, by gradients and filters."""
        if param.name == "scope":
            return "never"
        if param.name not in self.surveyed or self.params["scope"].choices == ("tensor",):
            return "always"
        return "scope: tensor" if "tensor" in self.params["scope"].choices else "never"

    def unit(self, row: int) -> int:
        """The number of entries that it must see together: a row of that length if it asks for `row`, else one."""
        return row if "row" in _names(self.function) else 1

    @property
    def outcomes(self) -> tuple[Any, ...]:
        """What its function may give; nothing of this kind where it makes adapters alone."""
        annotation = _annotation(self.function, "return") if self.ranks is None else ()
        return get_args(annotation) or (annotation,)

    def taking(self, count: int) -> int:
        """The number of experts nearest to `count` that it takes."""
        least, most = self.experts
        return max(least, count if most is None else min(count, most))

    def miscounted(self, count: int) -> str:
        """What is wrong with that number of experts, in words without a full stop; empty when nothing is."""
        wanted = self.taking(count)
        if wanted == count:
            return ""
        bound = "" if self.experts[0] == self.experts[1] else "at least " if wanted > count else "at most "
        return f"{self.title} takes {bound}{wanted} expert{'s' if wanted > 1 else ''}, not {count}"

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
        return self.survey(groups, **accepted(self.survey, values)) if self.survey else None

    def outcome(self, group: Group, survey: Any, values: dict[str, Any]) -> Outcome:
        """How one tensor, or a run of its entries, is merged."""
        asked = {name: getattr(group, name) for name in ASKED if name in _names(self.function)}  # the others: not made
        return self.function(**asked, **accepted(self.function, {**values, "survey": survey}))


METHODS: dict[str, Method] = {}
ADAPTERS: dict[str, Method] = {}  # those that make adapters of adapters: see `adapter_method`


def find_method(name: str) -> Method:
    """The registered method of that name; MergeError suggests the nearest one."""
    known = METHODS | ADAPTERS
    if name not in known:
        raise MergeError(f"There is no method `{name}`. {nearest(name, list(known))}")
    return known[name]


def method(
    *,
    title: str,
    paper: str,
    formula: str,
    where: str = "",
    use: str,
    differs: str = "",
    name: str = "",
    survey: Callable[..., Any] | None = None,
    fused: Fused | None = None,
    scope: Literal["model", "tensor"] = "model",
    scopes: tuple[str, ...] = SCOPES,
    experts: tuple[int, int | None] = (1, None),
) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Register a merge function; its keyword arguments, and its survey's, become the method's parameters.

    A method with a survey also has the parameter `scope`, which the engine acts on: the survey is handed the whole
    model, or one tensor at a time. `scope` here is its default, where `scopes` leave a choice. `where` says what the
    symbols of the formula mean, `use` when to take the method, `differs` how it is not what its authors released.
    `fused` makes a kernel that does the same in one go. `experts` says how many it takes, at least and at most. A
    function is handed what it asks for by name: `base`, `experts`, `survey`, whether the tensor is a `matrix`; one that
    asks for the length of a `row` gets whole rows, and one that asks for the `generator` draws at random.
    """

    def register(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
        key = name or function.__name__
        params = params_of(function, survey, scope, scopes)
        METHODS[key] = Method(key, title, paper, formula, where, use, differs, function, survey, fused, params, experts)
        return function

    return register


def params_of(
    function: Callable[..., Any],
    survey: Callable[..., Any] | None,
    scope: Literal["model", "tensor"],
    scopes: tuple[str, ...] = SCOPES,
) -> dict[str, Param]:
    """The parameters that a function's keyword arguments are, and its survey's."""
    params = {**(_params(survey) if survey else {}), **_params(function)}
    if not survey:
        return params
    first = scope if scope in scopes else scopes[0]
    return params | {"scope": replace(_param("scope", Scope, first), choices=scopes)}


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


def accepted(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that a function takes."""
    return {name: values[name] for name in _names(function) if name in values}
