"""mergekit's recipes in our words: what its keys mean, what it does where they say nothing, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merging.errors import MergeError
from merging.method import METHODS
from merging.notes import Notes
from merging.params import nearest
from merging.references import DONORS, donor, resolved
from merging.rules import folded, leaves, mapped, misshapen
from merging.slices import one_slice

KEYS = ["merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype"]
KEYS += ["tokenizer_source", "tokenizer", "chat_template"]
OURS = ["seed", "extra_tensors"]
OTHERS = (
    "slerp nuslerp multislerp karcher dare_linear dare_ties breadcrumbs breadcrumbs_ties della della_linear sce ram"
)
OTHERS += " ramplus_tl nearswap model_stock arcee_fusion passthrough"
WORDS = dict.fromkeys(("1", "1.0", "true", "t", "yes", "y", "on"), True)
WORDS |= dict.fromkeys(("0", "0.0", "false", "f", "no", "n", "off"), False)


@dataclass(frozen=True)
class Meaning:
    """What one of mergekit's methods takes and defaults to. Weights have no default there."""

    shared: dict[str, Any]  # the recipe's own parameters
    single: tuple[str, ...] = ("weight",)  # those that each model may have; the recipe's stand in
    sets: dict[str, Any] = field(default_factory=dict)  # what makes our method mergekit's
    idle: tuple[str, ...] = ()  # what has no effect there


MEANINGS = {
    "linear": Meaning({"normalize": True}),
    "task_arithmetic": Meaning({"normalize": False, "lambda": 1.0}, idle=("rescale", "density")),
    "ties": Meaning(
        {"normalize": True, "lambda": 1.0, "rescale": False, "density": 1.0},
        ("weight", "density"),
        {"scope": "tensor", "variant": "mergekit"},
    ),
}


def wrote(content: dict[Any, Any]) -> bool:
    """Whether a recipe is mergekit's: it does not say that it is ours, nor names a method that only we have."""
    method = content.get("merge_method")
    return "mergescope" not in content and (method in list(MEANINGS) or method not in list(METHODS))


def translated(content: dict[Any, Any], folder: Path, notes: Notes) -> dict[str, Any]:
    """The same recipe in our format, its paths as seen from the working folder."""
    for key in content:
        if key not in KEYS:
            ours = " If this is a recipe of ours, add `mergescope: 1`." if key in OURS else ""
            notes.warnings.append(f"mergekit has no key `{key}`, so it is ignored.{ours}")
    method = notes.text(content, "merge_method")
    if method in OTHERS.split():
        raise MergeError(f"There is no method `{method}` here yet. Known are {', '.join(METHODS)}.")
    dialect = _Dialect(method, MEANINGS.get(method, Meaning({})), notes)
    told, between, base = one_slice(content, folder, notes)
    shared = dialect.shared(between, content.get("parameters"))
    models = [dialect.model(model, folder, base) for model in told]
    known = [model for model in models if model]
    if method == "linear" and base and not content.get("slices") and base not in [model["model"] for model in known]:
        known.append({"model": base, "parameters": {}})  # as mergekit does
    _check(known, base, shared, notes)
    if notes.problems and not known:
        raise MergeError("\n".join(dict.fromkeys(notes.problems)))
    return {
        "mergescope": 1,
        "merge_method": method,
        "base_model": base and str(base),
        "models": [model | {"model": str(model["model"])} for model in known],
        "parameters": dialect.meant(shared),
        "dtype": content.get("dtype"),
        "out_dtype": content.get("dtype") if content.get("out_dtype") is None else content["out_dtype"],
        "tokenizer_source": _donor(content.get("tokenizer_source"), folder, base, notes),
        "tokenizer": _tokenizer(content.get("tokenizer"), folder, base, notes),
        "chat_template": content.get("chat_template"),
    }


