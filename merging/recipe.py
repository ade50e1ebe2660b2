"""Recipes: which method, which models, which values; everything needed to repeat a merge, and readable as YAML."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from merging.errors import MergeError
from merging.method import Method, find_method
from merging.notes import Notes
from merging.params import Param
from merging.reading import DTYPES, read
from merging.rules import as_numbers, leaves
from merging.settings import Settings, settings_of
from merging.writing import as_yaml

EXTRA = ["drop", "keep"]
NO_EXPERT = "No expert is chosen. Choose at least one."
IMPLIED = (NO_EXPERT, "There is no method ``")  # follow from what was missing in the text, which is said already


@dataclass(frozen=True)
class Recipe:
    """What to merge and how. Values are keyed as in the YAML, so scaling is `lambda`; missing ones have defaults.

    A weight or a value is a number or word, a list of them (a gradient over the layers), or filters by name.
    """

    method: str
    base: Path | None  # None where the method needs none: then the first expert gives the config
    experts: tuple[Path, ...]
    weights: tuple[Any, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    own: tuple[dict[str, Any], ...] = ()  # the values that single experts have instead
    seed: int = 0
    dtype: str = "float32"  # of the arithmetic
    out_dtype: str = ""  # of the result; empty: the base's, tensor by tensor
    tokenizer_source: str = ""  # `base`, `union` or a model's path; empty: the base's
    chat_template: str = ""  # `auto` or the template; empty: the base's
    extra_tensors: Literal["drop", "keep"] = "drop"  # those that only experts have
    warnings: tuple[str, ...] = ()  # what was odd about the file that it was read from

    def checked(self) -> tuple[Method, dict[str, Any], list[float]]:
        """The method, its values by argument name, and one weight per expert, where all tensors have the same ones.

        MergeError names everything that is wrong.
        """
        settings = self.settings()
        if settings.varying:
            raise MergeError(f"{' and '.join(settings.varying)} must be one number here, the same for all tensors.")
        values = dict(settings.fixed)
        weights = values.pop("weight", [1.0] * len(self.experts))
        params = settings.method.params
        return settings.method, {name: _one(params[name].label, value) for name, value in values.items()}, weights

    def settings(self) -> Settings:
        """The values for each tensor; MergeError names everything that is wrong with the recipe."""
        notes = Notes()
        settings = self._settings(notes)
        if not settings or notes.problems:
            raise MergeError("\n".join(notes.problems))
        return settings

    def problems(self) -> list[str]:
        """Everything that is wrong with the recipe, as far as can be known without its models."""
        notes = Notes()
        self._settings(notes)
        return notes.problems

    def _settings(self, notes: Notes) -> Settings | None:
        method = notes.tried(find_method, self.method)
        notes.problems += _plain(self)
        if method and method.needs_base and self.base is None:
            notes.problems.append(f"{method.title} needs a base model. Name it as `base_model`.")
        count = len(self.experts)
        if not count:
            notes.problems.append(NO_EXPERT)
        weights, own = self.weights or (1.0,) * count, self.own or ({},) * count
        if len(weights) != count:
            notes.problems.append(f"There are {count} experts and {len(weights)} weights. Give one to each.")
        elif len(own) != count:
            notes.problems.append(f"There are {count} experts and parameters for {len(own)}. Give them to each.")
        elif method:
            return notes.tried(settings_of, method, _names(self.experts), weights, self.values, own)
        return None

    def to_yaml(self, folder: Path) -> str:
        """The recipe as YAML, with model paths relative to the folder it will stand in."""
        return as_yaml(self, self.settings().method, folder)


def _names(experts: tuple[Path, ...]) -> tuple[str, ...]:
    """What experts are called in sentences: their folders' names, or the paths where these are not enough."""
    names = tuple(path.name or str(path) for path in experts)
    return names if len(set(names)) == len(names) else tuple(map(str, experts))


def _one(label: str, values: Any) -> Any:
    """The value that all experts share."""
    if isinstance(values, list) and any(value != values[0] for value in values):
        raise MergeError(f"{label} is not the same for all experts in this recipe, and here it must be.")
    return values[0] if isinstance(values, list) else values


def _plain(recipe: Recipe) -> list[str]:
    """What is wrong with the values that are one for the whole recipe."""
    problems = []
    if type(recipe.seed) is not int or not 0 <= recipe.seed < 2**63:
        problems.append(f"`seed` must be a whole number from 0 to 2^63 - 1, but it is {recipe.seed!r}.")
    if recipe.dtype != "float32":
        problems.append(f"`dtype` is {recipe.dtype!r}, and the arithmetic is always float32. Leave it out.")
    if recipe.out_dtype not in ["", *DTYPES]:
        problems.append(f"`out_dtype` must be one of {', '.join(DTYPES)}, but it is {recipe.out_dtype!r}.")
    if recipe.extra_tensors not in EXTRA:
        problems.append(f"`extra_tensors` must be one of {', '.join(EXTRA)}, but it is {recipe.extra_tensors!r}.")
    if not isinstance(recipe.tokenizer_source, str):
        problems.append("`tokenizer_source` must be `base`, `union` or the path of a model.")
    template = recipe.chat_template
    if template not in ("", "auto") and not (isinstance(template, str) and "{" in template and len(template) >= 20):
        problems.append(f"There is no chat template {template!r} here. Write `auto`, or the template itself in Jinja.")
    return problems


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe, of ours or of mergekit's: from a file, a merged folder or weights file, or from text.

    Relative paths of models start at the file's folder. MergeError names everything that is wrong.
    """
    notes = Notes()
    recipe = Recipe(**read(source, notes))
    wrong = [problem for problem in recipe.problems() if not (notes.problems and problem.startswith(IMPLIED))]
    if problems := [*notes.problems, *wrong]:
        raise MergeError("\n".join(dict.fromkeys(problems)))
    params = {param.key: param for param in find_method(recipe.method).params.values()}
    weights = [
        as_numbers({"weight": weight}, params)["weight"] if "weight" in params else 1.0 for weight in recipe.weights
    ]
    own = tuple(as_numbers(mine, params) for mine in recipe.own)
    recipe = replace(recipe, weights=tuple(weights), values=as_numbers(recipe.values, params), own=own)
    return replace(recipe, warnings=tuple(dict.fromkeys([*notes.warnings, *_unusual(recipe, params)])))


def _unusual(recipe: Recipe, params: dict[str, Param]) -> Iterator[str]:
    """A sentence for each number that is allowed, and that hardly anyone means."""
    stated = [("weight", weight) for weight in recipe.weights if "weight" in params]
    stated += [told for mine in (recipe.values, *recipe.own) for told in mine.items()]
    for param, value in ((params[key], leaf) for key, told in stated for leaf in leaves(told)):
        if param.kind == "number" and value is not None and not param.low <= value <= param.high:
            yield f"{param.label} is {value:g}, and is usually between {param.low:g} and {param.high:g}."
