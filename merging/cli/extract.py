"""`extract`: write an adapter that holds what a model changed."""

from __future__ import annotations

import argparse
import sys

from merging.cli.given import look_at
from merging.cli.progress import progress, stoppable
from merging.cli.words import fates_in_words, gone_on
from merging.errors import MergeStopped
from merging.sizes import in_words

PASSED_ON = ("modules", "save", "bias", "randomised", "out_dtype", "workers", "memory", "hash_inputs", "fsync")


def run(options: argparse.Namespace) -> int:
    """Extract, with a bar to watch and Ctrl-C to stop it."""
    from merging.extraction import extract

    look_at([options.base, options.expert])
    given = {key: value for key, value in vars(options).items() if key in PASSED_ON}
    try:
        with stoppable() as stop, progress(options.quiet) as on_step:
            report = extract(
                options.base, options.expert, options.out, options.rank, on_step=on_step, stop=stop, **given
            )
    except (MergeStopped, KeyboardInterrupt):
        words = f"Stopped. Nothing was written to {options.out}."
        print(f"{words} The same command goes on where this one stopped.", file=sys.stderr)
        return 130
    if not options.quiet:
        lines = [f"Extracted what {options.expert.resolve().name} changed of {options.base.resolve().name}."]
        lines += [f"  {line}" for line in fates_in_words(report.fates)]
        lines += gone_on(report)
        lines += [f"Warning: {warning}" for warning in report.warnings]
        lines += [f"Wrote {in_words(report.bytes)} to {report.out} in {report.seconds:.1f} s."]
        lines += [f'Load it: peft.PeftModel.from_pretrained(base, "{report.out.as_posix()}")']
        print("\n".join(lines))
    return 0
