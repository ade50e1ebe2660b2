"""The recipe that the screen stands for: its controls, what an opened recipe says beyond them, and changes by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from merging import space
from merging.edits import Edits, applied, uneditable
from merging.errors import MergeError
from merging.hub.names import hub_name
from merging.method import ADAPTERS, METHODS
from merging.recipe import Recipe
from merging.references import DONORS
from ui.controls import first
from ui.merge_panel import recipe_of
from ui.models_panel import Selection


@dataclass(frozen=True, eq=False)
class Opened:
    """A recipe that was opened, and what its controls were set to, so that one that was moved since counts instead."""

    recipe: Recipe | None = None
    shown: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Held:
    """A recipe that others are compared with."""

    recipe: Recipe


@dataclass(frozen=True, eq=False)
class Standing:
    """What the controls stood for when they were last heard, and how often they had been heard by then."""

    recipe: Recipe | None = None  # none where there is something wrong with it, or nothing was heard yet
    problem: str = ""
    move: int = 0


@dataclass(frozen=True, eq=False)  # for Gradio, which hashes it, another one is another state
class Draft:
    """What stands beside the controls: weights by expert path, changes by hand, and the recipe that was opened."""

    weights: dict[str, Any] = field(default_factory=dict)
    edits: Edits = field(default_factory=Edits)
    opened: Opened = field(default_factory=Opened)


def drafted(selection: Selection, fields: dict[str, Any], draft: Draft, all_of_them: bool = False) -> Recipe:
    """The recipe, with all chosen experts or with those that fit; MergeError where it cannot be changed as asked."""
    recipe = _beyond(recipe_of(selection, fields, draft.weights, all_of_them), fields, draft.opened)
    names = selection.adapted if recipe.makes == "adapter" else selection.merged
    if not draft.edits.standing or not names:
        return recipe
    if words := uneditable(recipe):
        raise MergeError(f"{words} Or press Reset below “Change by hand”, to do without your changes.")
    return applied(recipe, draft.edits, names)


def converted(draft: Draft) -> Draft:
    """The draft when task arithmetic's parameters are set anew: what an opened recipe said of them is past."""
    told = draft.opened.recipe
    if not told or told.method != "task_arithmetic":
        return draft
    return replace(draft, opened=replace(draft.opened, recipe=replace(told, values={}, own=())))


def _beyond(recipe: Recipe, fields: dict[str, Any], opened: Opened) -> Recipe:
    """The recipe with what was said in the opened one, and has no control here."""
    told = opened.recipe
    if not told or told.base != recipe.base or told.experts != recipe.experts:
        return recipe
    recipe = replace(
        recipe,
        out_dtype=told.out_dtype,
        tokenizer_source=told.tokenizer_source,
        chat_template=told.chat_template,
        extra_tensors=told.extra_tensors,
    )
    if told.makes != recipe.makes and recipe.makes == "adapter":  # which has none of these
        recipe = replace(recipe, tokenizer_source="", chat_template="", extra_tensors="drop")
    if told.method != recipe.method:
        return recipe

    def untouched(values: dict[str, Any]) -> dict[str, Any]:
        names = {key: f"{told.method}.{key}" for key in values}
        return {key: values[key] for key, name in names.items() if fields.get(name) == opened.shown.get(name)}

    own = tuple(map(untouched, told.own))
    seed = recipe.seed if f"{told.method}.seed" in fields else told.seed
    values = {**recipe.values, **untouched(told.values)}
    return replace(recipe, values=values, own=own if any(own) else (), seed=seed)


def controls_of(recipe: Recipe, form: dict[str, Any]) -> dict[str, Any]:
    """What the controls show of a recipe, by their names in the form; a gradient is shown by its first number."""
    shown: dict[str, Any] = {"method": recipe.method}
    params = {param.key: param for param in (METHODS | ADAPTERS)[recipe.method].params.values()}
    for key, param in params.items():
        name = f"{recipe.method}.{key}"
        if name in form:
            value = first(recipe.values.get(key, param.default))
            shown[name] = ("" if value is None else str(value)) if param.optional else value
    if f"{recipe.method}.seed" in form:
        shown[f"{recipe.method}.seed"] = recipe.seed
    shown["result"] = shown["wanted"] = recipe.makes
    shown["rank"] = "" if recipe.rank is None else str(recipe.rank)
    return shown


def placed(recipe: Recipe, offered: dict[str, str]) -> Recipe:
    """The recipe of a text without a place, with models that are not where it says replaced by offered ones of that
    name, by folder name.

    Its warnings tell of each. A relative path starts at a folder that nobody knows, and so is never one from here:
    MergeError where no offered model has its name.
    """
    told: dict[str, None] = {}

    def found(path: Path) -> Path:
        loose = not path.expanduser().is_absolute()
        if loose and path.name not in offered and not path.exists() and hub_name(path):
            return path  # the name of a model that was not downloaded yet
        if loose and path.name not in offered:
            words = f"{path} starts at the folder of the recipe, which the browser does not tell, and no model"
            instead = 'Write the recipe\'s path below "Or the path of one".'
            instead = "Name one of the Hub in its place: `owner/name`." if space.here() else instead
            raise MergeError(f"{words} at hand is called {path.name}. {instead}")
        if loose:
            told[f"The recipe names {path}, from its own folder. {offered[path.name]} is taken."] = None
            return Path(offered[path.name])
        if path.expanduser().exists() or path.name not in offered:
            return path
        told[f"There is no model at {path}. {offered[path.name]} is taken in its place."] = None
        return Path(offered[path.name])

    base, source = recipe.base and found(recipe.base), recipe.tokenizer_source
    return replace(
        recipe,
        base=base,
        experts=tuple(map(found, recipe.experts)),
        tokenizer_source=str(found(Path(source))) if source and source not in DONORS else source,
        warnings=(*recipe.warnings, *told),
    )
