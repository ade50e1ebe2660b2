"""The folder that `make space` builds, run as Hugging Face runs it: what it requires is installed, and nothing else."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from playwright.sync_api import Browser, Page, expect
from safetensors.torch import load_file

from docs import space as building
from merging.verify import verify
from tests.e2e.conftest import ROOT, add_experts, choose_models, drawn, expect_experts, started
from tests.hub import TOKEN, Hub, environment, standing_in
from tests.signin import signing_in

pytestmark = pytest.mark.e2e

ZOO = ROOT / "zoo"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is built, with the kernels that were compiled here, as they are once its first visitor has waited."""
    folder = building.build(tmp_path_factory.mktemp("space") / "app")
    kernels, there = ROOT / "merging" / "kernels", folder / "merging" / "kernels"
    for known in (kernels / "__pycache__").glob("kernels-*/kernels_*"):  # numba names them by where the sources are
        name = f"kernels_{hashlib.sha1(str(there).encode()).hexdigest()}"
        shutil.copytree(known, there / "__pycache__" / known.parent.name / name)
    return folder


def required(lines: list[str]) -> Iterator[Distribution]:
    """What is installed here of what these lines require, and of what that requires, and so on."""
    met, asked = set[tuple[str, str]](), [(Requirement(line), "") for line in lines if line]
    while asked:
        one, extra = asked.pop()
        if one.marker and not one.marker.evaluate({"extra": extra}):
            continue
        try:
            found = distribution(one.name)
        except PackageNotFoundError:
            continue
        extras = {name for name in ("", *one.extras) if (canonicalize_name(one.name), name) not in met}
        if ("" in extras) and one.specifier.contains(found.version, prereleases=True):
            yield found
        met |= {(canonicalize_name(one.name), name) for name in extras}
        asked += [(Requirement(line), name) for line in found.requires or () for name in extras]


@pytest.fixture(scope="module")
def python(folder: Path) -> Path:
    """The Python of a fresh environment, in which what the Space requires was installed.

    Most of it is here, and is linked there as it is, so that only the rest has to be fetched.
    """
    place = folder.with_name("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    [packages] = place.glob("lib/python*/site-packages")
    for one in required((folder / "requirements.txt").read_text().splitlines()):
        for file in one.files or ():
            if ".." not in file.parts:  # a command, and not of its package
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                (packages / file).symlink_to(one.locate_file(file))
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-qq", "-r", folder / "requirements.txt"], check=True)
    return python


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    for name, model in {"some/base": "base", "some/bard": "shakespeare", "gated/python": "python"}.items():
        shutil.copytree(ZOO / model, root / name)
    with standing_in(root) as found:
        found.gated.add("gated/python")
        yield found


@pytest.fixture(scope="module")
def app_url(folder: Path, python: Path, hub: Hub) -> Iterator[str]:
    """A Space whose own token would open everything, and whose visitors sign in with another provider's."""
    told = environment(hub, folder.with_name("hf"), "hf_of_the_owner") | {"SPACE_ID": "someone/mergescope"}
    told |= {"MERGESCOPE_CACHE": str(folder.with_name("cache")), "GRADIO_SERVER_NAME": "0.0.0.0"}
    old = folder / "merges" / ("0" * 32) / "old"  # nobody has used it for long
    old.mkdir(parents=True)
    os.utime(old, (1, 1))
    with signing_in(TOKEN) as signing:
        yield from started([python, "app.py"], folder, told | signing)


def test_a_space_merges_samples_and_publishes_for_whoever_is_signed_in(
    page: Page, browser: Browser, app_url: str, hub: Hub, folder: Path, tmp_path: Path
) -> None:
    page.goto(app_url)
    assert not [*(folder / "merges").iterdir()]
    page.locator("#sign-in").click()
    expect(page.locator("#sign-in")).to_have_text("Sign out someone", timeout=300_000)
    drawn(page, "#weights", 300_000)  # the first visitor waits until all is loaded
    choose_models(page, "some/base", [Path("some/bard")])
    add_experts(page, [Path("gated/python"), ZOO / "bible"])
    table = page.locator("#models-table")
    expect(table).to_contain_text("gated/python is gated or private, and this Space reads public models only")
    expect(table).to_contain_text("is a path, and a Space opens none.")
    for _ in range(2):
        page.locator("#experts .token-remove").nth(1).click()
    expect(page.locator("#hub-words")).to_contain_text("some/base and some/bard are on the Hub")

    page.locator("#output input, #output textarea").first.fill("mine")
    page.locator("#run").click()
    said = page.locator("#merge-status")
    expect(said).to_contain_text("Merged.", timeout=120_000)
    expect_experts(page, "bard")
    with page.expect_download() as caught:
        said.get_by_role("link", name="model.safetensors").click()
    caught.value.save_as(tmp_path / "model.safetensors")
    [merged] = folder.glob("merges/*/mine")
    assert (tmp_path / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()
    verify(merged)

    page.locator("#sample-which").get_by_label("as it was last written").click()
    page.locator("#sample-length input[type=number]").fill("8")
    page.locator("#sample-run").click()
    cards = page.locator("#answers [aria-busy=false] article")
    expect(cards.locator("h3")).to_have_text(["base", "bard", "merge: mine"], timeout=120_000)
    assert all(len(text) > len("[Enter ") for text in cards.locator("pre").all_inner_texts())
    assert {one.token for one in hub.asked} == {""}  # models are read as nobody in particular

    page.locator("#publish button").first.click()
    expect(page.locator("#publish")).to_contain_text("You are signed in as someone")
    page.locator("#publish-prepare").click()
    expect(page.locator("#publish-card textarea")).to_have_value(re.compile("- some/base\n- some/bard"), timeout=60_000)
    page.locator("#publish-run").click()
    expect(page.locator("#publish-said a")).to_have_text("someone/mine", timeout=60_000)
    assert (
        load_file(hub.folder / "someone/mine/model.safetensors").keys()
        == load_file(ZOO / "base/model.safetensors").keys()
    )
    assert {one.token for one in hub.asked} == {"", TOKEN}
