"""What is known of the chosen models before they are merged: made in the background, and kept for all visitors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from merging.adapter import open_base, open_expert
from merging.adapter_predictions import of_tensors, predict_adapter
from merging.compare import Comparison, compare
from merging.predictions import Prediction
from merging.predictor import Predictor
from merging.recipe import Recipe
from ui.jobs import Job, announce, running, stoppable
from ui.models_panel import Selection

FAR = "The weights of these models are on the Hub. Download them in step 1 to see what the experts changed."
UNREAD = "These models are not read. Press “Read them” in step 2."
KEEP = 8  # comparisons in memory, shared by all visitors: they follow from the files alone

_known: OrderedDict[Any, dict[str, Predictor]] = OrderedDict()  # by what a merge makes: `model` or `adapter`
_lock = threading.Lock()


def known_predictor(selection: Selection, makes: str = "model") -> Predictor | None:
    """What predicts merges of these models into a model, or into an adapter; none before they have been compared.

    A merge into an adapter is of the tensors that adapters change alone. None too where there is no such merge.
    """
    if not selection.ready or (makes == "adapter" and selection.hurdle):
        return None
    with _lock:
        if selection.key not in _known:
            return None
        _known.move_to_end(selection.key)
        made = _known[selection.key]
        if makes not in made:
            made[makes] = Predictor(of_tensors(made["model"].comparison, {*selection.adapted}))
        return made[makes]


def predicted(selection: Selection, recipe: Recipe, quick: bool = False) -> Prediction | None:
    """What the recipe makes of these models, as far as that is known; MergeError says what is wrong with the recipe."""
    predictor = known_predictor(selection, recipe.makes)
    if not predictor:
        return None
    predict = predict_adapter if recipe.makes == "adapter" else Predictor.predict
    return predict(predictor, recipe.settings(), quick)


def known_comparison(selection: Selection) -> Comparison | None:
    """The comparison of these models if it has been made."""
    predictor = known_predictor(selection)
    return predictor.comparison if predictor else None


def make_comparison(selection: Selection, visitor: str) -> Iterator[tuple[str, Comparison | None]]:
    """Compare the chosen models, telling how far that is, and now and then what is known by then.

    known_comparison has the result afterwards.
    """
    announce(visitor, "compare")
    with stoppable(visitor, "compare") as stop:
        if known_comparison(selection):
            return
        base = open_base(selection.base)
        experts = [open_expert(path, base) for path in selection.fitting]
        parts: list[Comparison] = []  # the newest last; the job tells only the newest of what it reports
        job = Job(
            lambda tell: compare(
                base, experts, lambda done, total: tell(done / total), stop, on_part=parts.append, cached=True
            )
        )
        for share in job:
            yield f"Reading the weights: {share:.0%}", parts.pop() if parts else None
            parts.clear()
        with _lock:
            _known[selection.key] = {"model": Predictor(job.result())}
            while len(_known) > KEEP:
                _known.popitem(last=False)


def unseen(selection: Selection, visitor: str) -> str:
    """Why nothing is drawn of these models, where something must be done about it; empty where they are being read."""
    if selection.far:
        return FAR
    return UNREAD if unread(selection, visitor) else ""


def unread(selection: Selection, visitor: str) -> bool:
    """Whether these models could be read, and are neither known nor being read: they were stopped, or put away."""
    return selection.here and not running(visitor, "compare") and not known_comparison(selection)
