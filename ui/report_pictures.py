"""The pictures of a merge for its report, and in sentences which of them there are not, and why."""

from __future__ import annotations

from merging.errors import MergeError
from merging.history import Past
from ui.comparing import known_predictor, predicted
from ui.figures.effects import DECIDING, DISTANCE, effect_figure
from ui.forecast import weights_figure
from ui.measures import RELATIVE
from ui.models_panel import Selection
from ui.report_page import Picture
from ui.views import draw_norms

NONE = "This report has no pictures"


def pictures_of(chosen: Selection, past: Past) -> tuple[list[Picture], str]:
    """What the page shows of a merge, where its models are still those on the page, and what is missing of that."""
    if words := _apart(chosen, past):
        return [], words
    predictor = known_predictor(chosen)
    if not predictor:
        words = "when it was made, the weights of these models had not been read"
        return [], f"{NONE}: {words}. Wait for the heatmap on the page, and make the report again."
    norms = draw_norms(predictor.comparison, chosen.names, RELATIVE)
    pictures = [Picture("How far each expert is from the base", norms, "Norms of task vectors over those of the base.")]
    more, missing = _of_the_merge(chosen, past)
    return pictures + more, " ".join(missing)


def _apart(chosen: Selection, past: Past) -> str:
    """Why the models on the page are not those of the merge; empty where they are."""
    recipe = past.recipe
    if recipe.base is None:
        return f"{NONE}: this merge was made without a base model, and what they show is measured from one."
    if str(recipe.base) != chosen.base or tuple(map(str, recipe.experts)) != chosen.fitting:
        words = "when it was made, the page showed other models than those of this merge, or these in another order"
        return f"{NONE}: {words}. To have them, choose the models of this merge on the page, and make the report again."
    if not past.models:
        words = "the files of its models could not be looked at when it was done"
        return f"{NONE}: {words}, so that nobody knows whether those on the page are the same."
    names = ("the base", *chosen.names)
    # The selection tells of the tokenizer's files, too, after those that the weights are read from.
    moved = [name for name, now, then in zip(names, chosen.key, past.models, strict=True) if now[: len(then)] != then]
    if moved:
        words = f"the files of {', '.join(moved)} are not those that were merged, since they changed on disk"
        return f"{NONE}: {words}. What could be drawn of them now is not what this merge was made of."
    return ""


def _of_the_merge(chosen: Selection, past: Past) -> tuple[list[Picture], list[str]]:
    """The pictures of what the merge did, and a sentence for each that cannot be drawn."""
    try:
        found, makes = predicted(chosen, past.recipe), known_predictor(chosen, past.recipe.makes)
    except MergeError as error:
        return [], [f"What the merge did is not drawn: {error}"]
    if not found or not makes:
        return [], ["What the merge did is not drawn: the page knows of no merge of these models into an adapter."]
    pictures, missing = [], []
    if weights := weights_figure(found, chosen.names, makes.comparison):
        pictures.append(Picture("Merge coefficients", weights, "By tensor and expert."))
    else:
        missing.append("Coefficients are not drawn: this method mixes the experts of a matrix, and has none.")
    effects = {effect: effect_figure(found, chosen.names, effect) for effect in (DISTANCE, DECIDING)}
    pictures += [Picture(effect, figure, "Layer by layer.") for effect, figure in effects.items() if figure]
    if None in effects.values():
        missing.append("Nothing is drawn over the depth: the names of the tensors tell of no layers.")
    return pictures, missing
