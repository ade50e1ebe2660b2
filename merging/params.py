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
    name: str = ""
    default: Any = None
    kind: Literal["number", "switch", "choice"] = "number"
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def key(self) -> str:
        """The parameter's name in a recipe. `lambda` is a Python keyword, so functions say `scaling`."""
        return "lambda" if self.name == "scaling" else self.name

    def checked(self, value: Any) -> Any:
        """The value as its function wants it; MergeError when it is not one of those allowed."""
        if self.kind == "switch":
            if not isinstance(value, bool):
                raise MergeError(f"{self.label} must be true or false, but it is {value!r}.")
            return value
        if self.kind == "choice":
            if value not in self.choices:
                raise MergeError(f"{self.label} must be one of {', '.join(self.choices)}, but it is {value!r}.")
            return value
        if self.optional and value in (None, ""):
            return None
        return self._number(value)

    def _number(self, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise MergeError(f"{self.label} must be a number, but it is {value!r}.") from None
        low, high = self.limits or (self.low, self.high)
        if isinstance(value, bool) or not math.isfinite(number) or not low <= number <= high:
            raise MergeError(f"{self.label} must be between {low:g} and {high:g}, but it is {value}.")
        return number


def nearest(word: str, known: list[str]) -> str:
    """A question that suggests the known word closest to a mistyped one, or lists them all."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean `{close[0]}`?" if close else f"Known are {', '.join(known)}."


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
Scope = Annotated[
    Literal["model", "tensor"],
    Param("Scope", "Take norms, ranks and thresholds over the whole model, or over each tensor on its own."),
]
