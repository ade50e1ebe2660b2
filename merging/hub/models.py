"""Models that a recipe names and that are on the Hub alone: looked at before the merge, and fetched for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from merging.errors import MergeError, RecipeError
from merging.hub.asking import UnaskedError
from merging.hub.cached import downloaded, previewed
from merging.hub.fetch import OnBytes, Wanted, fetch, left_of, wanted
from merging.hub.licences import NOT_TOLD, Licence, licence_in
from merging.hub.names import HubName, hub_name
from merging.hub.preview import preview
from merging.hub.remote import look
from merging.hub.room import too_many

AT_ONCE = 4  # models that the Hub is asked about at a time

if TYPE_CHECKING:
    from merging.recipe import Recipe


def on_the_hub(paths: Iterable[str | Path | None]) -> list[HubName]:
    """Those that are names of the Hub, and neither here as they are written nor downloaded."""
    named = [path for path in paths if path is not None and not os.path.exists(path) and not downloaded(path)]
    return list(dict.fromkeys(name for path in named if (name := hub_name(path))))


def asked(paths: Iterable[str | Path | None]) -> dict[str, str]:
    """Ask the Hub about those that only it has, for their previews; what is wrong with each, by its path.

    A preview of an earlier time stands where the Hub cannot be asked.
    """
    names = on_the_hub(paths)
    with ThreadPoolExecutor(max(1, min(len(names), AT_ONCE))) as pool:
        told = zip(names, pool.map(_tried, names), strict=True)
    return {str(Path(str(name))): words for name, words in told if words}


def _tried(name: HubName) -> str:
    try:
        preview(name)
    except MergeError as error:
        return "" if isinstance(error, UnaskedError) and previewed(str(name)) else str(error)
    return ""


def donors(recipe: Recipe) -> list[HubName]:
    """The model whose tokenizer a recipe takes, where only the Hub has it, and it is none of those that are merged."""
    source = Path(str(recipe.tokenizer_source))
    models = [path for path in (recipe.base, *recipe.experts) if path is not None]
    among = any(path.parts[-len(source.parts) :] == source.parts for path in models)
    return [] if among else on_the_hub([source])


def looked_at(recipe: Recipe, anew: bool = False) -> dict[Path, Wanted]:
    """What is to be downloaded for a recipe, by the paths of its models; previews stand for these from now on.

    So does one for the model whose tokenizer it takes. RecipeError names each model that the Hub does not give; where
    it cannot be asked, a preview of an earlier time will do, unless it must be asked anew, as for its weights.
    """
    found, problems = dict[Path, Wanted](), []
    for name in on_the_hub((recipe.base, *recipe.experts)):
        try:
            found[Path(str(name))] = wanted(name)
        except MergeError as error:
            known = None if anew or not isinstance(error, UnaskedError) else left_of(str(name))
            if known:
                found[Path(str(name))] = known
            else:
                problems.append(str(error))
    problems += [words for name in donors(recipe) if (words := _tried(name))]
    if problems:
        raise RecipeError(problems, recipe.warnings)
    return found


def fetched(recipe: Recipe, on_bytes: OnBytes | None = None, stop: threading.Event | None = None) -> Recipe:
    """The recipe with the folders of the models that it names, all of them on this machine."""
    left = looked_at(recipe, anew=True)
    if words := too_many((recipe.base, *recipe.experts), sum(one.bytes for one in left.values())):
        raise MergeError(words)
    folders = fetch([one.name for one in left.values()], on_bytes, stop)
    return _with(recipe, _previews(donors(recipe)) | dict(zip(left, folders, strict=True)))


def pinned(recipe: Recipe) -> Recipe:
    """The recipe with the previews, each of one commit, of those of its models that only the Hub has."""
    looked_at(recipe, anew=True)
    return _with(recipe, _previews([*on_the_hub((recipe.base, *recipe.experts)), *donors(recipe)]))


def _previews(names: Iterable[HubName]) -> dict[Path, Path]:
    """The folders of those that were looked at, by their paths in a recipe."""
    return {Path(str(name)): folder for name in names if (folder := previewed(str(name)))}


def _with(recipe: Recipe, here: Mapping[Path, Path]) -> Recipe:
    """The recipe with folders in the place of names."""
    base = recipe.base and here.get(recipe.base, recipe.base)
    experts = tuple(here.get(path, path) for path in recipe.experts)
    donor = here.get(Path(str(recipe.tokenizer_source)))
    return replace(recipe, base=base, experts=experts, tokenizer_source=str(donor or recipe.tokenizer_source))


def licence_of(name: HubName) -> Licence:
    """The licence that the card of a model on the Hub tells; `NOT_TOLD` also where the Hub cannot be asked."""
    try:
        there = look(name)
    except MergeError:
        return NOT_TOLD
    return licence_in(there.card, f"https://huggingface.co/{there.name.repo}/blob/{there.name.revision}")
