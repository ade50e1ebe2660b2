"""`verify`: read a merged model again, every byte, and compare it with the checksums that were taken."""

from __future__ import annotations

import argparse

from merging.cli.progress import progress, stoppable
from merging.document import RECIPE
from merging.errors import MergeError
from merging.sizes import in_words
from merging.words import counted


def run(options: argparse.Namespace) -> int:
    """Say that all is as it was written, or fail with every difference."""
    from merging.verify import verify

    with stoppable() as stop, progress(options.quiet) as on_step:
        found = verify(options.out, on_step=on_step, stop=stop)
    if found.problems:
        advice = f"Merge again from its own recipe: python -m merging merge {options.out} NEW"
        raise MergeError("\n".join([*found.problems, *([advice] if (options.out / RECIPE).is_file() else [])]))
    if not options.quiet:
        read = f"{counted(found.tensors, 'tensor')}, {in_words(found.bytes)}"
        print(f"{options.out}: {read}, all as they were written, and so are the files beside them.")
    return 0
