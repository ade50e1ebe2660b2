"""What is wrong with a recipe, and what is odd about it, gathered while it is read, so that all is said at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

from merging.errors import MergeError
from merging.params import nearest

T = TypeVar("T")
KINDS = {
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "keys with values",
}


def kind(value: Any) -> str:
    """What YAML would call a value."""
    return KINDS.get(type(value), "nothing")


@dataclass
class Notes:
    """Sentences for the reader of a recipe: with a problem it cannot be run, with a warning it can."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)  # warnings where there are problems

    def tried(self, act: Callable[..., T], *told: Any) -> T | None:
        """What the function gives, or None where it raises MergeError, whose words are a problem then."""
        try:
            return act(*told)
        except MergeError as error:
            self.problems.append(str(error))
            return None

    def mapping(self, value: Any, what: str) -> dict[Any, Any]:
        """The value where it is keys with values; nothing where it is empty, or something else: a problem."""
        if isinstance(value, dict):
            return value
        if value is not None:
            self.problems.append(f"{what} must be keys with values, but it is {kind(value)}. Correct the recipe.")
        return {}

    def text(self, content: dict[Any, Any], key: str) -> str:
        """The text under a key; a problem where there is none."""
        value = content.get(key)
        if not isinstance(value, str) or not value:
            self.problems.append(f"The recipe has no `{key}`. Add it, as a text.")
            return ""
        return value

    def only(
        self, known: list[str], content: dict[Any, Any], owner: str, below: Collection[str] = (), place: str = ""
    ) -> None:
        """A problem for each key that is not known; those of `below` belong under the key `place`."""
        self.problems += [
            f"{owner} has no key `{key}`. {f'Write it under `{place}`.' if key in below else nearest(str(key), known)}"
            for key in content
            if key not in known
        ]

    def listed(self, content: dict[Any, Any], key: str, item: str) -> list[dict[Any, Any]]:
        """The mappings that are listed under a key; a problem where there are none."""
        value = content.get(key)
        if not isinstance(value, list) or not value:
            wrong = f"Its `{key}` is {kind(value)}, and must be a list" if value else f"The recipe lists no `{key}`"
            self.problems.append(f"{wrong}. Name at least one {item} there, as `- model: PATH`.")
            return []
        for told in value:
            if not isinstance(told, dict):
                words = f"Each of the recipe's `{key}` must be keys with values, but one is {kind(told)}"
                self.problems.append(f"{words}. Write it as `- model: PATH`.")
        return [told for told in value if isinstance(told, dict)]
