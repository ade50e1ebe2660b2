"""A recipe as the YAML that people would write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from merging.method import Method
from merging.references import DONORS, donor
from merging.rules import as_numbers

if TYPE_CHECKING:
    from merging.recipe import Recipe

FORMAT = 1


def as_yaml(recipe: Recipe, method: Method, named: Callable[[Path], str]) -> str:
    """The recipe as YAML, with every parameter spelled out, and models as `named` calls them by their paths."""
    source = recipe.tokenizer_source
    content = {
        "mergescope": FORMAT,
        "merge_method": method.name,
        "base_model": recipe.base and named(recipe.base),
        "models": _models(recipe, method, named),
        "parameters": _parameters(recipe, method),
        "seed": recipe.seed or None,
        "out_dtype": recipe.out_dtype or None,
        "tokenizer_source": donor(named(Path(source))) if source and source not in DONORS else source,
        "chat_template": recipe.chat_template or None,
        "extra_tensors": recipe.extra_tensors if recipe.extra_tensors != "drop" else None,
        "result": recipe.makes if recipe.makes != "model" else None,
        "rank": recipe.rank,
    }
    told = {key: value for key, value in content.items() if value not in (None, "")}
    return dumped(told)


def dumped(content: dict[str, Any]) -> str:
    """Keys with values as YAML."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _models(recipe: Recipe, method: Method, named: Callable[[Path], str]) -> list[dict[str, Any]]:
    params = {param.key: param for param in method.params.values()}
    weights = recipe.weights or (1.0,) * len(recipe.experts)
    models: list[dict[str, Any]] = []
    for path, weight, own in zip(recipe.experts, weights, recipe.own or ({},) * len(weights), strict=True):
        told = ({"weight": weight} if "weight" in params else {}) | own
        told = as_numbers(told, params)
        models.append({"model": named(path)} | ({"parameters": told} if told else {}))
    return models


def _parameters(recipe: Recipe, method: Method) -> dict[str, Any]:
    shared = {param.key: param for param in method.params.values() if not param.per_expert}
    values = as_numbers({key: recipe.values.get(key, param.default) for key, param in shared.items()}, shared)
    return {key: value for key, value in values.items() if value is not None}


class _Dumper(yaml.SafeDumper):
    """Lists of plain values in one line, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    plain = not any(isinstance(item, dict | list) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


_Dumper.add_representer(list, _list)
