"""Models are read when they are chosen, and by nothing else; that can be stopped, can fail, and can be asked for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from merging.compare import Comparison, compare
from merging.crew import Crew
from merging.errors import MergeError, MergeStopped
from tests.conftest import Family
from tests.ui.screens import Screen, parts
from ui import comparing
from ui.comparing import known_comparison, make_comparison
from ui.jobs import stop, stoppable
from ui.measures import RELATIVE
from ui.models_panel import Selection, choose, read_models
from ui.plot_view import READING
from ui.see_panel import DRAWN
from ui.views import Look, draw_norms
from ui.wires.models import INCOMPLETE, STOPPED, filling

PICTURES = ("norms", "curves", "matrix", "energy", "weights", "effects", "difference")
MOVES = (
    ("measure", "input"),
    ("measure-depth", "input"),
    ("pair", "input"),
    ("kept", "input"),
    ("effect", "change"),
    ("from-lambda", "change"),
    ("seed", "change"),
)

CLICKED = {"cell": "model.norm.weight", "panel": "expert-1", "column": 0}


@pytest.fixture
def unread(family: Family, screen: Screen) -> Screen:
    """A visitor who has chosen models that nobody has read."""
    base, experts = family()
    screen["base"], screen["experts"] = str(base), [str(path) for path in experts]
    screen.put(read_models(screen["base"], screen["experts"])[1])
    return screen


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[[], Any]], None]:
    """Something happens just before the weights are read, of which nothing is kept on disk."""
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "cache"))

    def first(happens: Callable[[], Any]) -> None:
        def late(*given: Any, **named: Any) -> Any:
            happens()
            return compare(*given, **named)

        monkeypatch.setattr(comparing, "compare", late)

    return first


def read(screen: Screen) -> bool:
    return known_comparison(screen.state(Selection)) is not None


def turn(screen: Screen, tabs: str, title: str) -> None:
    screen.fire(tabs, "select", value=title)


def everything(screen: Screen) -> None:
    """Move whatever looks at models that are read."""
    for tabs, titles in (("views", ("Depth", "Experts", "Table", "Layers")), ("forecast", ("Effects", "Compare"))):
        for title in titles:
            turn(screen, tabs, title)
    for name, event in MOVES:
        if name in screen.named:
            screen.fire(name, event)
    for plot in ("norms", "weights", "difference"):
        screen.fire(plot, "cell_select", cell="model.norm.weight")
    turn(screen, "views", "Tensor")


def test_models_that_are_chosen_are_read(unread: Screen) -> None:
    unread.fire("base", "change")

    assert read(unread)
    assert unread["norms"] is not None
    assert "Entries that did not move at all" in unread["see-note"]
    assert not unread.sees("see-stop")
    assert not unread.sees("see-read")


def test_nothing_else_reads_them_and_what_is_drawn_stays(unread: Screen) -> None:
    unread["norms"] = "a heatmap that is there"

    everything(unread)

    assert not read(unread)
    assert unread["norms"] == "a heatmap that is there"
    assert "Press “Read them” in step 2" in unread["forecast-note"]
    assert unread.sees("see-read")

    unread.fire("see-read")

    assert read(unread)
    assert "steps " in unread["forecast-note"]


def test_while_their_headers_are_read_nobody_is_told_to_read_them(
    unread: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def slow(*given: Any) -> Any:
        unread["from-lambda"] = 0.5
        unread.fire("from-lambda", "change")
        seen.append(unread["forecast-note"])
        return choose(*given)

    monkeypatch.setattr("ui.wires.models.choose", slow)
    unread.fire("experts", "change")

    assert seen
    assert not any("not read" in (words or "") for words in seen)


def test_while_they_are_read_turning_tabs_leaves_the_heatmap_that_is_filling(unread: Screen) -> None:
    unread["norms"] = "half of a heatmap"

    with stoppable("someone", "compare"):
        everything(unread)

    assert unread["norms"] == "half of a heatmap"
    assert not unread.sees("see-read")
    assert "Read them" not in (unread["forecast-note"] or "")


def told(screen: Screen, name: str) -> list[Any]:
    """What a component was told while models were read, without what left it as it was."""
    return [step[name] for step in screen.streamed if name in step and step[name] != gr.skip()]


@pytest.mark.parametrize(
    ("title", "plots"),
    [("Layers", ["norms"]), ("Depth", ["curves"]), ("Experts", ["matrix", "energy"]), ("Table", ["statistics"])],
)
def test_the_open_view_alone_is_filled_while_models_are_read(
    unread: Screen, monkeypatch: pytest.MonkeyPatch, title: str, plots: list[str]
) -> None:
    part = parts(Path(unread["base"]), [Path(path) for path in unread["experts"]])[2]

    def halfway(*given: Any, on_part: Callable[[Comparison], None], **named: Any) -> Comparison:
        turn(unread, "views", title)  # the reading began with another view open
        on_part(part)
        given[2](1, 2)
        return compare(*given, **named)

    monkeypatch.setattr(comparing, "compare", halfway)

    unread.fire("base", "change")

    names = ("norms", "curves", "matrix", "energy", "statistics")
    assert {name for name in names if any(part not in (None, READING) for part in told(unread, name))} == set(plots)
    assert all(unread[name] is not None for name in plots)
    assert len(told(unread, "where")) == 1
    assert read(unread)


def test_a_view_that_is_opened_is_drawn_at_the_next_step_and_of_the_same_models_once(family: Family) -> None:
    known, later = parts(*family())[1:3]
    looks = iter([Look("depth"), Look("depth"), Look("depth"), Look("table"), Look("table"), Look("table")])
    steps = iter([("0", None), ("1", known), ("2", None), ("3", None), ("4", None), ("5", later)])

    found = [
        {
            name
            for name, value in zip([*DRAWN, "where"], drawn, strict=True)
            if value not in (None, READING) and value != gr.skip()
        }
        for _, *drawn in filling(steps, ("a", "b"), lambda: next(looks))
    ]

    assert found == [set(), {"curves", "where"}, set(), {"table"}, set(), {"table"}]


def test_while_nothing_is_known_the_open_view_says_that_models_are_read(unread: Screen) -> None:
    looks = iter([Look("layers"), Look("layers"), Look("depth"), Look("table")])
    steps: Any = iter([("0", None)] * 4)

    found = [drawn[: len(DRAWN)] for _, *drawn in filling(steps, ("a", "b"), lambda: next(looks))]

    views = [*DRAWN.values()]
    assert found[0] == [READING if view == "layers" else None for view in views]
    assert found[1] == [gr.skip()] * len(views)
    assert found[2] == [READING if view == "depth" else None for view in views]
    assert found[3] == [None] * len(views)
    for name in ("norms", "weights"):  # when the page comes, it reads the models that are chosen by then
        assert json.loads(unread.named[name].value) == {"words": "The models are being read."}


def test_a_reading_that_others_follow_says_nothing_any_more(unread: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    first, others = list(unread["experts"]), threading.Event()

    def overtaken(*given: Any, **named: Any) -> Comparison:
        monkeypatch.setattr(comparing, "compare", compare)
        unread["experts"] = first[:1]
        unread.fire("experts", "change")
        others.set()
        given[2](1, 2)  # tells once more how far it is
        return compare(*given, **named)

    monkeypatch.setattr(comparing, "compare", overtaken)

    unread.fire("base", "change")

    assert others.wait(30)
    assert [step["see-note"] for step in unread.streamed if "see-note" in step][-1].startswith("<p")
    assert not unread.sees("see-stop")


def test_a_tensor_that_is_clicked_meanwhile_says_when_it_is_known(unread: Screen) -> None:
    with stoppable("someone", "compare"):
        unread.fire("norms", "cell_select", cell="model.norm.weight")
        turn(unread, "views", "Tensor")

    assert "Known when all is read." in unread["tensor-detail"]
    assert "Known when all is read." in unread["microscope"]


def test_a_tensor_that_is_clicked_meanwhile_is_shown_when_all_is_read(unread: Screen, before: Any) -> None:
    before(lambda: (unread.fire("norms", "cell_select", **CLICKED), turn(unread, "views", "Tensor")))

    unread.fire("base", "change")

    assert "kurtosis" in unread["tensor-detail"]
    assert unread["tensor-histogram"] is not None
    assert "<h3>model.norm.weight</h3>" in unread["microscope"]
    assert told(unread, "steps")[-1] is not None


def test_of_other_models_no_tensor_was_clicked(unread: Screen) -> None:
    unread.fire("base", "change")
    unread.fire("norms", "cell_select", **CLICKED)
    assert unread["tensor-detail"]
    unread["experts"] = unread["experts"][:1]

    unread.fire("experts", "change")

    assert (unread["tensor-detail"], unread["tensor-histogram"]) == ("", None)


def test_a_reading_that_is_stopped_says_how_to_go_on(unread: Screen, before: Any) -> None:
    before(lambda: unread.fire("see-stop"))

    unread.fire("experts", "change")

    assert not read(unread)
    assert STOPPED in unread["see-note"]
    assert unread.sees("see-read")
    assert not unread.sees("see-stop")
    everything(unread)
    assert not read(unread)

    before(lambda: None)
    unread.fire("experts", "change")  # of the same models: the field tells of it once more
    assert not read(unread)
    assert STOPPED in unread["see-note"]
    assert unread.sees("see-read")
    unread.fire("see-read")

    assert read(unread)
    assert not unread.sees("see-read")


def test_models_that_are_chosen_after_a_stop_are_read(unread: Screen, before: Any) -> None:
    before(lambda: unread.fire("see-stop"))
    unread.fire("experts", "change")
    before(lambda: None)
    unread["experts"] = unread["experts"][:1]

    unread.fire("experts", "change")

    assert read(unread)


def test_a_reading_that_is_stopped_halfway_leaves_what_was_read_in_every_view(
    unread: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = parts(Path(unread["base"]), [Path(path) for path in unread["experts"]])[2]

    def halfway(*given: Any, on_part: Callable[[Comparison], None], **_: Any) -> Comparison:
        on_part(part)
        given[2](1, 2)
        raise MergeStopped

    monkeypatch.setattr(comparing, "compare", halfway)

    unread.fire("base", "change")

    assert unread["norms"] == draw_norms(part, unread.state(Selection).names, RELATIVE)
    assert INCOMPLETE in unread["see-note"]
    assert unread.sees("see-read")
    assert unread["curves"] is None
    turn(unread, "views", "Depth")
    assert unread["curves"] is not None
    assert "Read them" in unread["forecast-note"]

    monkeypatch.setattr(comparing, "compare", compare)
    unread.fire("see-read")

    assert read(unread)
    assert INCOMPLETE not in unread["see-note"]


def test_after_a_failed_reading_no_picture_of_the_last_models_stays(
    unread: Screen, before: Any, tmp_path: Path
) -> None:
    for name in PICTURES:
        unread[name] = "of the last models"
    weights = Path(unread["experts"][0]) / "model.safetensors"
    before(weights.unlink)

    unread.fire("base", "change")

    assert not read(unread)
    assert 'role="alert"' in unread["see-note"]
    assert weights.parent.name in unread["see-note"]
    assert [name for name in PICTURES if unread[name] is not None] == []
    assert unread.sees("see-read")


def test_a_reading_that_the_system_ends_names_the_file(unread: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error", "/data/model.safetensors")

    monkeypatch.setattr(comparing, "compare", lost)

    unread.fire("base", "change")

    assert "<code>/data/model.safetensors</code> could not be read or written" in unread["see-note"]


def test_settings_that_are_wrong_are_not_held_and_say_why(family: Family, screen: Screen) -> None:
    screen.choose(*family())
    screen["method"], screen["ties-density"] = "ties", 7

    screen.fire("hold")

    assert "must be between" in screen["holding"]


# Two visitors who choose the same models.


class Weights:
    """Reading that waits, once for each who reads, until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, part: Comparison) -> None:
        self.begun = 0
        self.go, self.part, self.stop = threading.Event(), part, threading.Event()
        monkeypatch.setattr(comparing, "compare", self.compare)

    def compare(self, base: Any, experts: Any, on_step: Any, stop: Any, *, on_part: Any, **named: Any) -> Comparison:
        self.begun, self.stop = self.begun + 1, stop
        on_part(self.part)
        on_step(1, 4)
        while not self.go.wait(0.01):
            Crew(stop=stop).listen()
        return compare(base, experts, on_step, stop, on_part=on_part)


