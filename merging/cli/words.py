"""What several commands say in the same words."""

from __future__ import annotations

SHOWN = 6  # names of tensors with one fate; `check --json` lists all of them


def counted(number: int, noun: str) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def fates_in_words(fates: dict[str, str]) -> list[str]:
    """One line for each fate that a tensor can have here, and which tensors have it unless they are merged."""
    names: dict[str, list[str]] = {}
    for name, fate in fates.items():
        names.setdefault(fate, []).append(name)
    return [
        f"{counted(len(having), 'tensor')} {fate}{'' if fate == 'merged' else f' ({_first(having)})'}"
        for fate, having in names.items()
    ]


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN:,} more" if len(names) > SHOWN else shown
