"""The methods of each kind, as the screen offers them."""

from __future__ import annotations

from merging.kinds import kind_of
from merging.method import ADAPTERS, METHODS


def titles_of(kind: str) -> list[tuple[str, str]]:
    """Titles and names of the methods of a kind, in the order in which they are registered."""
    return [(method.title, method.name) for method in (METHODS | ADAPTERS).values() if kind_of(method) == kind]
