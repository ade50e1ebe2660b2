"""What can be asked for on the command line, and the help that says so."""

from __future__ import annotations

import argparse
from pathlib import Path

from merging.errors import MergeError
from merging.sizes import in_bytes

CODES = """\
exit codes:
  0    done
  1    it cannot be done; the reason, and what to do about it, is on stderr
  2    the command itself is wrong
  130  stopped by Ctrl-C
"""
TOP = """\
examples:
  python -m merging methods                     what can be written into a recipe
  python -m merging inspect models/expert       what is in a model
  python -m merging check recipe.yaml merged    what a merge will do, before it does anything
  python -m merging merge recipe.yaml merged    do it
  python -m merging verify merged               are these still the bytes that were written?

"""
MERGE = """\
A recipe is a YAML file, or a model that was merged before: its folder or its .safetensors file. Model paths in it start
at its own folder. Nothing is ever overwritten, and nothing is at OUT until all of it is; what was finished when a
merge is stopped is kept beside OUT, and the same command goes on from there.

examples:
  python -m merging merge recipe.yaml merged
  python -m merging merge recipe.yaml merged --memory 500MB --workers 4
  python -m merging merge merged merged-again   the same weights once more, bit for bit

a recipe:
  mergescope: 1
  merge_method: ties
  base_model: models/base
  models:
    - model: models/math
    - model: models/code
      parameters: {weight: 0.5}
  parameters: {density: 0.2, lambda: 1.0}

"""
CHECK = """\
Reads headers only, and tells all problems at once. The exit code is 1 when there is one.

examples:
  python -m merging check recipe.yaml
  python -m merging check recipe.yaml merged --json | jq .problems

"""
INSPECT = """\
Reads headers only.

examples:
  python -m merging inspect models/expert
  python -m merging inspect models/expert --json | jq '.tensors[].name'

"""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m merging",
        description="Merge fine-tuned models by their weights alone.",
        epilog=TOP + CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _merge(_command(commands, "merge", "merge the models of a recipe into a new folder", MERGE))
    _check(_command(commands, "check", "say what a merge will do, and what stands in its way", CHECK))
    inspect = _command(commands, "inspect", "say what is in a model", INSPECT)
    inspect.add_argument("model", metavar="MODEL", type=Path, help="a model folder, an adapter's, or a lone file")
    _json(inspect)
    verify = _command(commands, "verify", "read a merged model again and compare it with its checksums", "")
    verify.add_argument("out", metavar="OUT", type=Path, help="the folder of a merge")
    _quiet(verify)
    _json(_command(commands, "methods", "list the merge methods and their parameters", ""))
    return top


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, words: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=words,
        description=f"{words[0].upper()}{words[1:]}.",
        epilog=epilog + CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # so that what is not given keeps the default of the function it goes to
    )


def _merge(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file, or a merged model")
    command.add_argument("out", metavar="OUT", type=Path, help="the folder to write; it must not hold anything")
    _limits(command)
    command.add_argument("--shard-size", metavar="SIZE", type=_size, help="most bytes in one output file (5GB)")
    command.add_argument("--device", help="where the arithmetic is done: cpu (the default), cuda, mps")
    command.add_argument("--hash-inputs", action="store_true", help="note the inputs' SHA-256 in the result")
    command.add_argument("--no-fsync", dest="fsync", action="store_false", help="do not wait for the disk at the end")
    _quiet(command)


def _check(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file, or a merged model")
    command.add_argument("out", metavar="OUT", nargs="?", type=Path, help="the folder that is to be written")
    _limits(command)
    _json(command)


def _limits(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", metavar="N", type=_count, help="threads (one per core)")
    command.add_argument("--memory", metavar="SIZE", type=_size, help="most memory for the weights in work (1GB)")


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", default=False, help="print JSON")


def _quiet(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quiet", action="store_true", default=False, help="no progress bar and no report")


def _size(text: str) -> int:
    try:
        return in_bytes(text)
    except MergeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number of workers. Give 1 or more.")
    return int(text)
