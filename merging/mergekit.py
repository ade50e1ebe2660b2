"""mergekit's recipes in our words: what its keys mean, what it does where they say nothing, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from merging.errors import MergeError
from merging.method import ADAPTERS, METHODS
from merging.notes import Notes
from merging.params import close, nearest
from merging.references import DONORS, UNREAD, donor, resolved
from merging.rules import covers_all, folded, hidden, leaves, mapped, misshapen
from merging.slices import one_slice

KEYS = ["merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype"]
KEYS += ["tokenizer_source", "tokenizer", "chat_template"]
SUGGESTED = [key for key in KEYS if key != "modules"]  # which is refused
SUGGESTED = [key for key in KEYS if key != "modules"]  # which is refused
OURS = ["seed", "extra_tensors", "result", "rank"]
OURS_INSTEAD = " If it is one of ours, add `mergescope: 1`."
OTHERS = "ramplus_tl passthrough"
WORDS = dict.fromkeys(("1", "1.0", "true", "t", "yes", "y", "on"), True)
WORDS |= dict.fromkeys(("0", "0.0", "false", "f", "no", "n", "off"), False)


@dataclass(frozen=True)
class Meaning:
    """What one of mergekit's methods takes and defaults to. Weights have no default there."""

    shared: dict[str, Any]  # the recipe's own parameters; without a default, which is None, they are needed
    single: tuple[str, ...] = ("weight",)  # those that each model may have; the recipe's stand in
    sets: dict[str, Any] = field(default_factory=dict)  # what makes our method mergekit's
    words: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # our key for a switch; if it is true; if not
    idle: tuple[str, ...] = ()  # what has no effect there
    base_counts: bool = False  # whether the base is one of the models that are merged


TENSOR = {"scope": "tensor"}
SPARSE = {"normalize": False, "lambda": 1.0, "rescale": False, "density": 1.0}
ELECTED = {"normalize": ("merge", "mean", "sum")}
RESCALED = {"rescale": ("rescale", "l1", "none")}
MEANINGS = {
    "linear": Meaning({"normalize": True}, base_counts=True),
    "task_arithmetic": Meaning({"normalize": False, "lambda": 1.0}, idle=("rescale", "density")),
    "ties": Meaning(
        {"normalize": True, "lambda": 1.0, "rescale": False, "density": 1.0},
        ("weight", "density"),
        {"scope": "tensor", "variant": "mergekit"},
        ELECTED,
    ),
    "dare_linear": Meaning(SPARSE | {"rescale": True}, ("weight", "density"), TENSOR, RESCALED),
    "dare_ties": Meaning(SPARSE | {"rescale": True}, ("weight", "density"), TENSOR, ELECTED | RESCALED),
    "breadcrumbs": Meaning(SPARSE | {"gamma": 0.01}, ("weight", "density", "gamma"), TENSOR, RESCALED),
    "breadcrumbs_ties": Meaning(SPARSE | {"gamma": 0.01}, ("weight", "density", "gamma"), TENSOR, ELECTED | RESCALED),
    "della_linear": Meaning(
        SPARSE | {"rescale": True, "epsilon": 0.15}, ("weight", "density", "epsilon"), TENSOR, RESCALED
    ),
    "della": Meaning(
        SPARSE | {"rescale": True, "epsilon": 0.15, "normalize": True},
        ("weight", "density", "epsilon"),
        TENSOR,
        ELECTED | RESCALED,
    ),
    "sce": Meaning({"select_topk": 1.0}, (), TENSOR),
    "ram": Meaning({"epsilon": 1e-5}, ()),
    "nearswap": Meaning({"t": None}, ()),
    "arcee_fusion": Meaning({}, (), TENSOR),
    "model_stock": Meaning({"filter_wise": False}, ()),
    "slerp": Meaning({"t": None}, ()),
    "nuslerp": Meaning({"nuslerp_flatten": True, "nuslerp_row_wise": False}),
    "multislerp": Meaning({"normalize_weights": True, "eps": 1e-8}),
    "karcher": Meaning({"max_iter": 10, "tol": 1e-5}, (), base_counts=True),
}
SWITCHES = ("normalize", "rescale", "filter_wise", "nuslerp_flatten", "nuslerp_row_wise", "normalize_weights")


def wrote(content: dict[Any, Any]) -> bool:
    """Whether a recipe is mergekit's: it does not say that it is ours, nor names a method that only we have."""
    method = content.get("merge_method")
    ours = [*METHODS, *ADAPTERS]
    return "mergescope" not in content and (method in list(MEANINGS) or method not in ours)


