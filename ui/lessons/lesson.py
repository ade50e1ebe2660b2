"""What a guided walk is made of: its steps, the screen that a step starts from, and what a check looks at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from merging.compare import Comparison
from merging.method import METHODS
from merging.recipe import Recipe
from ui import family
from ui.asked import Asked, same

View = Literal["layers", "experts", "depth", "table", "tensor", "coefficients", "predictions", "sample"]
VIEWS: tuple[View, ...] = get_args(View)
ELSEWHERE: dict[str, str] = {"coefficients": "step-weights", "predictions": "step-weights", "sample": "step-sample"}
EXPERTS = tuple(path.name for path in family.EXPERTS)
Verdict = tuple[bool, str]  # whether a step is done, and a sentence that says what is right or still missing


@dataclass(frozen=True)
class Setup:
    """Models of the embedded family, a method and its values, and the view in which to look at them."""

    method: str
    values: Mapping[str, Any] = field(default_factory=dict)  # by the recipe's keys; the others have their defaults
    experts: tuple[str, ...] = EXPERTS  # names of folders; the base is the family's
    view: View = "layers"

    @property
    def recipe(self) -> Recipe:
        """The same as a recipe, with every value of the method written down."""
        defaults = {p.key: p.default for p in METHODS[self.method].params.values() if not p.per_expert}
        experts = tuple(family.ZOO / name for name in self.experts)
        return Recipe(self.method, family.BASE, experts, values={**defaults, **self.values})

    @property
    def section(self) -> str:
        """The part of the page that the view is in."""
        return ELSEWHERE.get(self.view, "step-see")


@dataclass(frozen=True)
class Seen:
    """What a visitor has in front of them, and what they have done so far on this visit."""

    recipe: Recipe | None = None  # that the controls say, with the experts that fit; none without a base
    tensor: str = ""  # the one last clicked
    prompts: tuple[Asked, ...] = ()  # with who answered them
    merges: tuple[Recipe, ...] = ()  # that were written
    comparison: Comparison | None = None  # of these models; none while they are being read

    @property
    def experts(self) -> tuple[str, ...]:
        """The names of their folders."""
        return tuple(path.name for path in self.recipe.experts) if self.recipe else ()

    @property
    def method(self) -> str:
        return self.recipe.method if self.recipe else ""

    @property
    def values(self) -> Mapping[str, Any]:
        """Of the method, by the recipe's keys, with defaults for those that were not set."""
        if not self.recipe or self.method not in METHODS:
            return {}
        params = METHODS[self.method].params.values()
        return {**{p.key: p.default for p in params if not p.per_expert}, **self.recipe.values}

    def asked(self, prompt: str = "", merge: Recipe | None = None) -> bool:
        """Whether a merge has answered a prompt that begins so, written or not; by default that of the controls."""
        mine, told = merge or self.recipe, self._beginning(prompt)
        return mine is not None and any(one.merge and same(one.merge, mine) for one in told)

    def answered(self, prompt: str) -> bool:
        """Whether the base and all experts have answered a prompt that begins so."""
        models = {str(path) for path in (self.recipe.base, *self.recipe.experts)} if self.recipe else set()
        return any(models <= {*one.models} for one in self._beginning(prompt))

    def _beginning(self, prompt: str) -> list[Asked]:
        return [one for one in self.prompts if one.prompt.strip().startswith(prompt.strip())]

    @property
    def row(self) -> int | None:
        """Where the tensor last clicked stands in the comparison; none before there is one."""
        names = self.comparison.names if self.comparison else ()
        return names.index(self.tensor) if self.tensor in names else None

    def number(self, key: str) -> float:
        """A value of the method as a number; NaN where it varies, or is none."""
        return _number(self.values.get(key))

    def weight(self, expert: str) -> float:
        """The weight of an expert; 1 where none was set, NaN where it varies."""
        given = self.recipe.weights if self.recipe else ()
        return _number(dict(zip(self.experts, given, strict=False)).get(expert, 1.0))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


@dataclass(frozen=True)
class Step:
    """One thing to read, and one thing to do."""

    title: str
    text: str  # Markdown with formulas between $ or $$; numbers of the embedded family as [[names]] of facts
    setup: Setup
    do: str  # what the learner is asked to move or click
    check: Callable[[Seen], Verdict]
    free: frozenset[str] = frozenset()  # what of `experts`, `method` and `weights` may differ from the setup

    def checked(self, seen: Seen) -> Verdict:
        """The step's check, once the screen shows the models and the method that it is about."""
        words = self._astray(seen)
        return (False, words) if words else self.check(seen)

    def _astray(self, seen: Seen) -> str:
        wanted, again = self.setup, "Press “Set this up for me” and go on from there."
        if not seen.recipe or not seen.recipe.base or seen.recipe.base.resolve() != family.BASE.resolve():
            return f"This step is about the embedded base model, and another one is chosen. {again}"
        if "experts" not in self.free and set(seen.experts) != set(wanted.experts):
            return f"This step is about {listed(wanted.experts)}, and other experts are chosen. {again}"
        if "method" not in self.free and seen.method != wanted.method:
            return f"This step is about {METHODS[wanted.method].title}, and another method is chosen. {again}"
        if "weights" not in self.free and any(seen.weight(name) != 1 for name in seen.experts):
            return f"The experts' weights are not all 1, as they are in this step. {again}"
        if seen.method == wanted.method and any(
            isinstance(value, float) and math.isnan(seen.number(key)) for key, value in wanted.values.items()
        ):
            return f"A value that this step moves is not one number for all tensors here. {again}"
        if seen.comparison is None:
            return "The weights are still being read. Check again when the heatmap is there."
        return ""


def listed(names: Sequence[str]) -> str:
    """Names as in a sentence: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


@dataclass(frozen=True)
class Lesson:
    """A guided walk of a few minutes."""

    slug: str  # in links: ?lesson=slug
    title: str
    minutes: int
    steps: tuple[Step, ...]
