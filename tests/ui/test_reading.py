"""Models are read when they are chosen, and by nothing else; that can be stopped, can fail, and can be asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from merging.compare import Comparison, compare
from merging.errors import MergeStopped
from tests.conftest import Family
from tests.ui.screens import Screen, parts
from ui import comparing
from ui.comparing import known_comparison
from ui.jobs import stoppable
from ui.measures import RELATIVE
from ui.models_panel import Selection, read_models
from ui.see_panel import DRAWN
from ui.views import Look, draw_norms
from ui.wires.models import INCOMPLETE, STOPPED, filling

PICTURES = ("norms", "curves", "matrix", "energy", "weights", "effects", "difference")
MOVES = (
    ("measure", "input"),
    ("pair", "input"),
    ("kept", "input"),
    ("effect", "change"),
    ("from-scaling", "change"),
    ("seed", "change"),
)


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
    assert {name for name in names if any(part is not None for part in told(unread, name))} == set(plots)
    assert all(unread[name] is not None for name in plots)
    assert len(told(unread, "where")) == 1
    assert read(unread)


def test_a_view_that_is_opened_is_drawn_at_the_next_step_and_of_the_same_models_once(family: Family) -> None:
    known, later = parts(*family())[1:3]
    looks = iter([Look("depth"), Look("depth"), Look("depth"), Look("table"), Look("table"), Look("table")])
    steps = iter([("0", None), ("1", known), ("2", None), ("3", None), ("4", None), ("5", later)])

    found = [
        {name for name, value in zip([*DRAWN, "where"], drawn, strict=True) if value is not None and value != gr.skip()}
        for _, *drawn in filling(steps, ("a", "b"), lambda: next(looks))
    ]

    assert found == [set(), {"curves", "where"}, set(), {"table"}, set(), {"table"}]


def test_a_reading_that_others_follow_says_nothing_any_more(unread: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(unread["experts"])

    def overtaken(*given: Any, **named: Any) -> Comparison:
        monkeypatch.setattr(comparing, "compare", compare)
        unread["experts"] = first[:1]
        unread.fire("experts", "change")
        given[2](1, 2)  # tells once more how far it is
        return compare(*given, **named)

    monkeypatch.setattr(comparing, "compare", overtaken)

    unread.fire("base", "change")

    assert [step["see-note"] for step in unread.streamed if "see-note" in step][-1].startswith("<p")
    assert not unread.sees("see-stop")


def test_a_tensor_that_is_clicked_meanwhile_says_when_it_is_known(unread: Screen) -> None:
    with stoppable("someone", "compare"):
        unread.fire("norms", "cell_select", cell="model.norm.weight")
        turn(unread, "views", "Tensor")

    assert "Known when all is read." in unread["tensor-detail"]
    assert "Known when all is read." in unread["microscope"]


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
    unread.fire("see-read")

    assert read(unread)
    assert not unread.sees("see-read")


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
