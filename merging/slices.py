"""The models of a recipe of mergekit's: listed under `models`, or as one slice through all their layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from merging.errors import MergeError
from merging.header import read_json
from merging.notes import Notes
from merging.references import UNREAD, resolved

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
STACKED = "Layers of models are stacked here, and only models of the same layers can be merged. Use `models`."


def one_slice(content: dict[Any, Any], folder: Path, notes: Notes) -> tuple[list[dict[Any, Any]], Any, Path | None]:
    """What the recipe says of each model, the parameters of its slice, and its base model."""
    if content.get("modules"):
        raise MergeError("`modules` merges the parts of a model apart, which is not done here. Use `models`.")
    base = content.get("base_model")
    if not content.get("slices"):
        return notes.listed(content, "models", "expert"), None, base and _base(base, folder, notes)
    if content.get("models"):
        notes.problems.append("The recipe has `models` and `slices`. Leave one of them out.")
    slices = notes.listed(content, "slices", "slice")
    if len(slices) != 1:
        raise MergeError(f"The recipe has {len(slices)} `slices`. {STACKED}" if slices else "\n".join(notes.problems))
    base = slices[0].get("base_model") or base
    place = base and _base(base, folder, notes)
    sources = notes.listed(slices[0], "sources", "model")
    first = place or next((notes.tried(resolved, folder, told.get("model"), None) for told in sources), None)
    _full([told.get("layer_range") for told in sources], first, notes)
    models = [{key: told[key] for key in told if key != "layer_range"} for told in sources]
    return models, slices[0].get("parameters"), place


def _base(told: Any, folder: Path, notes: Notes) -> Path:
    """The base model that is named, also where that is no path: so it is not missing, too."""
    return notes.tried(resolved, folder, told, None) or UNREAD


def _full(ranges: list[Any], model: Path | None, notes: Notes) -> None:
    """A problem unless every range is all layers of the model; a warning where nobody can tell."""
    known = model and notes.tried(_layers, model)
    for told in ranges:
        if not isinstance(told, list) or len(told) != 2 or any(type(end) is not int for end in told):
            notes.problems.append(f"A `layer_range` must be two whole numbers, but it is {told!r}.")
        elif told[0] != 0 or told != ranges[0] or told[1] <= 0 or (known and told[1] != known):
            layers = f"The model has {known} layers, and a" if known else "A"
            notes.problems.append(f"{layers} slice is {told}. {STACKED}")
    if not known and ranges:
        notes.warnings.append(f"Whether {ranges[0]} is all layers could not be checked; all layers are merged.")


def _layers(model: Path) -> int | None:
    """The number of layers that the model's config names."""
    folder = model.expanduser()
    config = (folder if folder.is_dir() else folder.parent) / "config.json"
    if not config.is_file():
        return None
    content = read_json(config)
    text = content.get("text_config")
    for told in (content, text if isinstance(text, dict) else {}):
        for key in LAYERS:
            if type(told.get(key)) is int:
                return int(told[key])
    return None
