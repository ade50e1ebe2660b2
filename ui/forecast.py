"""What the merge will do, drawn from what is in memory: weights, effects, differences, and the recipe's text."""

from __future__ import annotations

import html
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import gradio as gr

from merging.adapter_predictions import MIXED
from merging.compare import Comparison
from merging.errors import MergeError
from merging.method import find_method
from merging.predictions import Difference, Prediction, difference
from merging.predictor import BROKEN, STILL
from merging.recipe import Recipe
from merging.wholes import LATER
from merging.words import counted
from ui.comparing import known_predictor, predicted
from ui.errors import notice
from ui.figures.compared import Side, compared_figure
from ui.figures.effects import NEEDED, effect_figure
from ui.figures.sketch import Sketch
from ui.forecast_panel import VIEWS
from ui.models_panel import Selection
from ui.plots import coefficients_figure

SIDES = {"weights": "weight", "kept": "share of entries kept", "relative": "‖merged τ‖ / ‖W₀‖"}
WRITTEN = '<p class="caption">The merge as it stands, to be downloaded, shared as a link, or made again.</p>'
Drawn = tuple[Any, ...]  # the caption, what each of VIEWS shows, and whether all of it is exact


def draw_forecast(
    selection: Selection, recipe: Recipe, view: str, effect: str, compared: str, held: Recipe | None, quick: bool
) -> Drawn:
    """What the open view shows of the recipe; the others are left as they are. MergeStopped in long work that is."""
    shown = dict.fromkeys(VIEWS, gr.skip())
    if not known_predictor(selection):
        return "", *dict.fromkeys(VIEWS).values(), True
    if view == "recipe":
        return WRITTEN, *{**shown, "recipe": recipe_text(recipe)}.values(), True
    predictor = known_predictor(selection, recipe.makes)
    if not predictor:  # no adapter can be made, of which the panel of the result speaks
        return "", *{**shown, view: None}.values(), True
    known, names = predictor.comparison, selection.names
    try:
        found = predicted(selection, recipe, quick)
        assert found
        other = _held_against(selection, recipe, held, quick) if held and view == "difference" else None
        drawn: Any = None
        if other:
            drawn = difference_figure(found, other, names, compared, known)
        elif view == "effects":
            drawn = effect_figure(found, names, effect)
        elif view == "weights":
            drawn = weights_figure(found, names, known)
    except MergeError as error:
        kind = "info" if find_method(recipe.method).collects and not recipe.problems() else "error"
        return notice(str(error), kind), *{**shown, view: None}.values(), True
    pictured = {"effects": NEEDED[effect], "difference": {compared}}.get(view, {"weights"}) if drawn else set()
    wanted = {"norms", *pictured, *({"decided"} if found.entrywise else ())}
    exact = wanted <= (found.exact & other.exact if other else found.exact)
    return caption(recipe, found, pictured, other), *{**shown, view: drawn}.values(), exact


def weights_figure(found: Prediction, names: tuple[str, ...], known: Comparison) -> Sketch | None:
    """The coefficient, or the effective weight, of each expert in each tensor; None where none has a number.

    `known` is the comparison that the prediction follows from.
    """
    if MIXED in found.why.values() and found.weights.isnan().all():
        return None
    label = "effective weight" if found.entrywise else "coefficient"
    return coefficients_figure(found.names, names, found.weights.tolist(), label, _gaps(found, known))


def _held_against(selection: Selection, recipe: Recipe, held: Recipe, quick: bool) -> Prediction | None:
    if held.makes != recipe.makes:
        words = "One of the two makes a model, and the other a LoRA adapter, of fewer tensors"
        raise MergeError(f"{words}. Choose the same result for both, and hold the settings again.")
    return predicted(selection, held, quick)


def difference_figure(
    found: Prediction, other: Prediction, names: tuple[str, ...], compared: str, known: Comparison
) -> Sketch:
    """The settings that are held, those of now, and by how much these differ, tensor by tensor."""
    table, label = difference(found, other).tables[compared], SIDES[compared]
    each = compared in ("weights", "kept")

    def gaps(one: Prediction) -> dict[tuple[int, int], str]:
        return _gaps(one, known, compared) if each else {(row, 0): words for row, words in one.why.items()}

    held, now = (
        Side(title, label, one.tables[compared].tolist(), gaps(one)) for title, one in (("Held", other), ("Now", found))
    )
    differs = Side("Now − held", "difference", table.tolist(), {**held.gaps, **now.gaps})
    return compared_figure(found.names, names if each else ("merge",), (held, now, differs))


def _gaps(found: Prediction, known: Comparison, table: str = "weights") -> dict[tuple[int, int], str]:
    """Why there is no number, by tensor and expert: what is known of the tensor, or else of the merge."""
    told = known.gaps(found.tables[table])
    why = {row: words for row, words in found.why.items() if words != STILL}
    return {at: why.get(at[0], words) if known.has[at] else words for at, words in told.items()}


def caption(
    recipe: Recipe, found: Prediction, pictured: Collection[str] = ("weights",), other: Prediction | None = None
) -> str:
    """What the merge comes to as a whole, and how well that is known.

    `pictured` are the tables that are drawn below it, where there is another one of how both differ.
    """
    method, whole = find_method(recipe.method), found.total()
    mixed = list(found.why.values()).count(MIXED)
    if mixed and mixed == len(found.names):
        words = f"{method.title} with these values mixes the adapters of each matrix, so that none of them has a number"
        return notice(f"{words} of its own to show.", "info")
    told, tables = [f"<b>{html.escape(method.title)}</b>"], set[str]()
    if math.isfinite(step := float(whole.relative[0])):
        told.append(f"steps {step:.2%} away from the base")
        tables.add("norms")
    none, one, several = whole.decided[0].tolist()
    if found.entrywise and math.isfinite(none):
        told.append(f"entries decided by several experts {several:.0%}, by one {one:.0%}, by none {none:.0%}")
        tables.add("decided")
    if broken := [*found.why.values()].count(BROKEN):
        told.append(f"it will be refused, for {counted(broken, 'tensor')} with infinite or undefined numbers")
    if mixed:
        told.append("but for matrices, in which it mixes the adapters")
    if recipe.rank:
        told.append(f"before any cut to rank {recipe.rank}")
    shown = difference(found, other) if other else found
    if LATER in (*found.why.values(), *(other.why.values() if other else ())):
        pictured = {*pictured} - {"norms", "relative"}
    said, drawn = _how_known(found, tables), _how_known(shown, pictured)
    told += [said or drawn] if not (said and drawn) or said == drawn else [said, f"what is drawn is {drawn}"]
    return f'<p class="caption">{" · ".join(filter(None, told))}</p>'


def _how_known(found: Prediction | Difference, tables: Collection[str]) -> str:
    """Whether all of these tables are exact; no word where there are none, or no number is known."""
    if not tables:
        return ""
    if found.exact.issuperset(tables):
        return "exact"
    return "" if found.share == 1 else f"estimated from 1 entry in {max(2, round(1 / found.share))}"


def recipe_text(recipe: Recipe) -> str:
    """The recipe as YAML, or what is wrong with it as a comment."""
    try:
        return recipe.to_yaml(Path.cwd())
    except MergeError as error:
        return "\n".join(f"# {line}" for line in str(error).splitlines())
