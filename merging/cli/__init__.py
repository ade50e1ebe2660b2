"""The command line: one file per command, imported when it is asked for, and what its errors look like."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from merging.cli.parser import parser
from merging.errors import MergeError, MergeStopped

FINE, FAILED, STOPPED = 0, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    top = parser()
    options, unknown = top.parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        code: int = import_module(f"merging.cli.{options.command}").run(options)
        sys.stdout.flush()
        return code
    except MergeError as error:
        print(error, file=sys.stderr)
        return FAILED
    except (KeyboardInterrupt, MergeStopped):
        print("Stopped.", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # whoever was reading has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
