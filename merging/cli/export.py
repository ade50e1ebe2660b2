"""`export`: the recipe as mergekit reads it."""

from __future__ import annotations

import argparse

from merging.cli.given import read_recipe
from merging.cli.progress import stoppable
from merging.recipe import Recipe


def run(options: argparse.Namespace) -> int:
    """Print YAML, in which relative paths of models start at the working folder."""
    from merging.as_task_arithmetic import inexact
    from merging.exporting import to_mergekit
    from merging.mergekit import MEANINGS

    recipe = read_recipe(options.recipe)
    if recipe.method not in MEANINGS and not inexact(recipe):
        recipe = _weighed(recipe)
    print(to_mergekit(recipe), end="")
    return 0


def _weighed(recipe: Recipe) -> Recipe:
    """Task arithmetic with the coefficients that the recipe's method has for its models."""
    from merging.adapter import open_base, open_expert
    from merging.as_task_arithmetic import as_task_arithmetic
    from merging.coefficients import coefficients
    from merging.compare import compare
    from merging.lazy import torch

    assert recipe.base  # as `inexact` asks for
    base = open_base(recipe.base)
    with stoppable() as stop:
        comparison = compare(base, [open_expert(path, base) for path in recipe.experts], stop=stop)
    method, values, weights = recipe.checked()
    table = coefficients(method, values | {"weight": torch.tensor(weights)}, comparison, comparison.probe)
    return as_task_arithmetic(recipe, table.tolist(), comparison.names)
