"""How recipes name models: a path, from the recipe's folder or, in mergekit's, the working one, or a Hub name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from merging import space
from merging.errors import MergeError
from merging.hub.cached import downloaded, name_of
from merging.hub.names import hub_name, told_by_name
from merging.params import nearest

DONORS = ("base", "union")  # what `tokenizer_source` may say beside a model's path
UNREAD = Path("?")  # stands for a path that could not be read, until all that is wrong is said
KEYS = ["model", "path", "revision", "lora", "override_architecture"]


def under(folder: Path, told: Any) -> Path:
    """The path that a recipe of ours names: a text, or a mapping with `path`."""
    path = _parts(told)[0]
    place = _under(folder, path)
    if os.path.exists(place.expanduser()) or not hub_name(path := told_by_name(path)):
        return place
    return _on_the_hub(path) or Path(path)


def resolved(folder: Path, told: Any, base: Path | None) -> Path:
    """The path that a recipe of mergekit's names, `path[@revision][+lora[@revision]]` or a mapping.

    What is there as it is written wins. An adapter is a model of its own here, so `base+lora` is the adapter's path.
    """
    path, lora = _parts(told)
    if not lora and not _there(folder, path):
        path, lora = _split(folder, path)
    model = _model(folder, path)
    if not lora:
        return model or _under(folder, path)
    adapter = _model(folder, lora)
    if not adapter or not base or model != base:
        raise MergeError(
            f"`{path}+{lora}` puts an adapter on a model. That can be done with an adapter that is here or on the Hub, "
            "and the recipe's base model; merge others into their model first."
        )
    return adapter


def relative(path: Path, folder: Path) -> str:
    """The path as it is written into a recipe in that folder; a model of the Hub by its name there, with the commit."""
    if name := name_of(path):
        return str(name)
    try:
        return Path(os.path.relpath(path.expanduser().resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive, where Windows knows no relative path
        return str(path.expanduser().resolve())


def donor(path: str) -> str:
    """The path of a tokenizer's model, told apart from the words that mean something else there."""
    return f"./{path}" if path in DONORS else path


def _on_the_hub(path: str) -> Path | None:
    """The folder of a model that was downloaded; in a Space models of the Hub are told by their names alone."""
    return None if space.here() else downloaded(path)


def _parts(told: Any) -> tuple[str, str]:
    """The path and the adapter's path that a reference names, as a text or as mergekit's mapping."""
    if isinstance(told, str):
        return _path(told), ""
    if not isinstance(told, dict):
        raise MergeError(f"A model is named by a text, but here it is {told!r}. Write the path of its folder.")
    for key in told:
        if key not in KEYS:
            raise MergeError(f"The model {told!r} has no key `{key}`. {nearest(str(key), KEYS)}")
    if told.get("override_architecture") is not None:
        raise MergeError("`override_architecture` is not needed: tensors are matched by name. Leave it out.")
    path, adapter = _parts(told["model"] if "model" in told else told.get("path"))
    if told.get("revision") is not None:
        path = told_by_name(path)
        if not hub_name(path) or not hub_name(f"{path}@{told['revision']}"):
            words = f"The model {told!r} asks for a revision, and a folder has none"
            raise MergeError(f"{words}. Name that revision's folder, or a model of the Hub: `owner/name`.")
        path = f"{path}@{told['revision']}"
    lora, below = _parts(told["lora"]) if told.get("lora") is not None else (adapter, "")
    if below or (adapter and lora != adapter):
        raise MergeError(f"The model {told!r} has an adapter on an adapter. Merge one of them into its model first.")
    return path, lora


def _path(told: str) -> str:
    try:
        told.encode()
        Path(told).expanduser()
    except (ValueError, RuntimeError) as error:
        raise MergeError(f"{told!r} cannot be a path ({error}). Correct it.") from error
    if not told or "\0" in told:
        raise MergeError(f"{told!r} cannot be a path. Write the path of a model's folder.")
    return told


def _under(folder: Path, path: str) -> Path:
    return Path(path) if path.startswith("~") else folder / path


def _there(folder: Path, path: str) -> Path | None:
    """The path from the recipe's folder, or from the working one; None where nothing is that may be opened."""
    places = (_under(folder, path), Path(path))
    return next((place for place in places if os.path.exists(place.expanduser()) and not space.opens(place)), None)


def _model(folder: Path, path: str) -> Path | None:
    """The path where there is something, or the model of the Hub that it names; None where it is neither.

    MergeError where it asks for the revision of a folder.
    """
    if there := _there(folder, path):
        return there
    name = hub_name(path := told_by_name(path))
    if name and name.revision and _there(folder, name.repo):
        words = f"`{path}` asks for a revision, and {name.repo} is a folder here, which has none"
        raise MergeError(f"{words}. Name that revision's folder.")
    return _on_the_hub(path) or (Path(path) if name else None)


def _split(folder: Path, told: str) -> tuple[str, str]:
    """A text that is no path, parted where mergekit would: at a `+` before an adapter."""
    halves = [(told[:at], told[at + 1 :]) for at, letter in enumerate(told) if letter == "+"]
    here = [(model, lora) for model, lora in halves if model and _there(folder, model)]
    model, lora = (here or halves or [(told, "")])[0]
    if any("@" in half and not _model(folder, half) for half in (model, lora)):
        words = (
            f"`{told}` is no path here, and asks for a revision, which models of the Hub have: `owner/name@revision`"
        )
        raise MergeError(f"{words}. Name that revision's folder.")
    return model, lora
