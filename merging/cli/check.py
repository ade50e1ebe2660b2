"""`check`: what a merge will do, and all that stands in its way, from headers alone."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from merging.cli.given import read_recipe
from merging.cli.words import fates_in_words
from merging.errors import RecipeError
from merging.hub.models import looked_at
from merging.sizes import in_words
from merging.words import counted

if TYPE_CHECKING:
    from merging.distant import Fetching
    from merging.preflight import Preflight

PASSED_ON = ("out", "memory", "workers", "device", "stream")


def run(options: argparse.Namespace) -> int:
    """Print what was found; a recipe that cannot be read is a finding, too."""
    from merging.preflight import Preflight, check

    given = {key: value for key, value in vars(options).items() if key in PASSED_ON}
    left = 0  # bytes to download
    try:
        recipe = read_recipe(options.recipe)
        left = sum(one.bytes for one in looked_at(recipe).values())
        found = check(recipe, **given)
    except RecipeError as error:
        found = Preflight(error.problems, error.warnings)
    fetching = found.fetching if options.stream and not found.problems else None
    size = fetching.bytes if fetching else 0
    content = {**_content(found), "bytes_to_download": 0 if options.stream else left, "bytes_to_stream": size}
    print(json.dumps(content, indent=2) if options.json else "\n".join(told(found, left, fetching)))
    return 1 if found.problems else 0


def _content(found: Preflight) -> dict[str, object]:
    keys = ("problems", "warnings", "fates", "bytes_in", "bytes_out", "memory", "seconds", "ranks", "kept")
    return {"ok": not found.problems, **{key: getattr(found, key) for key in keys}}


def told(found: Preflight, left: int = 0, fetching: Fetching | None = None) -> list[str]:
    """The findings, line by line, problems first."""
    head = f"{counted(len(found.problems), 'problem')}:" if found.problems else "Nothing stands in the way."
    lines = [head, *(f"  {problem}" for problem in found.problems)]
    lines += [f"Warning: {warning}" for warning in found.warnings]
    if found.plan:
        lines += [f"  {line}" for line in fates_in_words(found.fates)]
        if ranks := sorted(found.ranks.values()):
            lines.append(f"The adapter has rank {ranks[0]}{f' to {ranks[-1]}' if ranks[-1] > ranks[0] else ''}.")
    if found.kept:
        kept = f"Kept of a merge to the same place that was broken off: {counted(found.kept, 'tensor')}"
        lines.append(f"{kept}. The same merge goes on from there; another one starts anew and removes them.")
    if fetching:
        lines += [f"Meanwhile it fetches {fetching.words}, and keeps none of it."]
    elif left:
        lines += [f"{in_words(left)} are downloaded from the Hub before that."]
    if found.plan and not found.problems:
        reads = f"It reads {in_words(found.bytes_in)} and writes {in_words(found.bytes_out)}"
        memory = f"with about {in_words(found.memory)} of memory, the program included"
        lines += [f"{reads}, {memory}, in about {max(found.seconds, 1):.0f} s."]
    return lines
