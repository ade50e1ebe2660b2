"""Numbers and lists as sentences have them."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def oddity(title: str, notes: dict[str, str]) -> list[str]:
    """What was odd about how a method merged tensors, by their names: of the first one, in a sentence."""
    more = f", and so on in {len(notes) - 1} more tensors" if len(notes) > 1 else ""
    return [f"`{name}`: {title} {note}{more}." for name, note in list(notes.items())[:1]]


def verb(subjects: Sequence[str], one: str, several: str) -> str:
    """The form that goes with so many subjects."""
    return several if len(subjects) > 1 else one
