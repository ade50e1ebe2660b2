"""What can be asked for on the command line, and the help that says so."""

from __future__ import annotations

import argparse
from pathlib import Path

from merging.errors import MergeError
from merging.hub.names import told_by_name
from merging.sizes import in_bytes

CODES = """\
exit codes:
  0    done
  1    it cannot be done; the reason, and what to do about it, is printed
  2    the command itself is wrong
  130  stopped by Ctrl-C
"""
TOP = """\
examples:
  python -m merging methods                     what can be written into a recipe
  python -m merging inspect models/expert       what is in a model, or how experts differ from it
  python -m merging check recipe.yaml merged    what a merge will do, before it does anything
  python -m merging merge recipe.yaml merged    do it
  python -m merging verify merged               are these still the bytes that were written?
  python -m merging extract base expert lora --rank 16    what a model changed, as an adapter
  python -m merging export recipe.yaml          the same merge as a recipe of mergekit's

"""
MERGE = """\
A recipe is a YAML file, or a model that was merged before: its folder or its .safetensors file. Model paths in it start
at its own folder. Nothing is ever overwritten, and nothing is at OUT until all of it is; what was finished when a
merge is stopped is kept beside OUT, and the same command goes on from there.

examples:
  python -m merging merge recipe.yaml merged
  python -m merging merge recipe.yaml merged --memory 500MB --workers 4
  python -m merging merge recipe.yaml merged --stream   with models of the Hub that are not to be kept
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

With `result: adapter` in it, LoRA adapters are merged into one adapter that PEFT loads; `rank: 16` cuts it to a rank.

"""
CHECK = """\
Reads headers only, and tells all problems at once. The exit code is 1 when there is one.

examples:
  python -m merging check recipe.yaml
  python -m merging check recipe.yaml merged --json | jq .problems

"""
EXTRACT = """\
The adapter is in PEFT's format. It holds factors for the matrices in the layers and for a head of its own; what that
leaves out is told at the end, with what the rank leaves out.

examples:
  python -m merging extract models/base models/math math-lora --rank 32
  python -m merging extract models/base models/math math-lora --rank 32 --save embed_tokens lm_head --bias

"""
EXPORT = """\
Prints the YAML. A method that mergekit lacks and that weighs whole tensors, as FroM does, becomes task arithmetic with
the coefficients that it has for these models, which are read for it.

examples:
  python -m merging export recipe.yaml > mergekit.yaml
  python -m merging export merged > mergekit.yaml

"""
COLLECT = """\
`fisher` and `regmean` weigh experts by what each does with text of its own task. What is collected is written next to
the model, as MODEL.statistics.safetensors, where a merge looks for it. No code that comes with a model is run.

examples:
  python -m merging collect models/math math.txt
  python -m merging collect models/math-lora math.txt --base models/base --only fisher

"""
PUBLISH = """\
The model is private unless you say otherwise, and goes under a name that is free: nothing on the Hub is ever changed or
deleted. Its card tells the models, their commits and licences, the recipe, and how far each layer moved. Whoever is
signed in on this machine (`hf auth login`) publishes it. After a stop, files that arrived whole are not sent again.

examples:
  python -m merging publish merged me/merged --card-only > card.md
  python -m merging publish merged me/merged --card card.md

"""
INSPECT = """\
Of one model, reads headers only. With experts after it, reads all weights twice and tells how far each went from the
base, and how often each two of them change a weight in opposite directions; what it finds is kept, and the next time
there at once.

examples:
  python -m merging inspect models/expert
  python -m merging inspect models/base models/math models/code
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
    inspect.add_argument("model", metavar="MODEL", type=_model, help="a model folder, an adapter's, or a lone file")
    inspect.add_argument(
        "experts", metavar="EXPERT", nargs="*", type=_model, default=[], help="models that were fine-tuned from it"
    )
    _json(inspect)
    _extract(_command(commands, "extract", "write an adapter that holds what a model changed of its base", EXTRACT))
    verify = _command(commands, "verify", "read a merged model again and compare it with its checksums", "")
    verify.add_argument("out", metavar="OUT", type=Path, help="the folder of a merge")
    _quiet(verify)
    methods = _command(commands, "methods", "list the merge methods and their parameters", "")
    methods.add_argument("names", metavar="NAME", nargs="*", default=[], help="only these, by their names in recipes")
    _json(methods)
    export = _command(commands, "export", "print a recipe as mergekit reads it", EXPORT)
    export.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file, a merged model, or - for stdin")
    _collect(_command(commands, "collect", "run a model over a text, for the methods that ask for statistics", COLLECT))
    _publish(_command(commands, "publish", "put a merged model onto the Hub, with a card", PUBLISH))
    return top


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, words: str, epilog: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=words,
        description=f"{words[0].upper()}{words[1:]}.",
        epilog=epilog + CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # so that what is not given keeps the default of the function it goes to
    )
    command.set_defaults(parser=command)  # which says how the command is used
    return command


def _merge(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file, a merged model, or - for stdin")
    command.add_argument("out", metavar="OUT", type=Path, help="the folder to write; it must not hold anything")
    _limits(command)
    _stream(command)
    command.add_argument("--shard-size", metavar="SIZE", type=_size, help="most bytes in one output file (5GB)")
    command.add_argument("--hash-inputs", action="store_true", help="note the inputs' SHA-256 in the result")
    command.add_argument("--no-fsync", dest="fsync", action="store_false", help="do not wait for the disk at the end")
    _quiet(command)


def _collect(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", type=_model, help="a model folder, an adapter's, or a lone file")
    command.add_argument("text", metavar="TEXT", type=Path, help="a file of text of the kind that the model is for")
    command.add_argument(
        "--base", metavar="MODEL", type=_model, help="the base of an adapter, or of a file without config"
    )
    command.add_argument("--only", choices=("fisher", "inputs"), help="what to collect; both if left out")
    command.add_argument("--tokens", metavar="N", type=_count, help="most tokens to run it over (100000)")
    command.add_argument("--length", metavar="N", type=_count, help="tokens that it sees at a time (256)")
    command.add_argument("--memory", metavar="SIZE", type=_size, help="most memory for inner products of inputs (2GB)")
    _quiet(command)


def _publish(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="OUT", type=Path, help="the folder of a merge")
    command.add_argument("name", metavar="OWNER/NAME", help="what it is to be called on the Hub")
    command.add_argument("--public", action="store_true", default=False, help="for everyone to see")
    command.add_argument("--card", metavar="FILE", type=Path, help="a card of your own")
    command.add_argument("--card-only", action="store_true", default=False, help="print the card, and publish nothing")
    _quiet(command)


def _check(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file, a merged model, or - for stdin")
    command.add_argument("out", metavar="OUT", nargs="?", type=Path, help="the folder that is to be written")
    _limits(command)
    _stream(command)
    _json(command)


def _extract(command: argparse.ArgumentParser) -> None:
    command.add_argument("base", metavar="BASE", type=_model, help="the model that the other was fine-tuned from")
    command.add_argument("expert", metavar="EXPERT", type=_model, help="the fine-tuned model")
    command.add_argument("out", metavar="OUT", type=Path, help="the folder to write; it must not hold anything")
    command.add_argument("--rank", metavar="R", type=_rank, required=True, help="of the adapter's factors")
    command.add_argument("--modules", metavar="NAME", nargs="+", help="only modules whose names end so (q_proj v_proj)")
    command.add_argument("--save", metavar="NAME", nargs="+", help="keep these modules in full (lm_head norm)")
    command.add_argument("--bias", action="store_true", help="keep all biases in full")
    command.add_argument("--randomised", action="store_true", help="decompose quicker, and find a little less")
    command.add_argument("--dtype", dest="out_dtype", help="of the adapter: float32 (the default), bfloat16, float16")
    _limits(command)
    command.add_argument("--hash-inputs", action="store_true", help="note the inputs' SHA-256 in the result")
    command.add_argument("--no-fsync", dest="fsync", action="store_false", help="do not wait for the disk at the end")
    _quiet(command)


def _limits(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", metavar="N", type=_count, help="threads (one per core)")
    command.add_argument(
        "--memory", metavar="SIZE", type=_size, help="most memory to work in, beside the program (1GB)"
    )
    command.add_argument("--device", help="where the arithmetic is done: cpu (the default), cuda, mps")


def _stream(command: argparse.ArgumentParser) -> None:
    words = "read models of the Hub while they are merged, once or twice, and keep nothing of them"
    command.add_argument("--stream", action="store_true", default=False, help=words)


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", default=False, help="print JSON")


def _quiet(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quiet", action="store_true", default=False, help="no progress bar and no report")


def _model(text: str) -> Path:
    try:
        return Path(told_by_name(text))
    except MergeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _size(text: str) -> int:
    try:
        return in_bytes(text)
    except MergeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a whole number of 1 or more.")
    return int(text)


def _rank(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a rank. Give 1 or more.")
    return int(text)
