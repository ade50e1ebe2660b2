"""What a result was made of, told in its folder and in its files: the recipe, the inputs, and our version."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint
from merging.identity import full_hash, identity
from merging.plan import Plan
from merging.recipe import Recipe

STORY = "mergescope.json"


def provenance(recipe: Recipe, work: Plan, place: Path, hash_inputs: bool = False) -> dict[str, Any]:
    """Our version, the recipe as YAML, and the identity of each model, with full hashes where they are asked for."""
    models = {"base": _told(work.base, hash_inputs)}
    models |= {f"expert {number}": _told(model, hash_inputs) for number, model in enumerate(work.experts, 1)}
    return {"mergescope": our_version(), "recipe": recipe.to_yaml(place), "inputs": models}


def _told(model: Checkpoint, hash_inputs: bool) -> dict[str, Any]:
    told = identity(model)
    if hash_inputs:
        told["sha256"] = {name: full_hash(model.folder / name) for name in told["files"]}
    return told


def mark_of(story: dict[str, Any], work: Plan, limit: int, device: str) -> str:
    """What tells one merge from another: what it makes and where, the files that it reads, and when they changed."""
    home = sorted((work.vocabulary.home or work.base.folder).glob("*token*"))
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in home if file.is_file()]
    stamps = [files, *(model.stamp for model in (work.base, *work.experts))]
    text = json.dumps([story, stamps, work.fates, limit, device], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def our_version() -> str:
    try:
        return version("mergescope")
    except PackageNotFoundError:
        return "0.1.0"
