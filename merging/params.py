"""The parameters of merge methods: their range, their wording, and the checks that follow from both."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from merging.errors import MergeError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Param:
    """The usual range and the wording of a parameter. What stands below `per_expert` is read from the function."""

    label: str
    help: str
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    per_expert: bool = False  # each expert has its own, with a control for each
    by_expert: bool = False  # a recipe may give each expert its own
    limits: tuple[float, float] | None = None  # what a recipe may say, where that is more than the usual range
    counts: Literal["", "steps", "experts"] = ""  # of which there are whole numbers only
    name: str = ""
    default: Any = None
    kind: Literal["number", "switch", "choice"] = "number"
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def key(self) -> str:
        """The parameter's name in a recipe. `lambda` is a Python keyword, so functions say `scaling`."""
        return "lambda" if self.name == "scaling" else self.name

    @property
    def word(self) -> str:
        """The parameter as sentences have it: by its name in a recipe."""
        return f"`{self.key}`"

    @property
    def many(self) -> bool:
        """Whether a recipe may give each expert another value."""
        return self.per_expert or self.by_expert

    @property
    def settled(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.choices) == 1

    def checked(self, value: Any) -> Any:
        """The value as its function wants it; MergeError when it is not one of those allowed."""
        if self.kind == "switch":
            if not isinstance(value, bool):
                raise MergeError(f"{self.word} must be true or false, but it is {value!r}.")
            return value
        if self.kind == "choice":
            if value not in self.choices:
                if self.settled:
                    raise MergeError(f"{self.word} can only be `{self.choices[0]}` here, not {value!r}. Leave it out.")
                raise MergeError(f"{self.word} must be one of {', '.join(self.choices)}, but it is {value!r}.")
            return value
        if self.optional and value in (None, ""):
            return None
        return self._number(value)

    def _number(self, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise MergeError(f"{self.word} must be a number, but it is {value!r}.") from None
        low, high = self.limits or (self.low, self.high)
        if isinstance(value, bool) or not math.isfinite(number) or not low <= number <= high:
            raise MergeError(f"{self.word} must be between {low:g} and {high:g}, but it is {value}.")
        if self.counts and not number.is_integer():
            raise MergeError(f"{self.word} counts {self.counts}, so it must be a whole number, but it is {value}.")
        return number


def close(word: str, known: list[str]) -> str:
    """A question that suggests the known word closest to a mistyped one, after a space; empty where none is close."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean `{found[0]}`?" if found else ""


def nearest(word: str, known: list[str]) -> str:
    """A question that suggests the known word closest to a mistyped one, or lists them all."""
    several = list(dict.fromkeys(known))
    rest = f"Known are {', '.join(several)}." if len(several) > 1 else f"Only `{several[0]}` is known." if known else ""
    return close(word, known).lstrip() or rest


Density = Annotated[  # one number per expert
    Any,  # list[float]; where one number stands for all, as in a default, the method gets it for each
    Param("Density ρ", "Share of each task vector that is kept, largest magnitudes first.", low=0.01, by_expert=True),
]
FAR = (-100.0, 100.0)  # recipes of mergekit step further than the sliders, and backwards
Scaling = Annotated[
    float, Param("Scaling λ", "How far to step away from the base model.", high=3.0, step=0.05, limits=FAR)
]
ShortScaling = Annotated[
    float, Param("Scaling λ", "How far to step away from the base model.", high=2.0, step=0.05, limits=FAR)
]
Weight = Annotated[  # one number per expert, (experts)
    "Tensor",
    Param(
        "Weight", "How much this expert counts.", low=-2, high=3, step=0.05, limits=FAR, per_expert=True, default=1.0
    ),
]
Normalize = Annotated[bool, Param("Normalize", "Divide by the sum of the weights, so that the step is an average.")]
Scope = Annotated[
    Literal["model", "tensor"],
    Param("Scope", "Take norms, ranks and thresholds over the whole model, or over each tensor on its own."),
]
