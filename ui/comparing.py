"""What is known of the chosen models before they are merged: made in the background, and kept for all visitors."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from merging.adapter import open_base, open_expert
from merging.adapter_predictions import of_tensors, predict_adapter
from merging.compare import Comparison, compare
from merging.errors import MergeStopped
from merging.hub.room import using
from merging.predictions import Prediction
from merging.predictor import Predictor
from merging.recent import Recent
from merging.recipe import Recipe
from ui.jobs import AllOf, Joint, announce, running, stoppable
from ui.models_panel import Selection

FAR = "The weights of these models are on the Hub. Download them in step 1 to see what the experts changed."
UNREAD = "These models are not read. Press “Read them” in step 2."
KEEP = 8  # comparisons in memory, shared by all visitors: they follow from the files alone

_known = Recent[dict[str, Predictor]](KEEP)  # by what a merge makes: `model` or `adapter`
_readings = dict[Any, Joint]()  # of models that are being read
_left: dict[str, tuple[Any, Comparison]] = {}  # by visitor: the models whose reading was stopped, and what was known
_lock = threading.Lock()


def known_predictor(selection: Selection, makes: str = "model") -> Predictor | None:
    """What predicts merges of these models into a model, or into an adapter; none before they have been compared.

    A merge into an adapter is of the tensors that adapters change alone. None too where there is no such merge.
    """
    if not selection.ready or (makes == "adapter" and selection.hurdle):
        return None
    with _lock:
        made = _known.get(selection.key)
        if made is None:
            return None
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
        reading, last = _joined(selection, stop), None
        try:
            for share, part in reading.steps(stop):
                yield f"Reading the weights: {share:.0%}", None if part is last else part
                last = part
            reading.job.result()
        except MergeStopped:
            if known_comparison(selection):
                return
            if last:
                _left[visitor] = selection.key, last
            raise


def _joined(selection: Selection, stop: threading.Event) -> Joint:
    """The reading of these models, which somebody else may have begun; it goes on until all have stopped it."""
    with _lock:
        found = _readings.get(selection.key)
        if not found or found.stop.is_set():
            found = _readings[selection.key] = Joint(lambda tell, stop: _read(selection, tell, stop))
        found.stop.events.append(stop)
        return found


def _read(selection: Selection, tell: Callable[[tuple[float, Comparison | None]], None], stop: AllOf) -> None:
    """Compare the models for all who wait for them."""
    newest: deque[Comparison | None] = deque([None], maxlen=1)

    def on_step(done: int, total: int) -> None:
        tell((done / total, newest[-1]))

    try:
        with using(selection.base, *selection.fitting):
            base = open_base(selection.base)
            experts = [open_expert(path, base) for path in selection.fitting]
            found = compare(base, experts, on_step, stop, on_part=newest.append, cached=True)
        if not stop.is_set():  # what was stopped does not turn up a moment later
            _known.put(selection.key, {"model": Predictor(found)})
    finally:
        with _lock:
            if selection.key in _readings and _readings[selection.key].stop is stop:
                del _readings[selection.key]


def unseen(selection: Selection, visitor: str) -> str:
    """Why nothing is drawn of these models, where something must be done about it; empty where they are being read."""
    if selection.far:
        return FAR
    return UNREAD if unread(selection, visitor) else ""


def unread(selection: Selection, visitor: str) -> bool:
    """Whether these models could be read, and are neither known nor being read: they were stopped, or put away."""
    return selection.here and not running(visitor, "compare") and not known_comparison(selection)
