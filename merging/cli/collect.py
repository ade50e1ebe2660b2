"""`collect`: run a model over a text, and write its statistics beside it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from merging.cli.given import look_at
from merging.cli.progress import progress, stoppable
from merging.header import read_header
from merging.sizes import in_words
from merging.words import counted, listed

if TYPE_CHECKING:
    from merging.enough import Statistics

PASSED_ON = ("base", "tokens", "length", "memory")


def run(options: argparse.Namespace) -> int:
    """Collect, with a bar to watch and Ctrl-C to stop it."""
    from merging.collect import collect

    look_at([options.model, *([options.base] if "base" in options else [])])
    given = {key: value for key, value in vars(options).items() if key in PASSED_ON}
    if "only" in options:
        given["kinds"] = (options.only,)
    with stoppable() as stop, progress(options.quiet, " blocks") as on_step:
        found = collect(options.model, options.text, on_step=on_step, stop=stop, **given)
    if not options.quiet:
        print("\n".join(told(options.model, options.text, found)))
    return 0


def told(model: Path, text: Path, found: Statistics) -> list[str]:
    """The report, line by line."""
    entries = read_header(found.file)
    size = f"{counted(len(entries), 'tensor')}, {in_words(sum(entry.bytes for entry in entries))}"
    ran = f"{counted(found.tokens, 'token')} of {text}, in {counted(found.blocks, 'block')}"
    lines = [f"Ran {model.resolve().name} over {ran}.", *(f"Warning: {warning}" for warning in found.warnings)]
    for verb, kinds in (("Replaced", found.replaced), ("Kept", found.kept)):
        if kinds:
            lines.append(f"{verb} what was there of {listed([f'`{kind}`' for kind in kinds])}.")
    return [*lines, f"Wrote statistics of {size}, to {found.file}."]
