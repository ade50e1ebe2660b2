"""What a result was made of, told in its folder and in its files: the recipe, the inputs, and our version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint
from merging.identity import full_hash, identity
from merging.plan import Plan
from merging.recipe import Recipe

STORY = "mergescope.json"
NOT_BESIDE = (".safetensors", ".safetensors.index.json", STORY, "journal.jsonl")


def provenance(
    recipe: Recipe,
    base: Checkpoint | None,
    experts: Sequence[Checkpoint],
    place: Path,
    listen: Callable[[], None] | None = None,
    collected: Sequence[Checkpoint] = (),
) -> dict[str, Any]:
    """Our version, the recipe as YAML, and the identity of each model.

    With full hashes where there is something to `listen` to while they are taken: it may raise.
    """
    models = inputs(base, experts, listen, collected)
    return {"mergescope": our_version(), "recipe": recipe.to_yaml(place), "inputs": models}


def inputs(
    base: Checkpoint | None,
    experts: Sequence[Checkpoint],
    listen: Callable[[], None] | None = None,
    collected: Sequence[Checkpoint] = (),
) -> dict[str, Any]:
    """The identity of each model by what it is; with full hashes likewise."""
    models = {"base": _told(base, listen)} if base else {}
    models |= {f"expert {number}": _told(model, listen) for number, model in enumerate(experts, 1)}
    return models | {f"statistics {number}": _told(file, listen) for number, file in enumerate(collected, 1)}


def _told(model: Checkpoint, listen: Callable[[], None] | None) -> dict[str, Any]:
    told = identity(model)
    if listen:
        told["sha256"] = {name: full_hash(model.folder / name, listen) for name in told["files"]}
    return told


def mark_of(story: dict[str, Any], work: Plan, limit: int, device: str) -> str:
    """What tells one merge from another: what it makes, where and how, the files it reads, and when they changed."""
    home = sorted((work.vocabulary.home or work.base.folder).glob("*token*"))
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in home if file.is_file()]
    return mark(story, (work.base, *work.experts, *work.collected), files, work.fates, limit, device)


def mark(story: dict[str, Any], models: Sequence[Checkpoint], *others: Any) -> str:
    """What tells one work from another: its story, the models that it reads and when they changed, and all else."""
    text = json.dumps([our_code(), story, [model.stamp for model in models], *others], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def beside(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a result, but for weights, what lists them, and what is written about it all."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: full_hash(file) for name, file in files.items() if not name.endswith(NOT_BESIDE)}


@cache
def our_code() -> str:
    """A hash of what this package does: the sources themselves, since a version does not change with every step."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(here.rglob("*.py")))).hexdigest()


def our_version() -> str:
    try:
        return version("mergescope")
    except PackageNotFoundError:
        return "0.1.0"
