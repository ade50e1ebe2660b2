"""A value in a recipe that need not be one value: a list is a gradient over the layers, and filters choose by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from merging.errors import MergeError
from merging.params import Param, nearest

KEYS = ["value", "filter"]
MISSING = object()  # what a tensor has that no rule is for


@dataclass(frozen=True)
class Rule:
    """What the tensors get whose name contains `filter`: one value, or anchors spread evenly over the layers."""

    filter: str  # empty: all tensors
    anchors: tuple[Any, ...]

    def at(self, t: float) -> Any:
        """The value at depth t: between two numbers a number, and of other values the one before."""
        scaled = t * (len(self.anchors) - 1)
        first = int(scaled)
        low, high = self.anchors[first], self.anchors[min(first + 1, len(self.anchors) - 1)]
        if low == high or not isinstance(low, float) or not isinstance(high, float):
            return low
        between = (1 - (scaled - first)) * low + (scaled - first) * high
        return min(max(between, min(low, high)), max(low, high))  # rounding must not step beyond the anchors


Rules = tuple[Rule, ...]  # the first that matches counts


def value_for(rules: Rules, name: str, t: float) -> Any:
    """What the tensor of that name at depth t gets, or MISSING."""
    for rule in rules:
        if rule.filter in name:
            return rule.at(t)
    return MISSING


def constant(rules: Rules) -> bool:
    """Whether every tensor gets a value, and all the same."""
    first = rules[0].anchors[0]
    return not rules[-1].filter and all(anchor == first for rule in rules for anchor in rule.anchors)


def rules_of(*levels: Any) -> Rules:
    """The rules that these values are, a value that comes first going before; nothing follows one that is for all."""
    rules: list[Rule] = []
    for level in levels:
        for item in level if filtered(level) and isinstance(level, list) else [level]:
            told = item if isinstance(item, dict) else {"value": item}
            anchors = told["value"] if isinstance(told["value"], list) else [told["value"]]
            word = told.get("filter") or ""
            rules.append(Rule("" if word == "*" else word, tuple(anchors)))
            if not rules[-1].filter:
                return tuple(rules)
    return tuple(rules)


def hidden(word: str, value: Any) -> Iterator[str]:
    """A sentence for each filter of a value that never applies, because one before it is for the same tensors."""
    if not isinstance(value, list) or not filtered(value) or misshapen(word, value):  # the last is refused
        return
    before: list[str] = []
    for item in value:
        told = item.get("filter") or ""
        told = "" if told == "*" else told
        wider = next((other for other in before if other in told), None)
        if wider is not None:
            what = f"The filter `{told}`" if told else "A second value without a filter"
            first = f"the filter `{wider}`" if wider else "one without a filter, which is for all tensors,"
            how = "Put it in front of that" if told else "Leave one of them out"
            yield f"{what} of {word} never applies, because {first} stands before it. {how}."
        before.append(told)


def value_of(rules: Rules) -> Any:
    """The value that these rules are, as `rules_of` reads it: a number or word, a gradient, or filters."""
    values = [rule.anchors[0] if len(rule.anchors) == 1 else list(rule.anchors) for rule in rules]
    if len(rules) == 1 and not rules[0].filter:
        return values[0]
    words = [{"filter": rule.filter} if rule.filter else {} for rule in rules]
    return [{**word, "value": value} for word, value in zip(words, values, strict=True)]


def filtered(value: Any) -> bool:
    """Whether a value is filters: one of them, or a list."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def covers_all(value: Any) -> bool:
    """Whether a value, of the right form, says something of every tensor."""
    return not rules_of(value)[-1].filter


def folded(value: Any, below: Any) -> Any:
    """A value and what counts where it says nothing, as one value."""
    if covers_all(value):
        return value
    rest = below if isinstance(below, list) and filtered(below) else [below if filtered(below) else {"value": below}]
    return [*(value if isinstance(value, list) else [value]), *rest]


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same value, each number or word in it changed."""
    if isinstance(value, dict):
        return {key: mapped(told, change) if key == "value" else told for key, told in value.items()}
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    return change(value)


def as_numbers(values: dict[str, Any], params: dict[str, Param]) -> dict[str, Any]:
    """Values by recipe key, each number in them as their parameter wants it."""
    return {key: mapped(value, params[key].checked) for key, value in values.items()}


def leaves(value: Any) -> Iterator[Any]:
    """Every number or word in a value."""
    found: list[Any] = []
    mapped(value, found.append)
    yield from found


def misfits(param: Param, value: Any, owner: str = "") -> list[str]:
    """Everything that is wrong with a value of a parameter, in sentences; `owner` is the expert that it is for."""
    label = f"{param.word} of expert `{owner}`" if owner else param.word
    if problem := misshapen(label, value):
        return [problem]
    problems = []
    for leaf in leaves(value):
        try:
            param.checked(leaf)
        except MergeError as error:
            problems.append(str(error).replace(param.word, label, 1))
    return problems


def misshapen(label: str, value: Any) -> str:
    """What is wrong with the form of a value, in a sentence; empty when nothing is."""
    if isinstance(value, list) and not value:
        return f"{label} is an empty list. Give it a number, or leave it out."
    if not filtered(value):
        nested = isinstance(value, list) and any(isinstance(item, list) for item in value)
        return f"{label} is a list of lists. A gradient is a list of numbers." if nested else ""
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            return f"{label} mixes filters and plain values. Write `value: {item}` where a filter is not needed."
        for key in item:
            if key not in KEYS:
                return f"A filter of {label} has no key `{key}`. {nearest(str(key), KEYS)}"
        if "value" not in item:
            return f"A filter of {label} has no `value`. Add it."
        if not isinstance(item.get("filter"), str | None):
            return f"The filter {item['filter']!r} of {label} must be a text, a part of tensors' names."
        if isinstance(item["value"], dict) or (isinstance(item["value"], list) and filtered(item["value"])):
            return f"A filter of {label} holds filters of its own. Write them one after the other."
        if problem := misshapen(label, item["value"]):
            return problem
    return ""
