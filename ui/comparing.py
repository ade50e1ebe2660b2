"""What is known of the chosen models before they are merged: made in the background, and kept for all visitors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from merging.adapter import open_base, open_expert
from merging.adapter_predictions import of_tensors, predict_adapter
from merging.compare import Comparison, compare
from merging.errors import MergeStopped
from merging.predictions import Prediction
from merging.predictor import Predictor
from merging.recipe import Recipe
from ui.jobs import Job, announce, running, stoppable
from ui.models_panel import Selection

KEEP = 8  # comparisons in memory, shared by all visitors: they follow from the files alone

_known: OrderedDict[Any, dict[str, Predictor]] = OrderedDict()  # by what a merge makes: `model` or `adapter`
_left: dict[str, tuple[Any, Comparison]] = {}  # by visitor: the models whose reading was stopped, and what was known
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


def left_comparison(selection: Selection, visitor: str) -> Comparison | None:
    """What was known of these models when the visitor stopped their reading; none where that was not so."""
    key, known = _left.get(visitor, ((), None))
    return known if key == selection.key else None


def forget_left(visitor: str) -> None:
    """Let go of what is left of the visitor's stopped reading."""
    _left.pop(visitor, None)


def make_comparison(selection: Selection, visitor: str) -> Iterator[tuple[str, Comparison | None]]:
    """Compare the chosen models, telling how far that is, and now and then what is known by then.

    known_comparison has the result afterwards; where it was stopped, left_comparison has what was told last.
    """
    announce(visitor, "compare")
    forget_left(visitor)
    with stoppable(visitor, "compare") as stop:
        if known_comparison(selection):
            return
        base = open_base(selection.base)
        experts = [open_expert(path, base) for path in selection.fitting]
        parts: list[Comparison] = []  # the newest last; the job tells only the newest of what it reports
        last = None
        job = Job(
            lambda tell: compare(
                base, experts, lambda done, total: tell(done / total), stop, on_part=parts.append, cached=True
            )
        )
        for share in job:
            part = parts.pop() if parts else None
            last = part or last
            yield f"Reading the weights: {share:.0%}", part
            parts.clear()
        try:
            found = job.result()
        except MergeStopped:
            if last:
                _left[visitor] = selection.key, last
            raise
        with _lock:
            _known[selection.key] = {"model": Predictor(found)}
            while len(_known) > KEEP:
                _known.popitem(last=False)


def unread(selection: Selection, visitor: str) -> bool:
    """Whether these models could be read, and are neither known nor being read: they were stopped, or put away."""
    return selection.ready and not running(visitor, "compare") and not known_comparison(selection)
