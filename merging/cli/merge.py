"""`merge`: run a recipe and say what was done."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from merging.cli.given import read_recipe
from merging.cli.progress import progress, stoppable
from merging.cli.words import fates_in_words, gone_on
from merging.engine import Report, merge
from merging.errors import MergeStopped, RecipeError
from merging.header import read_json
from merging.hub.cached import commit_of
from merging.hub.models import fetched, looked_at, pinned
from merging.method import find_method
from merging.preflight import check
from merging.progress import Step
from merging.recipe import Recipe
from merging.sizes import in_words
from merging.words import listed
from merging.workplace import finished

PASSED_ON = ("workers", "memory", "shard_size", "device", "hash_inputs", "fsync", "stream")


def run(options: argparse.Namespace) -> int:
    """Merge, with a bar to watch and Ctrl-C to stop it."""
    recipe = read_recipe(options.recipe)
    given = {key: value for key, value in vars(options).items() if key in PASSED_ON}
    try:
        with stoppable() as stop, progress(options.quiet) as on_step:
            recipe = pinned(recipe) if options.stream else _here(recipe, options, on_step, stop)
            report = merge(recipe, options.out, on_step=on_step, stop=stop, **given)
    except (MergeStopped, KeyboardInterrupt):
        goes_on = " The same command goes on where this one stopped." if finished(options.out) else ""
        print(f"Stopped. Nothing was written to {options.out}.{goes_on}", file=sys.stderr)
        return 130
    if not options.quiet:
        print("\n".join(told(recipe, report)))
    return 0


def _here(
    recipe: Recipe, options: argparse.Namespace, on_step: Callable[[Step], None] | None, stop: threading.Event
) -> Recipe:
    """The recipe with models that are on this machine: those of the Hub are fetched, if nothing stands in the way."""
    if not looked_at(recipe):
        return recipe
    known = {key: value for key, value in vars(options).items() if key in ("out", "memory", "workers", "device")}
    if problems := check(recipe, **known).problems:
        raise RecipeError(problems, recipe.warnings)

    def tell(done: int, total: int) -> None:
        if on_step:
            on_step(Step(0, 0, "", done, total, "Downloading"))

    return fetched(recipe, tell, stop)


def told(recipe: Recipe, report: Report) -> list[str]:
    """The report, line by line."""
    experts = listed([_called(path) for path in recipe.experts])
    base = f" into {_called(recipe.base)}" if recipe.base else ""
    base = " into one adapter" if recipe.makes == "adapter" else base
    return [
        f"Merged {experts}{base} by {find_method(recipe.method).title}.",
        *(f"  {line}" for line in fates_in_words(report.fates)),
        *gone_on(report),
        *(f"Warning: {warning}" for warning in report.warnings),
        *([f"Fetched {in_words(report.fetched)} from the Hub, and kept none of it."] if report.fetched else []),
        f"Wrote {in_words(report.bytes)} to {report.out} in {report.seconds:.1f} s.",
        f"Load it: {_loading(report.out)}",
    ]


def _called(path: Path) -> str:
    name = commit_of(path)  # whose folder is called by its commit
    return name.repo if name else path.resolve().name


def _loading(out: Path) -> str:
    """The line of Python that loads the result, as far as its config tells."""
    config = out / "config.json"
    if (out / "adapter_config.json").is_file():
        return f'peft.PeftModel.from_pretrained(base, "{out.as_posix()}")'
    if not config.is_file():
        return f'safetensors.torch.load_file("{(out / "model.safetensors").as_posix()}")'
    kind = str(read_json(config).get("architectures", ""))
    return f'transformers.AutoModel{"ForCausalLM" if "ForCausalLM" in kind else ""}.from_pretrained("{out.as_posix()}")'
