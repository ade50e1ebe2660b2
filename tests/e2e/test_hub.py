"""Models of the Hub: named, looked at, found, downloaded, stopped, and merged straight away."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect

from merging.hub.search import FAMILIES
from tests.e2e.conftest import ROOT, choose_models, expect_experts, open_tab, running_app
from tests.hub import TOKEN, Hub, environment, standing_in

pytestmark = pytest.mark.e2e

ZOO = ROOT / "zoo"
THERE = {"some/base": "base", "some/bard": "shakespeare", "some/python": "python", "locked/bible": "bible"}
STREAMED = {"far/base": "base", "far/bard": "shakespeare"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The embedded models, as the Hub would have them, and small ones in the place of a family's."""
    folder = tmp_path_factory.mktemp("hub")
    family = FAMILIES[0]
    for name, model in {**THERE, **STREAMED, family.base: "base", **dict.fromkeys(family.experts, "python")}.items():
        shutil.copytree(ZOO / model, folder / name)
    with standing_in(folder) as found:
        found.closed.add("locked/bible")
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "models").mkdir()
    return folder


@pytest.fixture(scope="module")
def app_url(hub: Hub, place: Path) -> Iterator[str]:
    """An app that takes the stand-in for the Hub, and has nothing of it yet."""
    told = environment(hub, place / "hf", TOKEN) | {"MERGESCOPE_CACHE": str(place / "cache")}
    with socket.create_server(("127.0.0.1", 0)) as watch:
        yield from running_app(place, watch.getsockname()[1], told)


def weights_sent(hub: Hub, name: str) -> int:
    """How many bytes of a model's weights the Hub was asked for, as far as that was said."""
    total = 0
    for one in hub.sent():
        if one.path.startswith(f"/{name}/") and one.path.endswith(".safetensors"):
            size = (hub.folder / name / "model.safetensors").stat().st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", one.bytes)
            total += min(size, int(asked[2]) + 1 if asked and asked[2] else size) - (int(asked[1]) if asked else 0)
    return total


def test_models_by_name_are_looked_at_downloaded_and_drawn(visit: Page, hub: Hub, place: Path) -> None:
    choose_models(visit, "some/base", [Path("some/bard"), Path("some/python")])
    table, download = visit.locator("#models-table"), visit.locator("#hub-download")
    expect(table).to_contain_text(f"It is on the Hub, at commit {hub.commit('some/base')[:7]}: 5.66 MB to download.")
    expect(download).to_have_text("Download 17 MB")
    expect(visit.locator("#see-note")).to_contain_text("Download them in step 1")
    expect(visit.locator("#norms .pv-empty")).to_have_text("The weights of these models are on the Hub.")
    assert weights_sent(hub, "some/base") < 300_000

    hub.slow = 0.1
    download.click()
    stop = visit.locator("#hub-stop")
    expect(visit.locator("#hub-status progress")).to_be_visible()
    stop.click()
    expect(visit.locator("#hub-status")).to_contain_text("Download again to go on from there.")
    expect(stop).to_be_hidden()
    hub.slow = 0.0
    expect(download).to_be_enabled()
    download.click()

    expect(download).to_be_hidden()
    expect(visit.locator("#hub-status")).to_have_text("")
    expect_experts(visit, "bard", "python")
    open_tab(visit, "#forecast", "Recipe")
    expect(visit.locator("#recipe-text")).to_contain_text(f"base_model: some/base@{hub.commit('some/base')}")
    assert not [*(place / "hf" / "hub").glob("*/blobs/*.incomplete")]


def test_a_model_of_the_hub_is_merged_without_being_downloaded_before(visit: Page, hub: Hub, place: Path) -> None:
    family = FAMILIES[0]
    visit.locator("#hub button").first.click()
    visit.locator("#hub-family").get_by_label(family.title).click()
    expect(visit.locator("#hub-family")).to_contain_text(family.words)
    visit.locator("#hub-open").click()
    expect(visit.locator("#hub-words")).to_contain_text(family.base)
    visit.locator("#output input, #output textarea").first.fill("from-the-hub")
    visit.locator("#run").click()
    expect(visit.locator("#merge-status")).to_contain_text("from-the-hub", timeout=60_000)
    expect(visit.locator("#run")).to_be_enabled(timeout=60_000)
    expect(visit.locator("#hub-download")).to_be_hidden()  # they are here now, and are seen
    expect_experts(visit, *(name.partition("/")[2] for name in family.experts))

    recipe = yaml.safe_load((place / "from-the-hub" / "mergescope.yaml").read_text())
    assert recipe["base_model"] == f"{family.base}@{hub.commit(family.base)}"
    assert json.loads((place / "from-the-hub" / "config.json").read_text())["model_type"] == "llama"


