"""Who is asked in step 4: the base, the experts and the merge, and why one of them cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from merging.adapter import open_base
from merging.errors import MergeError
from merging.history import Past, differences
from merging.recipe import Recipe
from ui.judging import judged
from ui.models_panel import Selection

NOW, WRITTEN = "as it stands, before it is written", "as it was last written"


@dataclass(frozen=True)
class Asked:
    """A prompt that was asked, and who answered it."""

    prompt: str
    models: tuple[str, ...] = ()  # the paths of base and experts
    merge: Recipe | None = None


@dataclass(frozen=True)
class One:
    """One of those who are asked: a model in a folder, a merge to be made in memory, or why there is neither."""

    kind: str  # `base`, `expert` or `merge`
    name: str
    source: Path | Recipe | None = None
    missing: str = ""
    recipe: Recipe | None = None  # of a merge


def same(made: Recipe, recipe: Recipe) -> bool:
    """Whether a recipe says what that of a merge said."""
    return not recipe.problems() and not differences(made, recipe)


def asked_of(selection: Selection, which: str, recipe: Recipe | str, last: Past | None) -> list[One]:
    """Base, experts and merge, of the chosen models.

    `recipe` is what the page stands for, or what is wrong with it; `last` is what was written last into this base.
    """
    base = One("base", "base", Path(selection.base))
    names = dict(zip(selection.fitting, selection.names, strict=True))
    others = {path for path in selection.experts if path not in names}
    found = judged(selection.base, [*selection.experts]).experts if others else []
    reasons = {expert.path: expert.problem for expert in found}
    experts = [
        One("expert", names[path], Path(path))
        if path in names
        else One("expert", Path(path).name, missing=f"It is not asked, since it cannot be merged: {reasons[path]}")
        for path in selection.experts
    ]
    return [base, *experts, _unwritten(selection, recipe, last) if which == NOW else _written(last)]


def _unwritten(selection: Selection, recipe: Recipe | str, last: Past | None) -> One:
    name = "merge: as it stands"
    if not selection.fitting:
        words = "No expert is chosen that can be merged into this base, so there is no merge to ask"
        return One("merge", name, missing=f"{words}. Choose one in step 1.")
    if isinstance(recipe, str):
        return One("merge", name, missing=recipe)
    if recipe.makes == "model" and _bare(selection.base):
        words = "The base has no config.json, so the merge has none, and cannot be asked"
        return One("merge", name, missing=f"{words}. Choose a model folder as the base.")
    if recipe.makes == "model":
        return One("merge", name, recipe, recipe=recipe)
    if last and same(last.recipe, recipe):
        return _written(last)
    words = "The merge as it stands makes an adapter, which is asked from its folder"
    return One("merge", name, missing=f"{words}. Write it in step 3, or let it make a model.")


def _bare(base: str) -> bool:
    """Whether a base has no config; one that cannot be read says so when it is asked itself."""
    try:
        return not open_base(base).config
    except (MergeError, OSError):
        return False


def _written(last: Past | None) -> One:
    if last is None:
        words = "Nothing was merged into this base on this visit, or it is not there any more"
        return One("merge", "merge: as it was written", missing=f"{words}. Merge in step 3.")
    return One("merge", f"merge: {last.report.out.name}", last.report.out, recipe=last.recipe)
