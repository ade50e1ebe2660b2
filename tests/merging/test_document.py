"""YAML that was made to harm, or by mistake: refused in words, and at once."""

import json
import time
from pathlib import Path

import pytest
import yaml

from merging import document
from merging.document import DEPTH_LIMIT, TEXT_LIMIT, found, parsed
from merging.errors import MergeError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}\n" for level in range(1, 12)
)


@pytest.fixture(params=["as installed", "without libyaml"])
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without libyaml":
        monkeypatch.setattr(document, "LOADER", yaml.SafeLoader)


@pytest.mark.usefixtures("_loader")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "The recipe stands for more than 200000 values. Write fewer, without aliases."),
        (MERGES, "The recipe stands for more than 200000 values. Write fewer, without aliases."),
        ("a: &a [*a]\n", "The recipe stands for more than 200000 values. Write fewer, without aliases."),
        ("[" * 30_000 + "\n", "nested more than 40 deep"),
        ("{a: " * 200 + "\n", "nested more than 40 deep"),
        ("- " * 200 + "a\n", "nested more than 40 deep"),
        ("a: 1\n---\nb: 2\n", "The recipe holds several documents, parted by `---`. Keep one of them."),
        ("a: 1\nb: 2\na: 3\n", "`a` stands twice in what begins in line 1 of the recipe. Keep one."),
        ("a: 1\nb:\n- c: 1\n  'c': 2\n", "`c` stands twice in what begins in line 3 of the recipe. Keep one."),
        ("a: !!python/object/apply:os.system ['true']\n", "is not valid YAML (could not determine a constructor"),
        ("a: !mine 1\n", "is not valid YAML (could not determine a constructor"),
        ("a: *b\n", "is not valid YAML (found undefined alias"),
        ("a: [\n", "is not valid YAML ("),
        ("a: b: c\n", "in line 1). Correct it there."),
        ("a: " + "9" * 5000 + "\n", "has a number or date in line 1 that is too long. Shorten it."),
        ("a: 2020-13-45\n", "is not valid YAML ("),
        ("a: !!bool 3\n", "is not valid YAML (a value is not what its tag says). Correct it there."),
        ("a: !!timestamp 3\n", "is not valid YAML (a value is not what its tag says). Correct it there."),
        ("a: !!int ''\n", "is not valid YAML (a value is not what its tag says). Correct it there."),
        ("\na: 0x" + "f" * 100 + "\n", "has a number or date in line 2 that is too long. Shorten it."),
        ("a: " + "1:" * 1_000_000 + "1\n", "has a number or date in line 1 that is too long. Shorten it."),
        ("a: \x07\n", "is not valid YAML ("),
        ("a: \ud800\n", "is not valid YAML ("),
        ("a: '" + "x" * TEXT_LIMIT + "'\n", "The recipe is longer than 4 million characters. Shorten it."),
    ],
)
def test_what_is_not_plain_yaml_is_refused_at_once(text: str, message: str) -> None:
    started = time.monotonic()

    with pytest.raises(MergeError) as caught:
        parsed(text)

    assert message in str(caught.value)
    assert time.monotonic() - started < 5


def test_values_are_counted_before_their_list_has_ended() -> None:
    started = time.process_time()

    with pytest.raises(MergeError, match="stands for more than 200000 values"):
        parsed("[" + "a," * 1_900_000)

    assert time.process_time() - started < 3


@pytest.mark.usefixtures("_loader")
def test_aliases_that_people_write_are_understood() -> None:
    text = "a: &w [0, 1]\nb: *w\nc: &m {x: 1}\nd: {<<: *m, x: 2}\ne: {<<: *m}\n"

    assert parsed(text) == {"a": [0, 1], "b": [0, 1], "c": {"x": 1}, "d": {"x": 2}, "e": {"x": 1}}


def test_nesting_up_to_the_limit_is_read() -> None:
    assert parsed("[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT) is not None


def test_a_long_file_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    with file.open("wb") as stream:
        stream.truncate(TEXT_LIMIT * 8)

    text, _ = found(file)

    assert len(text) == TEXT_LIMIT + 1


@pytest.mark.parametrize("name", ["a\0b.yaml", "x" * 5000 + ".yaml", "\ud800.yaml"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(MergeError, match="could not be read"):
        found(name)


def test_text_is_text_whatever_it_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("a: 1")

    assert found("mine.yaml") == ("a: 1", Path())
    assert found("mine.yaml\n") == ("mine.yaml\n", Path())
    assert found("mine.txt") == ("mine.txt", Path())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        (1 << 60).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"{]",
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_a_weights_file_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(MergeError, match=r"is cut short|is damaged|is not a JSON object"):
        found(tmp_path / "model.safetensors")


@pytest.mark.parametrize("metadata", [None, [], {}, {"recipe": 3}])
def test_a_header_without_a_recipe_is_refused(metadata: object, tmp_path: Path) -> None:
    text = json.dumps({"__metadata__": metadata}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)

    with pytest.raises(MergeError, match="holds no recipe"):
        found(tmp_path / "model.safetensors")
