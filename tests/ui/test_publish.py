"""Publishing from the page: what is said while it waits, which card goes under which name, and which button when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from merging import merge
from merging.recipe import Recipe
from tests.conftest import random_tensors, write_model
from tests.hub import TOKEN, Hub, asking, standing_in
from tests.ui.screens import Screen
from ui.errors import UNFORESEEN
from ui.jobs import announce, stop
from ui.publish_panel import Prepared, prepare, run_publish
from ui.visit import Visit

# The client hands a file to another library as that likes it no more.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

WAITING = "Waiting for its turn."
NAME = "someone/merged"
PREPARED = Prepared(Path("merged"), NAME, None)


def buttons(screen: Screen) -> dict[str, bool]:
    return {name: screen.can(f"publish-{name}") for name in ("prepare", "run", "stop")}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with standing_in(tmp_path / "root") as found, asking(found, tmp_path / "cache", TOKEN):
        yield found


def test_while_a_card_is_written_nothing_else_can_be_begun(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def written(*_: Any) -> Iterator[tuple[Any, ...]]:
        seen.append((screen["publish-said"], buttons(screen)))
        yield "It is free.", NAME, "# merged", PREPARED

    monkeypatch.setattr("ui.wires.publish.prepare", written)

    screen.fire("publish-prepare")

    [(said, before)] = seen
    assert WAITING in said
    assert before == {"prepare": False, "run": False, "stop": True}
    assert buttons(screen) == {"prepare": True, "run": True, "stop": False}


@pytest.mark.parametrize("fails", [False, True])
def test_while_a_merge_is_published_no_card_can_be_written(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    seen: list[Any] = []

    def published(*_: Any) -> Iterator[tuple[str, Prepared | None]]:
        seen.append((screen["publish-said"], buttons(screen)))
        if fails:
            raise gr.Error("It broke")
        yield "Stopped.", None

    monkeypatch.setattr("ui.wires.publish.prepare", lambda *_: iter([("", NAME, "# merged", PREPARED)]))
    monkeypatch.setattr("ui.wires.publish.run_publish", published)
    screen.fire("publish-prepare")

    if fails:
        with pytest.raises(gr.Error):
            screen.fire("publish-run")
    else:
        screen.fire("publish-run")

    [(said, before)] = seen
    assert WAITING in said
    assert before == {"prepare": False, "run": False, "stop": True}
    assert buttons(screen) == {"prepare": True, "run": True, "stop": False}
    assert (UNFORESEEN if fails else "Stopped.") in screen["publish-said"]


def test_where_no_card_could_be_written_nothing_can_be_published(screen: Screen) -> None:
    screen.fire("publish-prepare")

    assert "Choose a merge above." in screen["publish-said"]
    assert buttons(screen) == {"prepare": True, "run": False, "stop": False}


def test_a_card_goes_under_the_name_that_it_was_written_for_or_not_at_all(hub: Hub, tmp_path: Path) -> None:
    base, expert = (write_model(tmp_path / name, random_tensors(n)) for n, name in enumerate(("base", "expert")))
    merge(Recipe("task_arithmetic", base, (expert,)), tmp_path / "out")
    *_, (_, name, card, prepared) = prepare(tmp_path / "out", f" {NAME} ", "someone", TOKEN)
    assert prepared
    assert card
    hub.asked.clear()

    [(said, _)] = run_publish(prepared, "someone/other", card, True, "someone", TOKEN)

    assert "The card was written for <code>someone/merged</code>. Write it anew for another name" in said
    assert not hub.asked
    announce("someone", "publish")
    stop("someone", "publish")
    *_, (said, done) = run_publish(prepared, name, card, True, "someone", TOKEN)
    assert not done
    assert "Stopped. Nothing is published." in said
    assert hub.asked
    assert not (hub.folder / NAME).exists()


@pytest.mark.parametrize(("private", "words"), [(True, "private"), (False, "open for everyone")])
def test_a_merge_that_is_published_says_for_whom_and_its_name_is_not_offered_again(
    screen: Screen, hub: Hub, tmp_path: Path, private: bool, words: str
) -> None:
    base, expert = (write_model(tmp_path / name, random_tensors(n)) for n, name in enumerate(("base", "expert")))
    recipe = Recipe("linear", base, (expert,))
    screen.put(Visit().merged(recipe, merge(recipe, tmp_path / "out")))
    screen["history-one"], screen["publish-name"], screen["publish-private"] = 1, NAME, private
    screen.fire("publish-prepare")

    screen.fire("publish-run")

    assert f"It is on the Hub, {words}: <a" in screen["publish-said"]
    assert (screen["publish-name"], screen.can("publish-run")) == (NAME, False)
    screen.fire("history-one", "change")
    assert screen["publish-name"] == ""
    screen["publish-name"] = "someone/mine"
    screen.fire("history-one", "change")
    assert screen["publish-name"] == "someone/mine"


def test_a_download_that_waits_says_so(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.wires.hub.download", lambda *_: iter(()))

    screen.fire("hub-download")

    assert WAITING in screen["hub-status"]
