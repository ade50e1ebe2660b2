"""A merge that weighs whole tensors, said again as task arithmetic, whose weights can be seen and changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np

from merging.errors import MergeError
from merging.method import TaskCoefficients, find_method
from merging.recipe import Recipe
from merging.rules import value_of
from merging.settings import depths
from merging.shortening import shortest

WHOLE_STEP = {"lambda": 1.0, "normalize": False}  # the weights are the coefficients


def inexact(recipe: Recipe) -> str:
    """Why the merge is not the base and a weighted sum of task vectors, in two sentences; empty when it is."""
    method = find_method(recipe.method)
    cannot = "so task arithmetic cannot do the same. Choose FroM."
    if not method.takes_base and not method.ranks:
        return f"{method.title} does not start from the base, {cannot}"
    by_shape = method.whole and "axes" in signature(method.function).parameters  # matrices are not merged by weights
    if by_shape or TaskCoefficients not in method.outcomes:
        return f"{method.title} gives no tensor one weight per expert, {cannot}"
    if method.name == "slerp":
        return f"SLERP also changes how much the base counts, {cannot}"
    if recipe.base is None:
        return f"Without a base, {method.title} has no task vectors to weigh. Name a base model."
    if recipe.values.get("lora", "product") != "product":
        return "Averaged factors mix the A of one adapter with the B of another. Choose `lora: product`."
    return ""


def as_task_arithmetic(recipe: Recipe, table: Sequence[Sequence[float]], names: Iterable[str]) -> Recipe:
    """Task arithmetic that merges the same, to the rounding of float32, with a weight for every tensor.

    `table` holds the coefficients, (tensors, experts), as `coefficients.coefficients` gives them for the recipe, and
    `names` the tensors. NaN stands for an expert that lacks a tensor. MergeError where the two merges would differ.
    """
    if words := inexact(recipe):
        raise MergeError(words)
    names = tuple(names)
    for name, row in zip(names, table, strict=True):
        if all(map(math.isnan, row)):
            words = f"`{name}` is merged as a whole, without one weight per expert, or is not finite"
            raise MergeError(f"{words}, so task arithmetic cannot do the same. Choose other values.")
    depth = depths(names)
    weights: list[Any] = []
    for column in zip(*table, strict=True):
        known = {name: _short(value) for name, value in zip(names, column, strict=True) if not math.isnan(value)}
        weights.append(value_of(shortest(known, depth)) if known else 0.0)
    return replace(
        recipe, method="task_arithmetic", weights=tuple(weights), values=dict(WHOLE_STEP), own=(), warnings=()
    )


def _short(value: float) -> float:
    """The number of fewest digits that is the same in float32, in which it is merged."""
    return float(str(np.float32(value)))
