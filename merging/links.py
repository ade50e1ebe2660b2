"""Recipes as part of an address: short, harmless to open, and without the paths of the machine that they come from.

What follows `?recipe=` is the recipe's YAML, compressed (zlib), in letters that addresses allow (base64url). Models
that are offered to visitors are named by that, as in `embedded:base`, and those of the Hub by their names and commits.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from merging.errors import MergeError
from merging.hub.cached import name_of
from merging.recipe import Recipe, load_recipe
from merging.references import DONORS
from merging.writing import as_yaml

LONGEST = 8000  # letters, which browsers and servers pass on
MOST = 1 << 18  # bytes of YAML that so many may stand for
LETTERS = re.compile(r"[A-Za-z0-9_-]+")
NAME = re.compile(r"(?P<root>[a-z]{2,}):(?P<path>.*)")
DAMAGED = "The link's recipe is damaged or cut short. Copy the whole link again."

Roots = Mapping[str, Path]  # the folders of models that are offered, by small letters that name them


def encode(recipe: Recipe, roots: Roots) -> str:
    """The recipe as letters of an address. Models outside the roots keep their whole paths, which only their owner has.

    MergeError where it is too long for an address.
    """
    text = as_yaml(recipe, recipe.settings().method, partial(_name, roots)).encode()
    letters = base64.urlsafe_b64encode(zlib.compress(text, 9)).decode().rstrip("=")
    for length, most, unit in ((len(text), MOST, "bytes"), (len(letters), LONGEST, "letters")):
        if length > most:
            words = f"The recipe takes {length:,} {unit}, and a link holds {most:,}"
            raise MergeError(f"{words}. Pass it on as a file, or change fewer weights.")
    return letters


def decode(letters: str) -> str:
    """The YAML that a link holds, models named as in the link; MergeError where it was not made by `encode`."""
    if not LETTERS.fullmatch(letters) or len(letters) > LONGEST:
        raise MergeError(DAMAGED)
    unpacker = zlib.decompressobj()
    try:
        packed = base64.urlsafe_b64decode(letters + "=" * (-len(letters) % 4))
        text = unpacker.decompress(packed, MOST).decode()
    except (ValueError, zlib.error) as error:
        raise MergeError(DAMAGED) from error
    if not unpacker.eof or unpacker.unused_data:
        raise MergeError(DAMAGED)
    return text


def opened(letters: str, roots: Roots) -> Recipe:
    """The recipe that a link holds, with the paths that its models have here.

    MergeError where it is damaged, cannot be run, or names models of a folder that is not offered here.
    """
    recipe = load_recipe(f"{decode(letters)}\n")
    source = recipe.tokenizer_source
    return replace(
        recipe,
        base=recipe.base and _path(recipe.base, roots),
        experts=tuple(_path(path, roots) for path in recipe.experts),
        tokenizer_source=str(_path(Path(source), roots)) if source and source not in DONORS else source,
    )


def _name(roots: Roots, path: Path) -> str:
    """What a model is called in a link."""
    for whole in (path.expanduser().absolute(), path.expanduser().resolve()):
        for root, folder in roots.items():
            for start in (folder.expanduser().absolute(), folder.expanduser().resolve()):
                if whole.is_relative_to(start):
                    return f"{root}:{whole.relative_to(start).as_posix()}"
    if name := name_of(path):
        return str(name)
    return path.expanduser().absolute().as_posix()


def _path(named: Path, roots: Roots) -> Path:
    """The path of a model that a link names."""
    found = NAME.fullmatch(named.as_posix())
    if not found:
        return named
    inside = PurePosixPath(found["path"])
    if inside.is_absolute() or ".." in inside.parts:
        raise MergeError(DAMAGED)
    if found["root"] not in roots:
        words = f"The link names the model `{named.as_posix()}`, and none are offered as `{found['root']}` here"
        raise MergeError(f"{words}. Start the app with the folder that holds it, or choose a model in its place.")
    return roots[found["root"]] / inside
