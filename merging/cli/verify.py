"""`verify`: read a merged model again, every byte, and compare it with the checksums that were taken."""

from __future__ import annotations

import argparse

from merging.cli.progress import progress, stoppable
from merging.errors import MergeError
from merging.sizes import in_words
from merging.words import counted


def run(options: argparse.Namespace) -> int:
    """Say that all is as it was written, or fail with every difference."""
    from merging.verify import verify

    with stoppable() as stop, progress(options.quiet) as on_step:
        found = verify(options.out, on_step=on_step, stop=stop)
    if found.problems:
        raise MergeError("\n".join(found.problems))
    if not options.quiet:
        print(f"{options.out}: {counted(found.tensors, 'tensor')}, {in_words(found.bytes)}, all as they were written.")
    return 0
