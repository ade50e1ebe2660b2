"""The folder of a Space holds what Hugging Face needs to run it, and the page about it says what the rules are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from docs import space as building
from merging import space
from merging.sizes import in_words

ROOT = Path(__file__).parents[1]
HF = Path(sys.executable).with_name("hf")
PAGE = (ROOT / "docs" / "space.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return building.build(tmp_path_factory.mktemp("space") / "folder")


def test_the_readme_tells_hugging_face_how_to_run_it(folder: Path) -> None:
    _, top, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    told = yaml.safe_load(top)

    assert (folder / told["app_file"]).is_file()
    assert told["sdk"] == "gradio"
    assert Requirement(asked("gradio")).specifier.contains(told["sdk_version"])
    assert told["python_version"] in ("3.11", "3.12")  # quoted: 3.10 as a number would be 3.1
    assert told["hf_oauth"] is True
    assert set(told["hf_oauth_scopes"]) == {"write-repos", "manage-repos"}
    assert len(told["short_description"]) <= 60
    assert told["license"] == "apache-2.0"
    assert "model-merging" in told["tags"]
    assert "pip install -r requirements.txt" in text


def asked(name: str) -> str:
    """What the project requires of a package."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(name))


def test_it_requires_what_every_user_does_and_what_signing_in_takes(folder: Path) -> None:
    wanted = [Requirement(line) for line in (folder / "requirements.txt").read_text().splitlines()]
    usual = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]

    assert {one.name: one.specifier for one in wanted if one.name != "spaces"} == {
        one.name: one.specifier for one in map(Requirement, usual)
    }
    assert next(one.extras for one in wanted if one.name == "gradio") == {"oauth"}


def test_no_file_is_too_large_and_none_is_missing(folder: Path) -> None:
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    known = subprocess.run(["git", "ls-files", *building.TREES], cwd=ROOT, capture_output=True, text=True, check=True)

    assert max(file.stat().st_size for file in files.values()) <= 10_000_000
    assert {name for name in known.stdout.split() if not name.startswith("zoo/build/")} <= files.keys()
    assert not [name for name in files if re.search(r"\.pyc|\.pyi|__pycache__|tests/|\.git/", name)]
    assert "*.safetensors filter=lfs" in (folder / ".gitattributes").read_text()


def test_a_file_that_is_too_large_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "LARGEST", 1_000_000)

    with pytest.raises(SystemExit, match=r"model\.safetensors is larger than the Hub takes"):
        building.build(tmp_path / "folder")


def test_a_space_offers_no_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/mergescope")

    command = [sys.executable, ROOT / "app.py", "--models", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "a Space offers no folder of models" in done.stderr


def test_the_page_tells_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMORY", raising=False)
    rows = [[cell.strip() for cell in line.strip("|").split("|")][:2] for line in PAGE.splitlines() if "|" in line]

    assert rows[2:] == [
        ["a model of the Hub", f"{in_words(space.largest())} of weights"],
        ["experts of a merge", str(space.EXPERTS)],
        ["tokens of a prompt that a model sees", f"{space.TOKENS:,}"],
        ["work of a visitor", "one piece of each kind at a time"],
        ["work of all visitors", "2 prompts, 2 downloads, 1 merge in memory, 1 publication at a time"],
        ["merges at a time", "1"],
        ["models of the Hub on the disk", f"{in_words(space.MODELS)}, of all visitors together"],
        ["merges on the disk", f"{in_words(space.MINE)} of a visitor, {in_words(space.MERGES)} of all"],
        [
            "how long a merge is kept",
            f"{space.KEPT // 3600} hours after it was last used, where nobody else needs its room; "
            f"{space.SPARED // 60} minutes in any case",
        ],
        ["headers of models that were looked at", in_words(space.PREVIEWS)],
    ]
    assert f"at most {space.LINE} wait" in PAGE


def test_the_commands_that_publish_it_are_there() -> None:
    commands = [line.split("#")[0].split() for line in PAGE.splitlines() if line.startswith("hf ")]

    for _, *words in commands:
        options = [word for word in words if word.startswith("--")]
        names = words[: 1 + (words[0] in ("auth", "repos"))]
        told = subprocess.run([HF, *names, "--help"], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        assert all(option in told.stdout for option in options)
    assert [words[1] for words in commands] == ["auth", "repos", "upload"]
