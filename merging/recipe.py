"""Recipes: which method, which models, which values; everything needed to repeat a merge, and readable as YAML."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from merging import space
from merging.errors import MergeError, RecipeError
from merging.method import ADAPTERS, Method, find_method
from merging.notes import Notes
from merging.reading import DTYPES, read
from merging.references import UNREAD, relative
from merging.rules import as_numbers, leaves
from merging.settings import Settings, settings_of
from merging.words import counted
from merging.writing import as_yaml

EXTRA = ["drop", "keep"]
RESULTS = ["model", "adapter"]
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
    result: Literal["", "model", "adapter"] = ""  # empty: a model, or an adapter where the method makes nothing else
    rank: int | None = None  # of the adapter; none: the one that it has by itself
    warnings: tuple[str, ...] = ()  # what was odd about the file that it was read from

    def __post_init__(self) -> None:
        if isinstance(self.base, str):
            object.__setattr__(self, "base", Path(self.base))
        if any(isinstance(expert, str) for expert in self.experts):
            object.__setattr__(self, "experts", tuple(map(Path, self.experts)))

    @property
    def makes(self) -> str:
        """What the result is: `model` or `adapter`."""
        return self.result or ("adapter" if self.method in ADAPTERS else "model")

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
        return settings.method, {name: _one(params[name].word, value) for name, value in values.items()}, weights

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
        count = len(self.experts)
        baseless = bool(method and method.needs_base and self.base is None and self.makes == "model")
        if method and baseless and method.experts[1] == count - 1:
            words = f"{method.title} needs a base model, and takes {counted(count - 1, 'expert')} beside it"
            notes.problems.append(f"{words}. Name one of these models as `base_model`, and take it out of `models`.")
        elif method and baseless:
            notes.problems.append(f"{method.title} needs a base model. Name it as `base_model`.")
        if not count:
            notes.problems.append(NO_EXPERT)
        elif method and not (baseless and method.experts[1] == count - 1) and (words := method.miscounted(count)):
            more = method.taking(count) - count
            notes.problems.append(f"{words}. {'Add' if more > 0 else 'Remove'} {abs(more)}.")
        weights, own = self.weights or (1.0,) * count, self.own or ({},) * count
        if len(weights) != count:
            notes.problems.append(f"There are {count} experts and {len(weights)} weights. Give one to each.")
        elif len(own) != count:
            notes.problems.append(f"There are {count} experts and parameters for {len(own)}. Give them to each.")
        elif method:
            based = self.base is not None
            found = notes.tried(settings_of, method, _names(self.experts), weights, self.values, own, based)
            return found and replace(found, seed=self.seed)
        return None

    def to_yaml(self, folder: Path) -> str:
        """The recipe as YAML, with model paths relative to the folder it will stand in."""
        return as_yaml(self, self.settings().method, partial(relative, folder=folder))


def _names(experts: tuple[Path, ...]) -> tuple[str, ...]:
    """What experts are called in sentences: their folders' names, or the paths where these are not enough."""
    names = tuple(path.name or str(path) for path in experts)
    return names if len(set(names)) == len(names) else tuple(str(space.without_visitor(path)) for path in experts)


def _one(word: str, values: Any) -> Any:
    """The value that all experts share."""
    if isinstance(values, list) and any(value != values[0] for value in values):
        raise MergeError(f"{word} is not the same for all experts in this recipe, and here it must be.")
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
    return [*problems, *_of_result(recipe)]


def _of_result(recipe: Recipe) -> list[str]:
    """What is wrong with the kind of the result, and with what is said of it."""
    if recipe.result not in ("", *RESULTS):
        return [f"`result` must be one of {', '.join(RESULTS)}, but it is {recipe.result!r}."]
    rank = recipe.rank
    problems = []
    if rank is not None and (type(rank) is not int or rank < 1):
        problems.append(f"`rank` must be a whole number from 1 up, but it is {rank!r}.")
    if recipe.makes == "model":
        if recipe.method in ADAPTERS:
            words = f"`{recipe.method}` makes an adapter. Leave `result` out"
            problems.append(f"{words}, and merge that adapter into its base by `task_arithmetic` with `lambda: 1`.")
        if rank is not None:
            problems.append("`rank` is that of an adapter. Write `result: adapter` too, or leave it out.")
        return problems
    for key, idle in (("tokenizer_source", ""), ("chat_template", ""), ("extra_tensors", "drop")):
        if getattr(recipe, key) != idle:
            problems.append(f"`{key}` has no meaning for an adapter, which has none. Leave it out.")
    return problems


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe, of ours or of mergekit's: from a file, a merged folder or weights file, or from text.

    Relative paths of models start at the file's folder. RecipeError names everything that is wrong.
    """
    notes = Notes()
    try:
        recipe = Recipe(**read(source, notes))
    except MergeError as error:
        found = [*notes.problems, *str(error).splitlines()]
        raise RecipeError(found, [*notes.warnings, *notes.hints]) from error
    wrong = [problem for problem in recipe.problems() if not (notes.problems and problem.startswith(IMPLIED))]
    if problems := [*notes.problems, *wrong]:
        named = [path for path in (recipe.base, *recipe.experts) if path not in (None, UNREAD)]
        raise RecipeError(problems, [*notes.warnings, *notes.hints], named)
    params = {param.key: param for param in find_method(recipe.method).params.values()}
    weights = [
        as_numbers({"weight": weight}, params)["weight"] if "weight" in params else 1.0 for weight in recipe.weights
    ]
    own = tuple(as_numbers(mine, params) for mine in recipe.own)
    recipe = replace(recipe, weights=tuple(weights), values=as_numbers(recipe.values, params), own=own)
    return replace(recipe, warnings=tuple(dict.fromkeys([*notes.warnings, *_unusual(recipe)])))


def _unusual(recipe: Recipe) -> Iterator[str]:
    """A sentence for each value that is allowed, and that hardly anyone means."""
    method = find_method(recipe.method)
    params = {param.key: param for param in method.params.values()}
    stated = [("weight", weight) for weight in recipe.weights if "weight" in params]
    stated += [told for mine in (recipe.values, *recipe.own) for told in mine.items()]
    for param, value in ((params[key], leaf) for key, told in stated for leaf in leaves(told)):
        if param.kind == "number" and value is not None and not param.low <= value <= param.high:
            yield f"{param.word} is {value:g}, and is usually between {param.low:g} and {param.high:g}."
        if param.counts == "experts" and value > len(recipe.experts):
            yield f"{param.word} is {value:g}, and there are only {counted(len(recipe.experts), 'expert')} to reach it."
    if method.idle:
        yield from method.idle(dict(stated))
