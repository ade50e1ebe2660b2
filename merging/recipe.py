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
FORMAT = 1


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
            "mergescope": FORMAT,
            "merge_method": method.name,
            "base_model": _relative(self.base, folder),
            "models": models,
            "parameters": {key: value for key, value in parameters.items() if value is not None},
        }
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.expanduser().resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive, where Windows knows no relative path
        return str(path.expanduser().resolve())


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe from a YAML file, or from text; relative model paths start at the file's folder."""
    text = str(source)
    folder = Path()
    if isinstance(source, Path) or ("\n" not in text and text.endswith((".yaml", ".yml"))):
        folder = Path(text).parent
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MergeError(f"The recipe {source} could not be read ({error}). Check the path.") from error
    content = _mapping(_parsed(text), "The recipe")
    _only(KEYS, content, "A recipe")
    form = content.get("mergescope", FORMAT)
    if form != FORMAT:
        raise MergeError(f"The recipe is of format {form}, and only {FORMAT} is known. Update Mergescope.")
    models = content.get("models")
    if not isinstance(models, list) or not models:
        raise MergeError("The recipe lists no `models`. Name at least one expert there.")
    experts = [_expert(model) for model in models]
    recipe = Recipe(
        method=_text(content, "merge_method"),
        base=_under(folder, _text(content, "base_model")),
        experts=tuple(_under(folder, path) for path, _ in experts),
        weights=tuple(weight for _, weight in experts),
        values=_mapping(content.get("parameters") or {}, "`parameters`"),
    )
    recipe.checked()
    return recipe


def _under(folder: Path, path: str) -> Path:
    return Path(path) if path.startswith("~") else folder / path


def _expert(told: Any) -> tuple[str, Any]:
    """An expert's path and its weight."""
    model = _mapping(told, "Each of the recipe's `models`")
    own = _mapping(model.get("parameters") or {}, "`parameters`")
    _only(["model", "parameters"], model, "A model")
    _only(["weight"], own, "A model's `parameters`")
    return _text(model, "model"), own.get("weight", 1.0)


def _only(known: list[str], content: dict[str, Any], owner: str) -> None:
    for key in content:
        if key not in known:
            raise MergeError(f"{owner} has no key `{key}`. {nearest(str(key), known)}")


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
