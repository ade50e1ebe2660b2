"""Times merges alone, in turn with the floor, in a process that has everything imported and warm; engine.py starts it.

Prints JSON: for each of floor, merge, fsync and verify a list of runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import floor
from cases import ROOT  # noqa: F401 - for its effect: `merging` is found

from merging import load_recipe, merge
from merging.verify import verify


def timed(act: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of one call, all threads counted, after what was written before has reached the disk."""
    os.sync()
    usage, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    act()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime}


def run(recipe_file: Path, out: Path, repeat: int, reads_base: bool, memory: str) -> dict[str, list[dict[str, float]]]:
    recipe = load_recipe(recipe_file)
    assert recipe.base
    inputs = [*([recipe.base] if reads_base else []), *recipe.experts]
    size = sum(file.stat().st_size for file in floor.weights(recipe.base))
    merge(recipe, out, memory=memory)  # imports, compiles, and brings the inputs into the page cache
    runs: dict[str, list[dict[str, float]]] = {"floor": [], "merge": [], "fsync": [], "verify": []}
    for _ in range(repeat):
        shutil.rmtree(out)
        runs["floor"].append(timed(lambda: floor.floor(inputs, size, out.parent)))
        runs["merge"].append(timed(lambda: merge(recipe, out, memory=memory, fsync=False)))
        _verified(out)
        shutil.rmtree(out)
        runs["fsync"].append(timed(lambda: merge(recipe, out, memory=memory, fsync=True)))
        runs["verify"].append(timed(lambda: _verified(out)))
    return runs


def _verified(out: Path) -> None:
    problems = verify(out).problems
    assert not problems, problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--no-base", action="store_true", help="the merge does not read the base, so the floor does not"
    )
    parser.add_argument("--memory", default="1GB", help="what the merge may work in")
    options = parser.parse_args()
    print(json.dumps(run(options.recipe, options.out, options.repeat, not options.no_base, options.memory)))


if __name__ == "__main__":
    main()
