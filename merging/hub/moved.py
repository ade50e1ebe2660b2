"""How far every tensor of a merge is from the base that it was made of: what the picture of its card shows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from merging.adapter import open_base, open_expert
from merging.compare import compare
from merging.distant import is_far
from merging.document import RECIPE
from merging.errors import MergeError
from merging.hub.room import using
from merging.recipe import load_recipe


def moved(
    folder: Path, on_step: Callable[[int, int], None] | None = None, stop: threading.Event | None = None
) -> dict[str, float]:
    """‖merged − base‖ / ‖base‖ by tensor, read from both; empty for a merge without a base that is here by now."""
    recipe = load_recipe(folder / RECIPE)
    if not recipe.base or is_far(recipe.base):
        return {}
    with using(recipe.base):
        try:
            base = open_base(recipe.base)
        except MergeError:
            return {}
        found = compare(base, [open_expert(folder, base)], on_step, stop, cached=True)
    return dict(zip(found.names, (found.norms[:, 0] / found.base_norms).tolist(), strict=True))
