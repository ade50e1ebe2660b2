"""The table of the chosen models: what each one is, why it does not fit, and how it was read."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

from merging.adapter import describe, is_adapter
from merging.checkpoint import Checkpoint
from merging.sizes import in_words
from ui import family
from ui.errors import escaped

HEADS = ("", "Model", "Architecture", "Tensors", "Parameters", "Dtype", "Size")


@dataclass(frozen=True)
class Row:
    """One model of the table; there is no model where it could not be opened."""

    role: str
    path: str
    model: Checkpoint | None
    problem: str = ""
    notes: tuple[str, ...] = ()


def table(rows: list[Row], notes: list[str]) -> str:
    """The table as HTML; `notes` are about no single model."""
    head = "".join(f'<th scope="col">{name}</th>' for name in HEADS)
    rest = f'<tr><td></td><td colspan="6">{_notes(tuple(notes))}</td></tr>' if notes else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, rows))}{rest}</tbody>"
    return f'<div class="scroll"><table class="models">{body}</table></div>'


def _row(row: Row) -> str:
    tone = ' class="misfit"' if row.problem else ""
    if not row.model:
        return f'<tr{tone}><td>{row.role}</td><td colspan="6">{_named(row)}</td></tr>'
    facts = "".join(
        f'<td data-head="{head}">{fact}</td>' for head, fact in zip(HEADS[2:], _facts(row.model), strict=True)
    )
    return f"<tr{tone}><td>{row.role}</td><td>{_named(row)}</td>{facts}</tr>"


def _named(row: Row) -> str:
    name = row.model.name if row.model else Path(row.path).name or row.path
    path = f'<span class="path">{html.escape(_shown(row.path))}</span>' if row.model else ""
    problems = "".join(f'<span class="problem">{escaped(line)}</span>' for line in row.problem.splitlines())
    return f"<b>{html.escape(name)}</b>{path}{problems}{_notes(row.notes)}"


def _facts(model: Checkpoint) -> list[str]:
    kind = describe(model) if is_adapter(model) else model.architecture
    dtypes = " + ".join(model.dtypes) or "no floats"
    numbers = [f"{len(model.entries):,}", count(model.parameters), dtypes, in_words(model.bytes)]
    return [html.escape(kind or "no config"), *numbers]


def _notes(notes: tuple[str, ...]) -> str:
    return "".join(f'<span class="note">{escaped(note)}</span>' for note in notes)


def _shown(path: str) -> str:
    """The path as it was given; the embedded family's from the project's folder on."""
    root = family.ZOO.parent
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def count(number: int) -> str:
    """A number, of parameters or of downloads, in short: `7.24 B`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)
