"""Recipes as mergekit reads them, where it has what they ask for; what was written is read again before it is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from merging.as_task_arithmetic import inexact
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.hub.cached import kept, name_of
from merging.mergekit import MEANINGS, Meaning
from merging.method import Method, find_method
from merging.params import Param
from merging.reading import DTYPES
from merging.recipe import Recipe, load_recipe
from merging.references import DONORS, relative
from merging.rules import as_numbers, folded, mapped
from merging.sources import ADAPTER
from merging.words import listed
from merging.writing import dumped

COUNTS = ("max_iter",)  # whole numbers, written without a point for mergekit


def to_mergekit(recipe: Recipe, folder: Path | None = None) -> str:
    """YAML by which mergekit makes the same weights, model paths relative to the folder it will stand in.

    Without a folder that is the working one, and whole paths stay whole. What DARE and DELLA draw is mergekit's own.
    MergeError says what mergekit does not have, and what to do.
    """
    method = find_method(recipe.method)
    settings = recipe.settings()
    if problem := _beyond(recipe, method):
        raise MergeError(problem)
    meaning = MEANINGS[method.name]
    written = partial(_content, recipe, method, meaning)
    back = load_recipe(dumped(written(lambda path: str(path.expanduser().resolve()))) + "\n").settings()
    lost = [param.word for name, param in method.params.items() if back.rules[name] != settings.rules[name]]
    if lost:
        raise MergeError(f"{listed(lost)} would not be the same in mergekit's {method.name}. Choose what it has.")
    return dumped(written(partial(relative, folder=folder) if folder else _named))


def _named(path: Path) -> str:
    """The path as it is written into a recipe in the working folder: whole where it is, else relative."""
    whole = path.expanduser()
    if not whole.is_absolute():
        return relative(path, Path())
    return (whole.resolve() if ".." in whole.parts else whole).as_posix()


def _beyond(recipe: Recipe, method: Method) -> str:
    """Why mergekit cannot make this merge, in two sentences; empty where it may."""
    if method.name not in MEANINGS:
        way = "" if inexact(recipe) else "Turn it into task arithmetic with its coefficients, or choose"
        return f"mergekit has no {method.title}. {way or 'Choose'} one of {', '.join(MEANINGS)}."
    for key, value in MEANINGS[method.name].sets.items():
        told = recipe.values.get(key, method.params[key].default)
        if told != value:
            return f"mergekit's {method.name} is `{key}: {value}`, and this recipe says `{key}: {told}`. Change that."
    if recipe.makes != "model":
        return "mergekit merges adapters into models, and this recipe makes an adapter. Leave `result` out."
    if recipe.extra_tensors != "drop":
        return "mergekit has no word for `extra_tensors: keep`. Leave it out."
    for path in (*([recipe.base] if recipe.base else []), *recipe.experts):
        if path.expanduser().is_file():
            return f"mergekit opens folders, and {path} is a file. Put it into a folder of its own, with its config."
    return ""


def _content(recipe: Recipe, method: Method, meaning: Meaning, named: Callable[[Path], str]) -> dict[str, Any]:
    """What mergekit's YAML says, every parameter of it spelled out."""
    params = {param.key: param for param in method.params.values()}
    base = None if meaning.base_counts else recipe.base  # which would be one of the models that are merged
    weights, own = recipe.weights or (1.0,) * len(recipe.experts), recipe.own or ({},) * len(recipe.experts)
    models = []
    for path, weight, mine in zip(recipe.experts, weights, own, strict=True):
        told = as_numbers(({"weight": weight} if "weight" in params else {}) | mine, params)
        models.append({"model": _reference(path, recipe.base, named)} | ({"parameters": told} if told else {}))
    source: Any = recipe.tokenizer_source
    if source and (source not in DONORS or (source == "base" and not base and recipe.base)):
        source = _reference(recipe.base if source == "base" and recipe.base else Path(source), None, named)
    content = {
        "merge_method": method.name,
        "base_model": base and _reference(base, None, named),
        "models": models,
        "parameters": _shared(recipe, meaning, params),
        "dtype": "float32",
        "out_dtype": recipe.out_dtype or _stored(recipe.base or recipe.experts[0]),
        "tokenizer_source": source,
        "chat_template": recipe.chat_template,
    }
    return {key: value for key, value in content.items() if value}


def _shared(recipe: Recipe, meaning: Meaning, params: dict[str, Param]) -> dict[str, Any]:
    """The recipe's own parameters, in mergekit's words."""
    ours = {theirs: (key, words) for theirs, (key, *words) in meaning.words.items()}
    shared = {}
    for key in meaning.shared:
        name, words = ours.get(key, (key, []))
        if name in params:
            param = params[name]
            value = mapped(folded(recipe.values.get(name, param.default), param.default), param.checked)
            change = partial(_switch, name, words) if words else _counted if key in COUNTS else None
            shared[key] = mapped(value, change) if change else value
    return {key: value for key, value in shared.items() if value is not None}


def _switch(name: str, words: list[str], value: Any) -> bool:
    """True for the first of two words, false for the other; MergeError for a third."""
    if value not in words:
        raise MergeError(f"mergekit has no `{name}: {value}`. Choose {' or '.join(f'`{word}`' for word in words)}.")
    return bool(value == words[0])


def _counted(value: Any) -> Any:
    return int(value) if float(value).is_integer() else value


def _reference(path: Path, base: Path | None, named: Callable[[Path], str]) -> Any:
    """How mergekit names a model: as a text, or in keys where it is an adapter, or `+` and `@` would mean more."""
    if base and ((kept(path) or path.expanduser()) / ADAPTER).is_file():
        return {"model": _place(base, named), "lora": _place(path, named)}
    if name := name_of(path):
        return str(name)
    told = named(path)
    return {"model": {"path": told}} if "+" in told or "@" in told else told


def _place(path: Path, named: Callable[[Path], str]) -> dict[str, str]:
    """A model in mergekit's keys, in which it reads a path as it stands."""
    name = name_of(path)
    if not name:
        return {"path": named(path)}
    return {"path": name.repo, "revision": name.revision} if name.revision else {"path": name.repo}


def _stored(path: Path) -> str:
    """How a model is stored, so that the result is, too; empty where that is not one dtype, or cannot be read."""
    try:
        dtypes = open_checkpoint(path).dtypes
    except MergeError:
        return ""
    return dtypes[0] if len(dtypes) == 1 and dtypes[0] in DTYPES else ""
