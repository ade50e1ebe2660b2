"""Downloads: what the browser is told to save, and that it saves nothing where there is nothing."""

from __future__ import annotations

import gradio as gr
import pytest

from merging.errors import MergeError
from tests.ui.screens import Screen
from ui.downloads import NOTHING, SAVE, offer, room


def file_of(text: str) -> tuple[str, str] | None:
    if text == "wrong":
        raise MergeError("This cannot be written. Write something else.")
    return ("told.txt", text) if text else None


@pytest.fixture
def saving() -> Screen:
    with gr.Blocks() as demo:
        box, button = gr.Textbox(elem_id="box"), gr.Button(elem_id="save")
        offer(button, room("said"), file_of, box, "text/x")
    return Screen(demo)


def told(screen: Screen) -> object:
    (found,) = (value for number, value in screen.held.items() if isinstance(screen.demo.blocks[number], gr.JSON))
    return found


def test_a_file_is_its_name_its_text_and_its_kind(saving: Screen) -> None:
    saving["box"] = "</script> τ"

    saving.fire("save")

    assert told(saving) == {"name": "told.txt", "text": "</script> τ", "type": "text/x"}


def test_where_there_is_nothing_the_browser_is_told_nothing(saving: Screen) -> None:
    saving["box"] = ""

    saving.fire("save")

    assert told(saving) == {}
    assert NOTHING in saving["said"]
    assert SAVE.strip().startswith("(told) => {\n  if (!told || !told.text) return;")


def test_what_is_wrong_is_said_and_the_last_file_is_not_saved_again(saving: Screen) -> None:
    saving["box"] = "one"
    saving.fire("save")
    saving["box"] = "wrong"

    saving.fire("save")
    assert 'role="alert">This cannot be written. Write something else.<' in saving["said"]
    assert told(saving) == {}

    saving["box"] = "two"
    saving.fire("save")
    assert saving["said"] == ""


def test_no_download_is_an_open_endpoint(saving: Screen) -> None:
    assert saving.demo.get_api_info()["named_endpoints"] == {}
