"""Weights changed by hand, one part of the model after another, and what that makes of a recipe.

Changes stand on top of what the recipe says. They become part of it as filters and gradients of the experts' weights,
which anyone could have written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from merging.as_task_arithmetic import inexact
from merging.errors import MergeError
from merging.method import find_method
from merging.params import Param
from merging.parts import Part
from merging.places import place
from merging.recipe import Recipe
from merging.rules import Rule, Rules, misfits, value_for, value_of
from merging.settings import Settings, depths
from merging.shortening import shortest


@dataclass(frozen=True)
class Edit:
    """What becomes of the weights of a part: a number, a factor, or what the recipe said; with two of them, a ramp.

    A ramp goes evenly from the first layer of the part to its last. As with every gradient, what is outside the layers
    has its beginning, and a part of one layer its end.
    """

    part: Part
    change: Literal["set", "scale", "reset"] = "set"
    first: float = 0.0
    last: float | None = None
    expert: str = ""  # its path, as the recipe has it; empty: all of them

    @property
    def ends(self) -> tuple[float, ...]:
        return (float(self.first),) if self.last is None else (float(self.first), float(self.last))

    @property
    def words(self) -> str:
        """What it does, for a list of changes."""
        numbers = " to ".join(f"{end:g}" for end in self.ends)
        told = {"set": f"weight {numbers}", "scale": f"weight × {numbers}", "reset": "weight as before"}
        return f"{self.part.words}: {told[self.change]}"


PRESETS = {
    "attention only": Edit(Part("group", "attention", others=True)),
    "MLP only": Edit(Part("group", "mlp", others=True)),
    "first third only": Edit(Part("group", "first third", others=True)),
    "last third only": Edit(Part("group", "last third", others=True)),
    "freeze embeddings": Edit(Part("group", "embeddings")),
    "freeze norms": Edit(Part("group", "norms")),
    "ramp up": Edit(Part(), "scale", 0.0, 1.0),
    "ramp down": Edit(Part(), "scale", 1.0, 0.0),
}


@dataclass(frozen=True)
class Edits:
    """The changes in their order, and those that were undone and can be done again."""

    done: tuple[Edit, ...] = ()
    undone: tuple[Edit, ...] = ()  # the last undone first

    @property
    def standing(self) -> tuple[Edit, ...]:
        """The changes since all weights were last as the recipe has them."""
        resets = [at for at, edit in enumerate(self.done, 1) if edit == Edit(Part(), "reset")]
        return self.done[max(resets, default=0) :]

    def and_then(self, *edits: Edit) -> Edits:
        """With more changes; what was undone is gone."""
        return Edits((*self.done, *edits))

    def undo(self) -> Edits:
        """Without the last change; the same where there is none."""
        return Edits(self.done[:-1], (self.done[-1], *self.undone)) if self.done else self

    def redo(self) -> Edits:
        """With the change that was undone last; the same where there is none."""
        return Edits((*self.done, self.undone[0]), self.undone[1:]) if self.undone else self

    def reset(self) -> Edits:
        """With all weights as the recipe has them, which can be undone as any other change."""
        return self.and_then(Edit(Part(), "reset"))


def uneditable(recipe: Recipe) -> str:
    """Why the weights of a recipe cannot be changed tensor by tensor, in two sentences; empty when they can."""
    method = find_method(recipe.method)
    if "weight" not in method.params:
        way = "Turn it into task arithmetic, with its coefficients as weights" if not inexact(recipe) else ""
        return f"{method.title} has no weights to change. {way or 'Choose a method that weighs experts'}."
    known = recipe.problems()
    varied = replace(recipe, weights=([0.0, 1.0],) * len(recipe.experts))
    return next((problem for problem in varied.problems() if problem not in known), "")


def weights_of(recipe: Recipe, edits: Edits, names: Iterable[str]) -> tuple[dict[str, float], ...]:
    """The weight of each of these tensors, by name, for each expert of the recipe: what the recipe says, then changed.

    The names are those of all tensors that are merged. An edit of an expert that the recipe does not have, or of a part
    that the model does not have, changes nothing. MergeError where a weight would be more than recipes allow.
    """
    names = tuple(names)
    settings, depth = _open(recipe, names)
    return tuple(_changed(recipe, edits, settings, index, depth) for index in range(len(recipe.experts)))


def applied(recipe: Recipe, edits: Edits, names: Iterable[str]) -> Recipe:
    """The recipe with the changes in its weights, in as few rules as were found; see `weights_of` for the names.

    To float32, in which it is merged, every tensor has exactly its weight of `weights_of`. MergeError as there, and
    where nothing would be left of a tensor.
    """
    names = tuple(names)
    if not edits.standing:
        return recipe
    settings, depth = _open(recipe, names)
    tables = [_changed(recipe, edits, settings, index, depth) for index in range(len(recipe.experts))]
    if not settings.with_base:
        for name in names:
            if not any(table[name] for table in tables):
                words = f"{settings.method.title} has no base to go back to, and every weight of `{name}` would be 0"
                raise MergeError(f"{words}. Leave one expert its weight, or choose task arithmetic.")
    weights = recipe.weights or (1.0,) * len(recipe.experts)
    before = [{name: value_for(rules, name, depth[name]) for name in names} for rules in settings.rules["weight"]]
    for index, table in enumerate(tables):
        if table != before[index]:
            folded = value_of(shortest(table, depth, _evolved(recipe, edits, settings, index)))
            weights = (*weights[:index], folded, *weights[index + 1 :])
    return replace(recipe, weights=weights)


def _open(recipe: Recipe, names: tuple[str, ...]) -> tuple[Settings, dict[str, float]]:
    """The recipe's settings and the tensors' depths; MergeError where weights cannot be changed, or are lacking."""
    if words := uneditable(recipe):
        raise MergeError(words)
    settings = recipe.settings()
    if problems := settings.check(names):
        raise MergeError("\n".join(problems))
    return settings, depths(names)


def _changed(recipe: Recipe, edits: Edits, settings: Settings, index: int, depth: dict[str, float]) -> dict[str, float]:
    """The weights of one expert, by tensor."""
    rules, param = settings.rules["weight"][index], settings.method.params["weight"]
    start: dict[str, float] = {name: value_for(rules, name, t) for name, t in depth.items()}
    table = dict(start)
    for edit in _of_expert(recipe, edits, index):
        inside = edit.part.of(table)
        for name, value in _ramp(edit, inside).items():
            table[name] = {"set": value, "scale": _tidy(value * table[name]), "reset": start[name]}[edit.change]
        _allowed(param, settings.experts[index], {table[name] for name in inside})
    return table


def _of_expert(recipe: Recipe, edits: Edits, index: int) -> list[Edit]:
    expert = recipe.experts[index]
    return [edit for edit in edits.done if not edit.expert or Path(edit.expert) == expert]


def _ramp(edit: Edit, names: tuple[str, ...]) -> dict[str, float]:
    """The edit's number for each of the tensors that it is for."""
    if edit.last is None:
        return dict.fromkeys(names, edit.ends[0])
    ramp = Rule("", edit.ends)
    return {name: _tidy(ramp.at(t)) for name, t in _within(names).items()}