@dataclass(frozen=True)
class _Dialect:
    """The parameters of one method, from mergekit's meaning to ours."""

    method: str
    meaning: Meaning
    notes: Notes

    def shared(self, between: Any, whole: Any) -> dict[str, Any]:
        """The parameters of the recipe, below those of its slice."""
        known = [*dict.fromkeys([*self.meaning.shared, *self.meaning.single])]
        upper, lower = (self._kept(told, known, "The recipe") for told in (between, whole))
        both = {key: folded(upper[key], lower[key]) for key in upper if key in lower}
        return lower | upper | both

    def model(self, told: dict[Any, Any], folder: Path, base: Path | None) -> dict[str, Any]:
        """A model's path and its own parameters; nothing for a base model, which is no expert."""
        for key in told:
            if key not in ("model", "parameters"):
                self.notes.warnings.append(f"mergekit has no key `{key}` for a model, so it is ignored.")
        path = self.notes.tried(resolved, folder, told.get("model"), base)
        own = self._kept(told.get("parameters"), list(self.meaning.single), f"Model `{path}`")
        if path == base and path and self.method != "linear":
            if own:
                self.notes.warnings.append(f"The parameters of `{path}` are ignored: it is the base model.")
            return {}
        return {"model": path, "parameters": own} if path else {}

    def meant(self, shared: dict[str, Any]) -> dict[str, Any]:
        """The recipe's parameters in our words, with mergekit's defaults where they say nothing."""
        values = shared | {
            key: folded(shared[key], default) if key in shared else default
            for key, default in self.meaning.shared.items()
        }
        values |= {key: mapped(values[key], _switch) for key in ("normalize", "rescale") if key in values}
        if any(value is not False for value in leaves(values.pop("rescale", False))):
            self.notes.problems.append("`rescale` with ties is not done here. Leave it out.")
        if self.method == "ties":
            normalize = values.pop("normalize")
            for value in leaves(normalize):
                if not isinstance(value, bool):
                    self.notes.problems.append(f"Normalize must be true or false, but it is {value!r}.")
            values["merge"] = mapped(normalize, lambda value: "mean" if value else "sum")
        return values | self.meaning.sets

    def _kept(self, told: Any, known: list[str], owner: str) -> dict[str, Any]:
        """The parameters that mean something; what is odd about the others is noted."""
        kept = {}
        for key, value in self.notes.mapping(told, "`parameters`").items():
            if key == "int8_mask" or value == []:  # a matter of mergekit's memory; and as if nothing were said
                continue
            if key in self.meaning.idle:
                self.notes.warnings.append(f"`{key}` has no effect in mergekit's {self.method}, so it is ignored.")
            elif key not in known:
                hint = (
                    "It is looked for in the recipe's own." if key in self.meaning.shared else nearest(str(key), known)
                )
                self.notes.warnings.append(f"{owner} has a parameter `{key}` that mergekit ignores. {hint}")
            elif problem := misshapen(f"`{key}`", value):
                self.notes.problems.append(problem)
            else:
                kept[key] = value
        return kept


def _check(models: list[dict[str, Any]], base: Path | None, shared: dict[str, Any], notes: Notes) -> None:
    """What mergekit refuses: a model listed twice, and a model without a weight."""
    paths = [model["model"] for model in models]
    for path in dict.fromkeys(path for path in paths if paths.count(path) > 1):
        notes.problems.append(f"`{path}` is listed twice, which mergekit refuses. List it once.")
    for model in models:
        if "weight" not in shared and "weight" not in model["parameters"]:
            listed = " A base model counts as one of the models of a linear merge." if model["model"] == base else ""
            notes.problems.append(f"`{model['model']}` has no weight, and mergekit asks for one. Give it one.{listed}")


def _switch(value: Any) -> Any:
    """True or false as mergekit reads them, also from numbers and words."""
    return WORDS.get(str(value).lower(), value)


def _donor(told: Any, folder: Path, base: Path | None, notes: Notes) -> Any:
    if told is None or told in DONORS:
        return told
    path = notes.tried(resolved, folder, told, base)
    return path and donor(str(path))


def _tokenizer(told: Any, folder: Path, base: Path | None, notes: Notes) -> Any:
    if not isinstance(told, dict):
        return told
    known = {key: value for key, value in told.items() if key in ("tokens", "pad_to_multiple_of")}
    for key in told:
        if key not in ("source", *known):
            notes.warnings.append(f"mergekit has no key `{key}` for a tokenizer, so it is ignored.")
    return known | {"source": _donor(told.get("source", "union"), folder, base, notes)}
