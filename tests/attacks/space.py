"""A Space under attack: its Hub and its name, what is told there of paths, and how its line is watched."""

from __future__ import annotations

import base64
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.attacks.conftest import ZOO, App, running
from tests.attacks.visitor import Visitor
from tests.hub import Hub

NAME = "someone-mergescope.hf.space"
OURS = {"Host": NAME, "Origin": f"https://{NAME}"}
MODELS = {f"some/{name}": "bible" for name in ("bible", "gated", "private", "large", "slow", "pickled")}


# What is no name of a model: files and folders around, and ways out of one's own merges.
PATHS = ["/etc/passwd", "/dev/zero", "/proc/self/environ", "..", "../..", ".", "~", "~/log.txt", "~root", "~nobody/x"]
PATHS += ["a\0b", "x" * 5000, "mine.txt", "./mine.txt", "../secret.txt", "../hub/some/bible", "file:///etc/passwd"]
PATHS += ["C:\\x", "{root}/tests", "{root}/zoo/..", "{root}/zoo/../app.py", "merges/..", "merges/../mine.txt"]
PATHS += ["merges/{home}/link", "merges/{home}/../..", "{place}/merges/{home}/link/hub/some/bible", "{place}/mine.txt"]
# What would be another's merge, if its folder had that name.
GUESSES = ["merges", "merges/theirs", "merges/*/theirs", "merges/{zeros}/theirs", "merges/{other}*/theirs"]
GUESSES += ["{place}/merges", "{place}/merges/theirs", "{place}/merges/{other}/theirs", "merges/{home}/../theirs"]
# The same for files.
FILES = ["merges/theirs/mergescope.yaml", "merges/*/theirs/mergescope.yaml", "merges/{zeros}/theirs/mergescope.yaml"]
FILES += ["merges/{other}/theirs/mergescope.yaml", "merges/{upper}/theirs/mergescope.yaml", "merges", "merges/"]
FILES += ["merges/{mine}", "merges/{mine}/..", "merges/{mine}/../../mine.txt", "merges/{mine}/link.txt", "mine.txt"]
FILES += ["merges/{mine}/out/secret.txt", "~/log.txt", "~/../secret.txt", "~/../place/merges/x", "~root/x", "x" * 5000]


@contextmanager
def in_a_space(around: Path) -> Iterator[App]:
    """The app as Hugging Face starts it, with a token of its owner that would open every model of the Hub."""
    (around / "place").mkdir()
    (around / "place/mine.txt").write_text("nobody may read this")
    told = {"SPACE_ID": "someone/mergescope", "SYSTEM": "spaces", "SPACE_HOST": NAME, "HOME": str(around / "home")}
    with (
        running(around, MODELS, {**told, "GRADIO_SERVER_NAME": "0.0.0.0"}) as app,
        pytest.MonkeyPatch.context() as patch,
    ):
        app.hub.gated.add("some/gated")
        app.hub.private.add("some/private")
        _enlarge(app.hub, patch)
        yield app


def _enlarge(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    """Models that take long to be downloaded where the Hub is slow, and that a Space does not take."""
    slow, large = (hub.folder / f"some/{name}/model.safetensors" for name in ("slow", "large"))
    save_file(load_file(slow) | {"beside.weight": torch.zeros(64 << 20, dtype=torch.uint8)}, slow)
    with large.open("r+b") as file:
        file.truncate(7_000_000_000)  # which takes none of the disk, and is not read for a hash of it
    (hub.folder / "some/pickled/model.safetensors").rename(hub.folder / "some/pickled/pytorch_model.bin")
    commit = hub.commit
    patch.setattr(hub, "commit", lambda name: "0" * 40 if name == "some/large" else commit(name))


def merged(visitor: Visitor, name: str) -> str:
    """The folder of a visitor's merges, by its name, after one was made."""
    visitor.chooses(ZOO / "base", ZOO / "bible")
    assert "Merged." in visitor.merges(name)
    return re.findall(r"/merges/([0-9a-f]{32})/", visitor["merge-status"])[0]


def linked(recipe: str) -> str:
    """The letters of a link with that recipe."""
    return base64.urlsafe_b64encode(zlib.compress(recipe.encode())).decode().rstrip("=")


def recipe(**changed: Any) -> str:
    """A recipe that could be merged, but for what is changed."""
    told = {"base_model": str(ZOO / "base"), "models": [{"model": str(ZOO / "bible")}]}
    return yaml.safe_dump({"mergescope": 1, "merge_method": "linear", **told, **changed})


def recipes(path: str) -> list[str]:
    """Recipes that name it as a base model, as an expert, and as where the tokenizer comes from."""
    return [recipe(base_model=path), recipe(models=[{"model": path}]), recipe(tokenizer_source=path)]


def until(there: Callable[[], bool]) -> None:
    """Wait for something that comes with others' work."""
    for _ in range(6000):
        if there():
            return
        time.sleep(0.05)
    pytest.fail("It does not come.")


def at_once(place: Path, over: Event) -> int:
    """How many merges were being written at a time, at most, until it is over."""
    most = 0
    while not over.wait(0.02):
        begun = list(place.glob("merges/*/.of-*.part"))
        most = max(most, sum(folder.is_dir() for folder in begun))  # the first, too, when the last was seen
    return most