@pytest.fixture
def chosen(family: Family) -> Selection:
    base, experts = family()
    return read_models(str(base), [str(path) for path in experts])[1]


@pytest.fixture
def weights(chosen: Selection, monkeypatch: pytest.MonkeyPatch) -> Weights:
    return Weights(monkeypatch, parts(Path(chosen.base), [Path(path) for path in chosen.fitting])[1])


def test_who_chooses_what_another_reads_sees_how_far_it_is_and_waits_for_it(
    chosen: Selection, weights: Weights
) -> None:
    one, other = (make_comparison(chosen, visitor) for visitor in ("one", "other"))

    first, second = next(one), next(other)
    weights.go.set()
    for reading in (one, other):
        list(reading)

    assert first == second == ("Reading the weights: 25%", weights.part)
    assert weights.begun == 1
    assert known_comparison(chosen)


def test_one_who_stops_leaves_the_other_what_it_reads(chosen: Selection, weights: Weights) -> None:
    one, other = (make_comparison(chosen, visitor) for visitor in ("one", "other"))
    next(one), next(other)

    stop("one", "compare")
    with pytest.raises(MergeStopped):
        list(one)
    assert not weights.stop.is_set()
    weights.go.set()
    list(other)

    assert weights.begun == 1
    assert known_comparison(chosen)


