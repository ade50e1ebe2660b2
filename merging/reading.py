"""Recipes as they are read: from a file, a merged model or text, in our format or in mergekit's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from merging import mergekit
from merging.document import found, parsed
from merging.errors import MergeError
from merging.method import ADAPTERS, METHODS
from merging.notes import Notes, kind
from merging.references import DONORS, UNREAD, donor, under
from merging.rules import folded, hidden, misshapen
from merging.writing import FORMAT

KEYS = ["mergescope", "merge_method", "base_model", "models", "parameters", "seed", "dtype", "out_dtype"]
KEYS += ["tokenizer_source", "tokenizer", "chat_template", "extra_tensors", "result", "rank"]
DTYPES = ["float32", "float16", "bfloat16"]


def read(source: str | Path, notes: Notes) -> dict[str, Any]:
    """The fields of the Recipe that stands in a file, a merged folder or weights file, or a text."""
    text, folder = found(source)
    content = parsed(text)
    if content is None and text.strip("\n ") == "":
        raise MergeError("The recipe is empty. Write at least `merge_method` and `models` into it.")
    if not isinstance(content, dict):
        hint = "Correct the recipe." if "\n" in text else "If it is meant to be a file, its name ends in .yaml."
        raise MergeError(f"The recipe must be keys with values, but it is {kind(content)}. {hint}")
    if mergekit.wrote(content):
        notes.hints.append(f"It was read as a recipe of mergekit's.{mergekit.OURS_INSTEAD}")
        content, folder = mergekit.translated(content, folder, notes), Path()
    else:
        _look(content, notes)
    return _fields(content, folder, notes)


def _look(content: dict[Any, Any], notes: Notes) -> None:
    """A warning for each filter, as it is written, that never applies."""
    models = content.get("models")
    for owner in (content, *(models if isinstance(models, list) else [])):
        told = owner.get("parameters") if isinstance(owner, dict) else None
        for key, value in told.items() if isinstance(told, dict) else ():
            notes.warnings += hidden(f"`{key}`", value)


def _fields(content: dict[Any, Any], folder: Path, notes: Notes) -> dict[str, Any]:
    """The fields that a recipe in our format stands for; what is left out, or empty, has the Recipe's default."""
    form = content.get("mergescope")
    if form is None:
        notes.warnings.append("mergekit has no such method, so this is read as our recipe. Add `mergescope: 1` to it.")
    elif form != FORMAT or isinstance(form, bool):
        notes.problems.append(f"The recipe is of format {form}, and only {FORMAT} is known. Update Mergescope.")
    method, base = notes.text(content, "merge_method"), content.get("base_model")
    known = METHODS | ADAPTERS
    params = [param.key for param in known[method].params.values()] if method in known else []
    notes.only(KEYS, content, "A recipe", params, "parameters")
    shared = _inside(content, params, notes)
    weight = shared.pop("weight", None) if "weight" in params else None
    models = notes.listed(content, "models", "expert")
    own = tuple(_inside(model, params, notes) for model in models)
    fields = {
        "method": method,
        "base": None if base is None else notes.tried(under, folder, base) or UNREAD,
        "experts": tuple(_expert(model, folder, params, notes) for model in models),
        "weights": tuple(_weight(mine, weight) for mine in own),  # takes it out of `own`
        "own": own if any(own) else None,
        "values": shared,
        "dtype": _arithmetic(content.get("dtype"), notes),
        "out_dtype": _dtype(content.get("out_dtype")),
        "tokenizer_source": _donor(content, folder, notes),
        **{key: content.get(key) for key in ("seed", "chat_template", "extra_tensors", "result", "rank")},
    }
    return {name: value for name, value in fields.items() if value is not None or name == "base"}


def _inside(owner: dict[Any, Any], params: list[str], notes: Notes) -> dict[Any, Any]:
    """What stands under `parameters`; a problem for each key there that is the recipe's own."""
    found = dict(notes.mapping(owner.get("parameters"), "`parameters`"))
    for key in [key for key in found if key in KEYS and key not in params]:
        notes.problems.append(f"`{key}` is none of the `parameters`. Write it beside `merge_method`.")
        del found[key]
    return found


def _expert(model: dict[Any, Any], folder: Path, params: list[str], notes: Notes) -> Path:
    notes.only(["model", "parameters"], model, "A model", params, "parameters")
    if model.get("model") is None:
        notes.problems.append("The recipe has no `model` for one of its `models`. Add it, as a text.")
        return UNREAD
    return notes.tried(under, folder, model["model"]) or UNREAD


def _weight(own: dict[Any, Any], shared: Any) -> Any:
    """An expert's weight, taken out of its own values; where it says nothing of a tensor, the shared one counts."""
    if "weight" not in own:
        return 1.0 if shared is None else shared
    weight = own.pop("weight")
    if shared is None or misshapen("", weight) or misshapen("", shared):
        return weight
    return folded(weight, shared)


def _arithmetic(told: Any, notes: Notes) -> Any:
    dtype = _dtype(told)
    if dtype in DTYPES and dtype != "float32":
        notes.warnings.append(f"`dtype: {told}` would be coarser arithmetic than ours, which is float32 throughout.")
        return "float32"
    return dtype


def _dtype(told: Any) -> Any:
    return told.removeprefix("torch.") if isinstance(told, str) else told


def _donor(content: dict[Any, Any], folder: Path, notes: Notes) -> str:
    """Whose tokenizer the result has: `tokenizer_source`, or `source` under `tokenizer`."""
    told = content.get("tokenizer_source")
    if (tokenizer := content.get("tokenizer")) is not None:
        if told is not None:
            notes.problems.append("`tokenizer_source` and `tokenizer` say the same thing. Leave one out.")
        block = notes.mapping(tokenizer, "`tokenizer`")
        for key in block.keys() & {"tokens", "pad_to_multiple_of"}:
            if block[key]:
                notes.problems.append(f"`{key}` of `tokenizer` is not done here. Leave it out.")
        notes.only(["source", "tokens", "pad_to_multiple_of"], block, "`tokenizer`")
        told = block.get("source", "union")
    if told is None or told in DONORS:
        return told or ""
    path = notes.tried(under, folder, told)
    return donor(str(path)) if path else ""
