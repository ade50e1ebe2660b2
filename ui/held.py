"""Settings on one line: the method, and all the values that tell it from the same method set otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from merging.method import find_method
from merging.params import Param
from merging.recipe import Recipe

MOST = 8  # experts whose weights are listed


def in_words(recipe: Recipe, by_hand: bool = False) -> str:
    """The recipe's method and values on one line."""
    title = find_method(recipe.method).title
    return ", ".join([title, *values_of(recipe), *(["changed by hand"] if by_hand else [])])


def values_of(recipe: Recipe) -> list[str]:
    """The values of a recipe: numbers always, and choices where they are not the method's own."""
    settings = recipe.settings()
    parts: list[str] = []
    last = sorted(settings.method.params.items(), key=lambda one: one[0] == "weight")  # of all experts, the longest
    for name, param in last:
        if name in settings.fixed:
            parts += _value(param, settings.fixed[name])
        else:
            parts.append(f"{_noun(param)} by tensor")
    if settings.method.random:
        parts.append(f"seed {recipe.seed}")
    if recipe.makes == "adapter":
        parts.append("as an adapter" + (f" of rank {recipe.rank}" if recipe.rank else ""))
    return parts


def _value(param: Param, value: Any) -> Iterator[str]:
    values = value if isinstance(value, list) else [value]
    if param.kind == "number":
        known = [f"{each:g}" for each in values if each is not None]
        if param.name == "weight" and len(known) > 1:
            yield f"weights {' · '.join(known[:MOST])}{' · …' if len(known) > MOST else ''}"
        elif known:
            yield f"{_noun(param)} {' · '.join(known if len(set(known)) > 1 else known[:1])}"
    elif values[0] != param.default:
        yield f"{_noun(param)} {values[0] if param.kind == 'choice' else 'on' if values[0] else 'off'}"


def _noun(param: Param) -> str:
    """The label without the letter of its formula, but for λ, which is known by it."""
    words = param.label.split()
    told = " ".join(words[:-1] if len(words[-1]) == 1 else words)
    return (
        "λ" if param.name == "scaling" else " ".join(word.lower() if word.istitle() else word for word in told.split())
    )
