"""What several commands say in the same words."""

from __future__ import annotations

from merging.report import Report, by_fate
from merging.words import counted

SHOWN = 6  # names of tensors with one fate; `check --json` lists all of them


def fates_in_words(fates: dict[str, str]) -> list[str]:
    """One line for each fate that a tensor can have here, and which tensors have it unless they are merged."""
    names = by_fate(fates)
    return [
        f"{counted(len(having), 'tensor')} {fate}{'' if fate == 'merged' else f' ({_first(having)})'}"
        for fate, having in names.items()
    ]


def gone_on(report: Report) -> list[str]:
    """That an earlier run was gone on with, where it was."""
    kept = f"{counted(report.kept, 'tensor')} {'were' if report.kept > 1 else 'was'} finished"
    return [f"Went on from a run that was stopped, in which {kept} of this."] if report.kept else []


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN:,} more" if len(names) > SHOWN else shown
