"""Recipes: which method, which models, which values; everything needed to repeat a merge, and readable as YAML."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from merging.errors import MergeError
from merging.method import Method, find_method
from merging.params import nearest

KEYS = ["mergescope", "merge_method", "base_model", "models", "parameters"]


@dataclass(frozen=True)
class Recipe:
    """What to merge and how. Values are keyed as in the YAML, so scaling is `lambda`; missing ones have defaults."""

    method: str
    base: Path
    experts: tuple[Path, ...]
    weights: tuple[float, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)

    def checked(self) -> tuple[Method, dict[str, Any], list[float]]:
        """The method, its values by argument name, and one weight per expert; MergeError names what is wrong."""
        method = find_method(self.method)
        if not self.experts:
            raise MergeError("No expert is chosen. Choose at least one.")
        weights = self.weights or (1.0,) * len(self.experts)
        if len(weights) != len(self.experts):
            raise MergeError(f"There are {len(self.experts)} experts and {len(weights)} weights. Give one to each.")
        weight = method.params.get("weight")
        if weight is None and any(number != 1 for number in weights):
            raise MergeError(f"{method.title} has no weights of its own. Leave every weight at 1.")
        return method, method.checked(self.values), [weight.checked(w) if weight else 1.0 for w in weights]

    def to_yaml(self, folder: Path) -> str:
        """The recipe as YAML, with model paths relative to the folder it will stand in."""
        method, values, weights = self.checked()
        models: list[dict[str, Any]] = [{"model": _relative(path, folder)} for path in self.experts]
        if "weight" in method.params:
            for model, weight in zip(models, weights, strict=True):
                model["parameters"] = {"weight": weight}
        parameters = {param.key: values[name] for name, param in method.params.items() if not param.per_expert}
        content = {
            "mergescope": 1,
            "merge_method": method.name,
            "base_model": _relative(self.base, folder),
            "models": models,
            "parameters": {key: value for key, value in parameters.items() if value is not None},
        }
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive, where Windows knows no relative path
        return str(path.resolve())


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe from a YAML file, or from text; relative model paths start at the file's folder."""
    text = str(source)
    folder = Path()
    if "\n" not in text and text.endswith((".yaml", ".yml")):
        folder = Path(text).parent
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MergeError(f"The recipe {source} could not be read ({error}). Check the path.") from error
    content = _mapping(_parsed(text), "The recipe")
    for key in content:
        if key not in KEYS:
            raise MergeError(f"A recipe has no key `{key}`. {nearest(str(key), KEYS)}")
    models = content.get("models")
    if not isinstance(models, list) or not models:
        raise MergeError("The recipe lists no `models`. Name at least one expert there.")
    experts = [_mapping(model, "Each of the recipe's `models`") for model in models]
    recipe = Recipe(
        method=_text(content, "merge_method"),
        base=folder / _text(content, "base_model"),
        experts=tuple(folder / _text(expert, "model") for expert in experts),
        weights=tuple(_mapping(expert.get("parameters", {}), "`parameters`").get("weight", 1.0) for expert in experts),
        values=_mapping(content.get("parameters", {}), "`parameters`"),
    )
    recipe.checked()
    return recipe


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise MergeError(f"The recipe is not valid YAML ({error}). Correct it there.") from error


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MergeError(f"{what} must be keys with values, but it is {type(value).__name__}. Correct the recipe.")
    return value


def _text(content: dict[str, Any], key: str) -> str:
    if not isinstance(content.get(key), str) or not content[key]:
        raise MergeError(f"The recipe has no `{key}`. Add it, as a text.")
    return str(content[key])



