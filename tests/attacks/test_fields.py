"""What is written into the fields of the running app, by whoever means no good; and what no field could hold."""

from __future__ import annotations

import json
from itertools import cycle
from typing import Any

import pytest

from tests.attacks.conftest import ROOT, ZOO, App
from tests.attacks.visitor import Visitor
from tests.hub import TOKEN
from tests.merging.test_document import BOMB, MERGES

pytestmark = pytest.mark.e2e

SCRIPT = "<img src=x onerror=alert(1)>"
SECRETS = ("nobody may read this", "root:x:", TOKEN, "Traceback")

# For every input of every function, one after the other: what fields hold, files that nobody uploaded, and no values.
VALUES: list[list[Any]] = [
    ["../../secret.txt", SCRIPT + "\0\r\n{{7*7}}${7*7}"],
    [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}, "url": "http://169.254.169.254/"}],
    [[["a"], {"b": [None] * 50}], None, -1e308, True],
]


def different(visitor: Visitor) -> list[dict[str, Any]]:
    """All that the app does, once where it does the same for every method."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for one in visitor.listening:
        kinds = [visitor.kinds.get(number, "") for number in one["inputs"]]
        found.setdefault((one["api_name"].rstrip("0123456789").rstrip("_"), str(len(kinds) // 4), *kinds[:2]), one)
    return list(found.values())


@pytest.mark.parametrize("values", VALUES, ids=["texts", "files", "others"])
def test_every_function_takes_anything_for_each_input(values: list[Any], visitor: Visitor) -> None:
    functions = different(visitor)
    assert len(functions) > 70

    for one in functions:
        given, value = cycle(values), values[0]
        event = {"name": value, "text": value, "cell": value, "value": value, "panel": value, "column": value}
        told = visitor.call(one, [next(given) for _ in one["inputs"]], event)

        assert told.status in (200, 422), one["api_name"]
        assert told.data or told.error or not one["outputs"], one["api_name"]
        assert not any(word in told.text for word in SECRETS), one["api_name"]


PATHS = ["/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/environ", "../..", "..", "~root", "~nobody/x", "a\0b"]
PATHS += ["x" * 5000, "/" * 5000, "secret.txt", "../secret.txt", "file:///etc/passwd", "C:\\x", "\\\\host\\x", SCRIPT]


def test_a_path_that_is_no_model_is_told_of_and_not_shown(attacked: App, visitor: Visitor) -> None:
    for path in PATHS:
        table = visitor.chooses(path, path, ZOO / "bible")

        assert "notice" in table or "problem" in table, path
        assert SCRIPT not in table
        assert not any(word in table for word in SECRETS), path


NAMES = [
    "some/../../etc",
    "some/bible@../../x",
    "some/bible@x/../y",
    "some/bible\r\nX: y",
    "some/bible?x=1#y",
    "some/.",
]
NAMES += [
    "some/bible@main\nX: y",
    "some/bi%2e%2e%2fble",
    "@some/bible",
    "some/bible@",
    "-x/-y",
    "./some",
]
NAMES += [
    "some/bible@main?x",
    "http://some/bible",
    "some/bible/../x",
    "some/b\u0131ble",
    "so me/bible",
    "--x/y",
    "x/--y",
]


def test_a_name_that_is_none_of_the_hubs_is_not_asked_for(attacked: App, visitor: Visitor) -> None:
    asked = len(attacked.hub.asked)

    for name in NAMES:
        assert "problem" in visitor.chooses(ZOO / "base", name), name

    assert attacked.hub.asked[asked:] == []


def test_files_that_the_hub_names_lead_nowhere(
    attacked: App, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = attacked.hub.files("some/bible")
    (attacked.around / "hub/some/tokenizer.json").write_text("{}")
    monkeypatch.setattr(attacked.hub, "files", lambda name: [*real, "../../../secret.txt", "../tokenizer.json"])

    assert "to download" in visitor.chooses(ZOO / "base", "some/bible")
    visitor.does("hub-download", "click")

    (attacked.around / "hub/some/tokenizer.json").unlink()
    assert list((attacked.around / "home").rglob("snapshots/*/model.safetensors"))
    assert not list((attacked.around / "home").rglob("secret.txt"))
    assert not [one.path for one in attacked.hub.asked if "/resolve/" in one.path and ".." in one.path]


RECIPES: dict[str, tuple[str, str]] = {
    "bomb": (BOMB, "stands for more than"),
    "merge keys": (MERGES, "stands for more than"),
    "tag": ("a: !!python/object/apply:os.system ['touch done']\n", "is not valid YAML"),
    "broken tag": ("a: !!timestamp x\n", "is not valid YAML"),
    "twice": ("merge_method: ties\nmerge_method: from\n", "stands twice"),
    "deep": ("[" * 100_000, "nested more than"),
    "time": ("a: " + "1:" * 1_500_000 + "1\n", "that is too long"),
    "long": ("a: " + "b" * (5 << 20), "is longer than"),
    "documents": ("a: 1\n---\nb: 2\n", "several documents"),
    "no text": ("\x00\x01", "is not valid YAML"),
    "half a letter": ('a: "\\ud800"\n', "is not valid YAML"),
    "outside": (
        "mergescope: 1\nmerge_method: ties\nbase_model: ../../secret.txt\nmodels: [{model: ../..}]\n",
        "no model",
    ),
    "a name": (f"mergescope: 1\nmerge_method: '{SCRIPT}'\nmodels: [{{model: a}}]\n", "There is no method"),
    "a number": (
        f"mergescope: 1\nmerge_method: ties\nbase_model: {ZOO}/base\nmodels: [{{model: {ZOO}/bible}}]\n"
        f"parameters: {{density: 0x{'f' * 99}}}\n",
        "that is too long",
    ),
}


@pytest.mark.parametrize(("text", "words"), RECIPES.values(), ids=list(RECIPES))
def test_a_recipe_that_is_dropped_is_refused_in_words(text: str, words: str, attacked: App, visitor: Visitor) -> None:
    said = visitor.drops(text, SCRIPT)

    assert words in said
    assert SCRIPT not in said
    assert not (attacked.place / "done").exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "/dev/zero", "../secret.txt", "/proc/self/environ", "..", "/dev/fd/0"])
def test_a_path_that_is_no_recipe_tells_nothing_of_what_is_there(path: str, visitor: Visitor) -> None:
    visitor["recipe-path"] = path

    said = visitor.does("recipe-path", "submit").text

    assert "notice error" in said
    assert not any(word in said for word in SECRETS)


@pytest.mark.parametrize(
    "output", ["{place}/mine.txt", "{around}", "/etc", "a\0b", "~no.such.user/x", "x" * 300, " ", "/"]
)
def test_nothing_is_merged_over_what_is_there(output: str, attacked: App, visitor: Visitor) -> None:
    (attacked.place / "mine.txt").write_text("mine")
    visitor.chooses(ZOO / "base", ZOO / "bible")

    said = visitor.merges(output.format(place=attacked.place, around=attacked.around))

    assert "notice error" in said
    assert "Merged." not in said
    assert (attacked.place / "mine.txt").read_text() == "mine"


ASKED: list[tuple[str, Any, str]] = [
    ("sample-length", 10**12, "Length must be between 1 and 2048, but it is 1000000000000."),
    ("sample-length", -5, "Length must be between 1 and 2048, but it is -5."),
    ("sample-length", "5; ls", "invalid literal"),
    ("sample-which", "another's", "is not in the list of choices"),
    ("prompt", "a" * 200_000, "The prompt has 200,000 characters, and 100,000 can be asked."),
]


@pytest.mark.parametrize(("name", "value", "words"), ASKED)
def test_what_is_asked_has_its_bounds(name: str, value: Any, words: str, visitor: Visitor) -> None:
    visitor.chooses(ZOO / "base", ZOO / "bible")
    visitor[name] = value

    said = visitor.does("sample-run", "click", most=3).text

    assert words in said
    assert "<pre>" not in said


def test_the_token_of_this_machine_is_told_to_nobody_but_the_hub(attacked: App, visitor: Visitor) -> None:
    visitor.chooses(ZOO / "base", "some/bible", ZOO / "python")
    told = [visitor.merges("published")]
    history = next(one for one in visitor.listening if visitor.named["history"] in one["outputs"])
    told.append(visitor.call(history).text)
    report = visitor.call(next(one for one in visitor.listening if visitor.named["history-note"] in one["inputs"][-1:]))
    told.append(report.text)
    visitor["history-one"] = 1
    visitor["publish-name"] = "someone/published"
    told.append(visitor.does("publish-prepare", "click").text)
    assert "is free" in str(visitor["publish-said"])
    attacked.hub.refuses.add("commit")
    told.append(visitor.does("publish-run", "click").text)
    attacked.hub.refuses.clear()

    assert "Merged." in told[0]
    assert "The Hub answered 500" in told[-1]
    assert any(one.signed for one in attacked.hub.asked)
    files = [file for file in attacked.around.rglob("*") if file.is_file() and file.stat().st_size < 1 << 20]
    assert not [file for file in files if TOKEN.encode() in file.read_bytes()]
    assert TOKEN not in json.dumps(told)
    assert not (ROOT / "merges/published").exists()