def test_what_all_have_stopped_is_read_no_further_and_can_be_read_anew(chosen: Selection, weights: Weights) -> None:
    one, other = (make_comparison(chosen, visitor) for visitor in ("one", "other"))
    next(one), next(other)

    other.close()  # the visitor has left
    stop("one", "compare")
    with pytest.raises(MergeStopped):
        list(one)
    assert weights.stop.is_set()
    assert not known_comparison(chosen)

    weights.go.set()
    list(make_comparison(chosen, "one"))

    assert weights.begun == 2
    assert known_comparison(chosen)


def test_what_was_stopped_just_before_its_end_is_not_known_later(
    chosen: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def late(base: Any, experts: Any, on_step: Any, stop: Any, **named: Any) -> Comparison:
        on_step(1, 4)
        begun.set()
        while not stop.is_set():
            time.sleep(0.01)
        found = compare(base, experts, on_step, **named)
        ended.set()
        return found

    monkeypatch.setattr(comparing, "compare", late)
    reading = make_comparison(chosen, "one")
    next(reading)
    stop("one", "compare")
    with pytest.raises(MergeStopped):
        list(reading)
    assert ended.wait(10)
    for thread in threading.enumerate():
        if "_run" in thread.name:  # the reading's own
            thread.join(10)

    assert not known_comparison(chosen)


def test_what_is_wrong_with_the_models_is_told_to_all(chosen: Selection, weights: Weights) -> None:
    one, other = (make_comparison(chosen, visitor) for visitor in ("one", "other"))
    next(one), next(other)

    (Path(chosen.base) / "model.safetensors").unlink()
    weights.go.set()

    for reading in (one, other):
        with pytest.raises((MergeError, OSError)):
            list(reading)
