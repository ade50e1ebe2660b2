"""What becomes of models that only the Hub has: they are downloaded for a merge, or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from merging import Recipe, space
from merging.hub.models import pinned
from tests.conftest import random_tensors, write_model
from tests.hub import Hub, asking, standing_in
from tests.merging.test_vocabulary import write_tokens
from tests.ui.screens import Screen
from ui.merge_panel import DOWNLOAD, STREAM, ways


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub has a base and an expert."""
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "known"))
    for number, name in enumerate(("base", "expert")):
        write_model(tmp_path / "root/owner" / name, random_tensors(number, torch.bfloat16))
    with standing_in(tmp_path / "root") as found, asking(found, tmp_path / "cache"):
        yield found


def chosen(screen: Screen, method: str) -> None:
    screen["base"], screen["experts"], screen["method"] = "owner/base", ["owner/expert"], method
    screen.fire("base", "change")
    screen.fire("method", "change")


def test_models_of_the_hub_are_streamed_where_the_method_allows_it(screen: Screen, hub: Hub, tmp_path: Path) -> None:
    assert not screen.sees("far")
    screen["output"] = str(tmp_path / "out")
    chosen(screen, "from")
    assert screen.sees("far")
    assert screen.can("far")
    assert screen["far"] == DOWNLOAD
    assert "Reads 336 bytes and writes 168 bytes" in screen["merge-estimate"]

    screen["far"] = STREAM
    screen.fire("far", "input")
    words = "Fetches 336 bytes from the Hub twice (672 bytes in all) and writes 168 bytes"
    assert words in screen["merge-estimate"]

    screen.fire("run")
    assert "672 bytes were fetched from the Hub, and are not kept." in screen["merge-status"]
    assert not [*(tmp_path / "cache").rglob("*.safetensors")]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert screen.sees("far")  # they are still there only


def test_a_method_that_reads_more_often_downloads(screen: Screen, hub: Hub, tmp_path: Path) -> None:
    screen["output"] = str(tmp_path / "out")
    chosen(screen, "from")
    screen["far"] = STREAM

    chosen(screen, "ties")

    assert (screen["far"], screen.can("far")) == (DOWNLOAD, False)
    assert "Reads 336 bytes" in screen["merge-estimate"]
    chosen(screen, "from")
    assert screen.can("far")


def test_what_is_typed_is_written_with_its_commit(screen: Screen, hub: Hub) -> None:
    hub.tags.add("v1.0")
    screen["base"], screen["experts"] = "owner/base@v1.0", ["owner/expert@main"]
    screen.fire("base", "change")

    told, _ = screen.fire("recipe-save")

    recipe = yaml.safe_load(told["text"])
    assert recipe["base_model"] == f"owner/base@{hub.commit('owner/base')}"
    assert [model["model"] for model in recipe["models"]] == [f"owner/expert@{hub.commit('owner/expert')}"]


def test_a_recipe_that_is_opened_may_take_a_tokenizer_of_the_hub(screen: Screen, hub: Hub, tmp_path: Path) -> None:
    for name in ("first", "expert", "other"):
        write_model(hub.folder / "owner" / name, random_tensors(0))
        write_tokens(hub.folder / "owner" / name, list("hgfedcba" if name == "other" else "abcdefgh"))
    text = "mergescope: 1\nmerge_method: linear\nbase_model: owner/first\nmodels: [{model: owner/expert}]\n"
    screen["output"] = str(tmp_path / "out")

    screen.fire("recipe-drop", "dropped", name="r.yaml", text=f"{text}tokenizer_source: owner/none\n")
    assert "There is no model <code>owner/none</code> on the Hub" in screen["recipe-opened"]
    screen.fire("recipe-drop", "dropped", name="r.yaml", text=f"{text}tokenizer_source: owner/other\n")
    assert "There is no model" not in screen["recipe-opened"]
    screen.fire("base", "change")
    assert "in the way" not in screen["merge-estimate"]
    assert screen.can("run")
    screen.fire("run")

    written = yaml.safe_load((tmp_path / "out" / "mergescope.yaml").read_text())
    assert written["tokenizer_source"] == f"owner/other@{hub.commit('owner/other')}"
    made, there = tmp_path / "out" / "tokenizer.json", hub.folder / "owner" / "other" / "tokenizer.json"
    assert made.read_bytes() == there.read_bytes()


def test_either_way_is_told_in_a_sentence(hub: Hub) -> None:
    recipe = pinned(Recipe("from", Path("owner/base"), (Path("owner/expert"),)))

    assert ways(recipe, 1000, STREAM) == (
        STREAM,
        True,
        "Downloading keeps 1 kB for the next merge. "
        "Streaming fetches 336 bytes from the Hub twice (672 bytes in all), and keeps nothing.",
        "",
    )
    refused = ways(Recipe("ties", recipe.base, recipe.experts), 1000, STREAM)
    assert refused[:2] == (DOWNLOAD, False)
    words = "They cannot be streamed. TIES-Merging reads the weights 3 times, so it would fetch 336 bytes from the Hub"
    assert refused.words.startswith(words)


def test_models_that_a_space_cannot_keep_are_refused_before_the_click_and_streamed(
    screen: Screen, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPACE_ID", "someone/mergescope")
    monkeypatch.setattr(space, "MODELS", 300)
    screen["output"] = "mine"

    chosen(screen, "from")
    assert (
        "this Space keeps 300 bytes of models from the Hub. Choose fewer or smaller ones, or Stream in step 3"
        in (screen["merge-estimate"])
    )
    assert (screen.can("run"), screen.can("far")) == (False, True)

    screen["far"] = STREAM
    screen.fire("far", "input")
    assert "Fetches 336 bytes" in screen["merge-estimate"]
    assert screen.can("run")

    chosen(screen, "ties")
    assert "Choose fewer or smaller ones. All of them" in screen["merge-estimate"]
    assert not screen.can("run")
