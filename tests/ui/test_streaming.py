"""What becomes of models that only the Hub has: they are downloaded for a merge, or streamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from merging import Recipe, space
from merging.hub.fetch import fetch
from merging.hub.models import fetched, pinned
from merging.hub.names import HubName
from merging.hub.room import size_of, using
from tests.conftest import random_tensors, write_model
from tests.hub import Hub, asking, standing_in
from tests.merging.test_vocabulary import write_tokens
from tests.ui.screens import Screen
from ui.folders import placed
from ui.merge_panel import DOWNLOAD, STREAM, run_merge, ways
from ui.models_panel import Selection, choose
from ui.wires.hub import OTHERS


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


def test_the_address_of_a_model_may_be_pasted_and_that_of_a_data_set_is_refused(hub: Hub) -> None:
    *_, (table, selection) = choose(
        " https://huggingface.co/owner/base ", ["hf.co/owner/expert/tree/main", "https://hf.co/datasets/owner/text"]
    )

    assert (selection.base, selection.fitting) == ("owner/base", ("owner/expert",))
    assert "<code>https://hf.co/datasets/owner/text</code> is a data set, which cannot be merged." in table


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


def test_models_that_made_room_are_offered_again_where_a_prompt_misses_them(screen: Screen, hub: Hub) -> None:
    recipe = fetched(Recipe("from", Path("owner/base"), (Path("owner/expert"),)))
    chosen(screen, "from")
    assert not screen.sees("hub-download")
    shutil.rmtree(recipe.experts[0].parents[1])  # as others' models do in a Space

    screen.fire("sample-run")

    words = "Only the headers of <code>owner/expert</code> are here, and its weights are on the Hub. Download it first."
    assert words in screen["answers"]
    assert "Only the headers of <code>owner/base</code>" not in screen["answers"]
    assert screen.sees("hub-download")


def test_what_a_visitor_may_not_write_is_refused_before_anything_is_downloaded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPACE_ID", "someone/mergescope")
    monkeypatch.setattr(space, "MINE", 100)
    recipe = Recipe("from", Path("owner/base"), (Path("owner/expert"),))
    pinned(recipe)

    *_, (told, _) = run_merge(recipe, placed("mine", "me"), "me")

    assert "The merge takes 168 bytes, and this Space keeps 100 bytes for a visitor" in told
    assert not [*(tmp_path / "cache").rglob("*.safetensors")]


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
    assert "or Stream in step 3, which keeps none. All of them can be merged" in screen["hub-words"]
    assert "`" not in screen["hub-words"]
    assert not screen.sees("hub-download")

    screen["far"] = STREAM
    screen.fire("far", "input")
    assert "Fetches 336 bytes" in screen["merge-estimate"]
    assert screen.can("run")

    chosen(screen, "ties")
    assert "Choose fewer or smaller ones. All of them" in screen["merge-estimate"]
    assert not screen.can("run")


def test_a_model_that_is_here_makes_no_room_for_one_that_is_downloaded_beside_it(
    screen: Screen, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/mergescope")
    [base], other = fetch([HubName("owner/base")]), tmp_path / "cache/models--owner--other/weights"
    other.parent.mkdir()
    other.write_bytes(b"x" * 1000)
    with using("owner/other"):  # later than the base
        pass
    chosen(screen, "from")
    left = screen.state(Selection).far_bytes
    both = sum(size_of(tmp_path / f"cache/models--owner--{name}") for name in ("base", "expert")) + left

    monkeypatch.setattr(space, "MODELS", both - 1)
    chosen(screen, "linear")
    assert "These models take" in screen["hub-words"]
    assert not screen.sees("hub-download")

    monkeypatch.setattr(space, "MODELS", both)
    chosen(screen, "from")
    assert screen["hub-words"].endswith("<b>owner/expert</b> is on the Hub. Only headers were read.</p>")
    assert screen.sees("hub-download")
    screen.fire("hub-download")

    assert screen["hub-words"] == ""
    assert base.is_dir()
    assert not other.exists()


def test_what_the_button_offers_is_not_downloaded_when_other_models_are_named_by_then(
    screen: Screen, hub: Hub, tmp_path: Path
) -> None:
    chosen(screen, "from")
    screen["experts"] = ["owner/other"]  # the table and the button still tell of the expert

    screen.fire("hub-download")

    assert OTHERS in screen["hub-status"]
    assert (screen.can("hub-download"), screen.sees("hub-stop")) == (True, False)
    assert not [*(tmp_path / "cache").rglob("*.safetensors")]
    screen["base"], screen["experts"] = " https://huggingface.co/owner/base/ ", ["owner/expert"]
    screen.fire("base", "change")
    assert screen["hub-status"] == ""
    screen.fire("hub-download")
    assert [*(tmp_path / "cache").rglob("*.safetensors")]
