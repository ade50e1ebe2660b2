"""What the parameters of a method are for each tensor, where a recipe lets them vary by layer, name and expert."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from merging.errors import MergeError
from merging.method import Method
from merging.params import Param, nearest
from merging.places import place
from merging.rules import MISSING, Rules, constant, mapped, misfits, rules_of, value_for


@dataclass(frozen=True)
class Settings:
    """The parameters of a method for every tensor: `rules` has one entry a parameter, or one for each expert."""

    method: Method
    experts: tuple[str, ...]  # their names, for the words
    rules: dict[str, tuple[Rules, ...]]  # by argument name
    based: bool = True  # whether the recipe names a base
    seed: int = 0  # of what the method draws at random

    @property
    def with_base(self) -> bool:
        """Whether the base model's numbers enter the merge."""
        return self.based and self.method.takes_base

    def of(self, name: str, t: float) -> dict[str, Any]:
        """The values for the tensor of that name at depth t, by argument name: a list where each expert has its own."""
        found = dict(self.fixed)
        for key in self._moving:
            values = [value_for(rules, name, t) for rules in self.rules[key]]
            if MISSING in values:
                raise MergeError("\n".join(self.check({name: t})))
            found[key] = values if many(self.method.params[key]) else values[0]
        return found

    def check(self, names: Iterable[str]) -> list[str]:
        """A sentence for each expert that some of these tensors leave without a value, because no filter matches."""
        problems, names = [], list(names)
        for key in self._moving:
            for expert, rules in zip(self.experts, self.rules[key], strict=False):
                bare = [name for name in names if value_for(rules, name, 0.0) is MISSING]
                if bare:
                    more = f" and {len(bare) - 1} more tensors" if len(bare) > 1 else ""
                    label = f"{self.method.params[key].word} of expert `{expert}`"
                    problems.append(
                        f"{label} has no value for `{bare[0]}`{more}, because none of its filters matches. "
                        "End its list with a value that has no filter."
                    )
        return problems

    def unmatched(self, names: Iterable[str]) -> list[str]:
        """A sentence for each filter that is part of none of these names: often a slip of the pen."""
        names = list(names)
        filters = {rule.filter: key for key in self._moving for rules in self.rules[key] for rule in rules}
        return [
            f"No tensor's name contains `{word}`, so that filter of {self.method.params[key].word} does nothing."
            for word, key in filters.items()
            if not any(word in name for name in names)
        ]

    @property
    def constant(self) -> bool:
        """Whether all tensors get the same values."""
        return not self._moving

    @property
    def varying(self) -> list[str]:
        """The parameters, as sentences have them, that are not the same for all tensors."""
        return [self.method.params[key].word for key in self._moving]

    @cached_property
    def fixed(self) -> dict[str, Any]:
        """The values that are the same for all tensors, by argument name."""
        known = {key: each for key, each in self.rules.items() if all(map(constant, each))}
        values = {key: [rules[0].anchors[0] for rules in each] for key, each in known.items()}
        return {key: found if many(self.method.params[key]) else found[0] for key, found in values.items()}

    @cached_property
    def _moving(self) -> list[str]:
        return [key for key in self.rules if key not in self.fixed]

    def whole(self) -> list[str]:
        """A sentence for each parameter that varies although the method needs it for the whole model at once."""
        if "scope" in self._moving:
            return ["`scope` must be the same for all tensors. Write `model` or `tensor`."]
        if not self.method.survey or self.fixed.get("scope") != "model":
            return []
        known = [self.method.params[key] for key in self._moving]
        bound = [(param, self.method.varies(param)) for param in known if param.name in self.method.surveyed]
        return [
            f"{param.word} is ranked over the whole model, so it must be one {_noun(param)}."
            + (" Set `scope: tensor` to let it vary." if free != "never" else "")
            for param, free in bound
        ]


def many(param: Param) -> bool:
    """Whether a method is given one value for each expert."""
    return param.per_expert or param.by_expert


def _noun(param: Param) -> str:
    words = {"choice": "word", "switch": "switch"}
    return words.get(param.kind, "number for each expert" if many(param) else "number")


def settings_of(
    method: Method,
    experts: tuple[str, ...],
    weights: tuple[Any, ...],
    values: dict[str, Any],
    own: tuple[dict[str, Any], ...],
    based: bool = True,
) -> Settings:
    """The settings that a recipe's values are, one weight and one dict of `own` for each of the experts' names.

    Raises MergeError with everything that is wrong with them.
    """
    problems = [*_unknown(method, values, own), *_unweighed(method, weights)]
    params = {param.key: param for param in method.params.values()}
    stated = [(params[key], value, "") for key, value in values.items() if key in params]
    for expert, weight, mine in zip(experts, weights, own, strict=True):
        stated += [(params[key], value, expert) for key, value in ({"weight": weight} | mine).items() if key in params]
    problems += [problem for told in stated for problem in misfits(*told)]
    if problems:
        raise MergeError("\n".join(dict.fromkeys(problems)))
    rules = {name: _rules(param, weights, values, own) for name, param in method.params.items()}
    settings = Settings(method, experts, rules, based)
    if problems := settings.whole():
        raise MergeError("\n".join(problems))
    return settings


def _rules(
    param: Param, weights: tuple[Any, ...], values: dict[str, Any], own: tuple[dict[str, Any], ...]
) -> tuple[Rules, ...]:
    """The rules of one parameter: an expert's own value goes before the shared one, and that before the default."""
    if param.per_expert:
        return tuple(rules_of(mapped(weight, param.checked)) for weight in weights)
    shared = [mapped(values[param.key], param.checked)] if param.key in values else []
    if not param.by_expert:
        return (rules_of(*shared, param.default),)
    mine = [[mapped(told[param.key], param.checked)] if param.key in told else [] for told in own]
    return tuple(rules_of(*one, *shared, param.default) for one in mine)


def _unknown(method: Method, values: dict[str, Any], own: tuple[dict[str, Any], ...]) -> list[str]:
    shared = [param.key for param in method.params.values() if not param.per_expert]
    single = [param.key for param in method.params.values() if many(param)]
    every = [param.key for param in method.params.values()]  # a recipe may say one weight for all
    problems = [_unknown_to(method, str(key), every) for key in values if key not in shared]
    for key in (key for mine in own for key in mine if key not in single or key == "weight"):
        known = nearest(str(key), single) if single else "It has none for single experts."
        problems.append(f"{method.title} has no parameter `{key}` for single experts. {known}")
    return problems


def _unknown_to(method: Method, key: str, known: list[str]) -> str:
    if key == "scope":
        return f"{method.title} has no `scope`: it looks at nothing but one tensor at a time. Leave it out."
    return f"{method.title} has no parameter `{key}`. {nearest(key, known)}"


def _unweighed(method: Method, weights: tuple[Any, ...]) -> list[str]:
    if "weight" in method.params or all(weight == 1 for weight in weights):
        return []
    return [f"{method.title} has no weights of its own. Leave every weight at 1."]


def depths(names: Iterable[str], lone: float = 1.0) -> dict[str, float]:
    """How deep each tensor is in its tower, from 0 in the first layer to 1 in the last; 0 outside the layers.

    The layer of a tower that has no other has the depth `lone`, which is 1 in mergekit.
    """
    places = {name: place(name) for name in names}
    last: dict[str, int] = {}
    for at in places.values():
        if at.layer is not None:
            last[at.tower] = max(at.layer, last.get(at.tower, 0))
    return {
        name: 0.0 if at.layer is None else at.layer / last[at.tower] if last[at.tower] else lone
        for name, at in places.items()
    }