def test_models_of_the_hub_are_merged_without_keeping_them(visit: Page, hub: Hub, place: Path) -> None:
    choose_models(visit, "far/base", [Path("far/bard")])
    far = visit.locator("#far")
    expect(far).to_contain_text("Streaming fetches 11.3 MB from the Hub twice (22.6 MB in all), and keeps nothing.")
    far.get_by_label("Stream, without keeping the models").click()
    expect(visit.locator("#merge-estimate")).to_contain_text("Fetches 11.3 MB from the Hub twice")
    visit.locator("#output input, #output textarea").first.fill("streamed")
    visit.locator("#run").click()

    expect(visit.locator("#merge-status")).to_contain_text("22.6 MB were fetched from the Hub, and are not kept.")
    assert (place / "streamed" / "model.safetensors").stat().st_size > 5_000_000
    kept = [file.stat().st_size for file in (place / "hf").rglob("models--far--*/**/*") if file.is_file()]
    assert max(kept) < 1_000_000

    visit.locator("#sample-which").get_by_label("as it was last written").click()
    visit.locator("#sample-length input[type=number]").fill("4")
    visit.locator("#sample-run").click()
    cards = visit.locator("#answers [aria-busy=false] article")
    expect(cards.last.locator("pre")).to_be_visible(timeout=60_000)
    expect(cards.first).to_contain_text("Only the headers of far/base are here, and its weights are on the Hub.")


def test_what_the_hub_says_against_a_model_is_told_beside_it(visit: Page) -> None:
    choose_models(visit, ZOO / "base", [Path("locked/bible"), Path("no/where"), Path("some/bard@v9")])

    table = visit.locator("#models-table")
    expect(table).to_contain_text("locked/bible is gated: whoever downloads it has to agree to its terms first.")
    expect(table).to_contain_text("There is no model no/where on the Hub, or it is private.")
    expect(table).to_contain_text("some/bard has no revision v9 on the Hub.")
    expect(visit.locator("#hub-download")).to_be_hidden()


def test_models_are_found_by_words_and_chosen(visit: Page) -> None:
    visit.locator("#hub button").first.click()
    field = visit.locator("#hub-search textarea, #hub-search input").first
    field.fill("nothing like it")
    field.press("Enter")
    expect(visit.locator("#hub-said")).to_contain_text("No model with safetensors is called that.")

    field.fill("some/")
    visit.locator("#hub-go").click()
    found = visit.locator("#hub-found label")
    expect(found).to_have_text(["some/bard", "some/base", "some/python"])
    found.nth(1).click()
    visit.locator("#hub-base").click()
    expect(visit.locator("#base input")).to_have_value("some/base")
    found.nth(0).click()
    visit.locator("#hub-expert").click()
    expect(visit.locator("#models-table")).to_contain_text("bard")


def test_a_merge_is_published_with_its_card(visit: Page, hub: Hub, place: Path) -> None:
    choose_models(visit, "some/base", [Path("some/bard"), Path("some/python")])
    both = re.compile("some/bard.*Llama.*some/python.*Llama", re.DOTALL)
    expect(visit.locator("#models-table")).to_contain_text(both)
    visit.locator("#output textarea, #output input").first.fill("published")
    visit.locator("#run").click()
    expect(visit.locator("#history")).to_contain_text("published", timeout=90_000)
    visit.locator("#publish button").first.click()
    visit.locator("#publish-prepare").click()
    card = visit.locator("#publish-card textarea")
    expect(card).to_have_value(re.compile("base_model:\n- some/base\n- some/bard"), timeout=60_000)
    expect(visit.locator("#publish-name textarea, #publish-name input").first).to_have_value("someone/published")
    expect(visit.locator("#publish-picture img")).to_be_visible()
    card.fill(card.input_value().replace("# published", "# The bard who codes"))
    expect(visit.locator("#publish-private input")).to_be_checked()
    visit.locator("#publish-run").click()

    expect(visit.locator("#publish-said a")).to_have_text("someone/published", timeout=60_000)
    assert "someone/published" in hub.private
    assert "# The bard who codes" in (hub.folder / "someone/published/README.md").read_text()
    sent = hub.folder / "someone/published/model.safetensors"
    assert sent.read_bytes() == (place / "published/model.safetensors").read_bytes()