def _within(names: tuple[str, ...]) -> dict[str, float]:
    """How deep each tensor is in the layers that these have, as `depths` is in the model's."""
    layers: dict[str, list[int]] = {}  # by tower
    places = {name: place(name) for name in names}
    for at in places.values():
        if at.layer is not None:
            layers.setdefault(at.tower, []).append(at.layer)
    ends = {tower: (min(some), max(some)) for tower, some in layers.items()}
    found = {}
    for name, at in places.items():
        first, last = ends.get(at.tower, (0, 0))
        found[name] = 0.0 if at.layer is None else (at.layer - first) / (last - first) if last > first else 1.0
    return found


def _evolved(recipe: Recipe, edits: Edits, settings: Settings, index: int) -> Rules:
    """The rules that what was done to the whole model makes of the recipe's; other changes are put before these."""
    start = rules = settings.rules["weight"][index]
    for edit in _of_expert(recipe, edits, index):
        if edit.part != Part():
            continue
        if edit.change == "reset":
            rules = start
        elif edit.change == "set":
            rules = (Rule("", edit.ends),)
        elif edit.last is None:
            rules = tuple(Rule(rule.filter, tuple(_tidy(edit.first * end) for end in rule.anchors)) for rule in rules)
        elif len(rules) == 1 and len(rules[0].anchors) == 1:
            rules = (Rule("", tuple(_tidy(end * rules[0].anchors[0]) for end in edit.ends)),)
    return rules


def _allowed(param: Param, expert: str, values: set[float]) -> None:
    for value in sorted(values):
        if problems := misfits(param, value, expert):
            raise MergeError(problems[0])


def _tidy(value: float) -> float:
    """The number without the last digits, which are rounding: 0.3, and not 0.30000000000000004."""
    return float(f"{value:.12g}")