def translated(content: dict[Any, Any], folder: Path, notes: Notes) -> dict[str, Any]:
    """The same recipe in our format, its paths as seen from the working folder."""
    for key in content:
        if key not in KEYS:
            ours = " If this is a recipe of ours, add `mergescope: 1`." if key in OURS else close(str(key), SUGGESTED)
            notes.warnings.append(f"mergekit has no key `{key}`, so it is ignored.{ours}")
    method = notes.text(content, "merge_method")
    if method in OTHERS.split():
        raise MergeError(f"There is no method `{method}` here yet. Known are {', '.join(METHODS)}.")
    meaning = MEANINGS.get(method, Meaning({}))
    dialect = _Dialect(method, meaning, notes)
    told, between, base = one_slice(content, folder, notes)
    shared = dialect.shared(between, content.get("parameters"))
    models = [dialect.model(model, folder, base) for model in told]
    known = [model for model in models if model]
    listed = [model["model"] for model in known]
    if meaning.base_counts and base and not content.get("slices") and base not in listed:
        known.append({"model": base, "parameters": {}})  # as mergekit does
    there = [model for model in known if model["model"] != UNREAD]
    _check(there, base, shared, meaning, notes)
    if notes.problems and not there:
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
                words = f"mergekit has no key `{key}` for a model, so it is ignored."
                below = self.meaning.single
                hint = " Write it under `parameters`." if key in below else close(str(key), ["model", "parameters"])
                self.notes.warnings.append(words + hint)
        path = self.notes.tried(resolved, folder, told.get("model"), base)
        own = self._kept(told.get("parameters"), list(self.meaning.single), f"Model `{path or told.get('model')}`")
        if path == base and path and not self.meaning.base_counts:
            if own:
                self.notes.warnings.append(f"The parameters of `{path}` are ignored: it is the base model.")
            return {}
        return {"model": path or UNREAD, "parameters": own}

    def meant(self, shared: dict[str, Any]) -> dict[str, Any]:
        """The recipe's parameters in our words, with mergekit's defaults where they say nothing."""
        defaults = {key: default for key, default in self.meaning.shared.items() if default is not None}
        values = shared | {
            key: folded(shared[key], default) if key in shared else default for key, default in defaults.items()
        }
        values |= {key: mapped(values[key], _switch) for key in SWITCHES if key in values}
        if self.method == "ties" and any(value is not False for value in leaves(values.pop("rescale"))):
            self.notes.problems.append("`rescale` with ties is not done here. Leave it out.")
        for key, (ours, *words) in self.meaning.words.items():
            told = values.pop(key)
            for value in leaves(told):
                if not isinstance(value, bool):
                    self.notes.problems.append(f"`{key}` must be true or false, but it is {value!r}.")
            values[ours] = mapped(told, partial(_word, words))
        return values | self.meaning.sets

    def _kept(self, told: Any, known: list[str], owner: str) -> dict[str, Any]:
        """The parameters that mean something; what is odd about the others is noted."""
        kept, ours = {}, [param.key for param in METHODS[self.method].params.values()] if self.method in METHODS else []
        for key, value in self.notes.mapping(told, "`parameters`").items():
            if key == "int8_mask" or value == []:  # a matter of mergekit's memory; and as if nothing were said
                continue
            if key in self.meaning.idle:
                self.notes.warnings.append(f"`{key}` has no effect in mergekit's {self.method}, so it is ignored.")
            elif key not in known:
                hint = (
                    "It is looked for in the recipe's own."
                    if key in self.meaning.shared
                    else nearest(str(key), known)
                    if known
                    else "Its method has none there."
                )
                if key in ours and key not in self.meaning.shared:
                    hint = "If this is a recipe of ours, add `mergescope: 1`."
                self.notes.warnings.append(f"{owner} has a parameter `{key}` that mergekit ignores. {hint}")
            elif problem := misshapen(f"`{key}`", value):
                self.notes.problems.append(problem)
            else:
                self.notes.warnings += hidden(f"`{key}`", value)
                kept[key] = value
        return kept


def _check(
    models: list[dict[str, Any]], base: Path | None, shared: dict[str, Any], meaning: Meaning, notes: Notes
) -> None:
    """What mergekit refuses: a model listed twice, a model without a weight, a parameter that has no default."""
    paths = [model["model"] for model in models]
    for path in dict.fromkeys(path for path in paths if paths.count(path) > 1):
        notes.problems.append(f"`{path}` is listed twice, which mergekit refuses. List it once.")
    for key, default in meaning.shared.items():
        if default is None and key not in shared:
            notes.problems.append(f"The recipe has no `{key}`, and mergekit asks for one. Add it to `parameters`.")
        elif default is None and not covers_all(shared[key]):
            notes.warnings.append(f"Tensors that no filter of `{key}` matches get its default, where mergekit refuses.")
    for model in models if "weight" in meaning.single else []:
        if "weight" not in shared and "weight" not in model["parameters"]:
            listed = " A base model counts as one of the models of this merge." if model["model"] == base else ""
            notes.problems.append(f"`{model['model']}` has no weight, and mergekit asks for one. Give it one.{listed}")


def _switch(value: Any) -> Any:
    """True or false as mergekit reads them, also from numbers and words."""
    return WORDS.get(str(value).lower(), value)


def _word(words: list[str], value: Any) -> str:
    """The first of two words for what is true, the second for what is not."""
    return words[0] if value else words[1]


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
