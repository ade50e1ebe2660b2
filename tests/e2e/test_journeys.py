"""From picking models to reading what their merge writes: the whole way, and what may go wrong on it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors.torch import load_file, save_file

from merging.verify import verify
from tests.e2e.conftest import ROOT, add_experts, choose_method, choose_models, expect_experts, figure, weights_of
from ui.figures.looks import plain

pytestmark = pytest.mark.e2e

ZOO = ROOT / "zoo"
Q = "model.layers.1.self_attn.q_proj.weight"


def test_from_the_embedded_models_to_reading_what_the_merge_writes(visit: Page, workplace: Path) -> None:
    page = visit

    expect(page.locator("#models-table")).to_contain_text("LlamaForCausalLM")
    expect(page.locator("#models-table tbody tr")).to_have_count(4)
    assert [trace["name"] for trace in figure(page, "#norms")][::2] == ["shakespeare", "bible", "python"]

    page.get_by_label("TIES-Merging").click()
    expect(page.locator("#forecast-note")).to_contain_text("TIES-Merging · steps")
    expect(page.locator("#merge-estimate")).to_contain_text(re.compile(r"Reads .+ MB and writes .+ MB, with about"))
    page.locator("#output input, #output textarea").fill("merges/first")
    page.locator("#run").click()
    expect(page.locator("#merge-status")).to_contain_text("Merged.", timeout=120_000)
    expect(page.locator("#merge-status")).to_contain_text(str(workplace / "merges" / "first"))
    expect(page.locator("#merge-status")).to_contain_text(re.compile(r"\d+(\.\d+)? MB, \d+\.\d s"))

    page.locator("#sample-which").get_by_label("as it was last written").click()
    page.locator("#sample-length input[type=number]").fill("12")
    page.locator("#sample-run").click()
    cards = page.locator("#answers article")
    expect(cards).to_have_count(5, timeout=120_000)
    expect(page.locator("#answers [aria-busy=false]")).to_be_attached(timeout=120_000)
    for index, name in enumerate(["base", "shakespeare", "bible", "python", "merge: first"]):
        expect(cards.nth(index).locator("h3")).to_have_text(name)
        said = cards.nth(index).locator("pre").inner_text()
        assert said.startswith("[Enter ")
        assert len(said) > len("[Enter ")

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(workplace / "merges/first")
    prompt = AutoTokenizer.from_pretrained(workplace / "merges/first")("[Enter ", return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=4).shape[1] > prompt["input_ids"].shape[1]
    merged, base = load_file(workplace / "merges/first/model.safetensors"), load_file(ZOO / "base/model.safetensors")
    assert {name: (t.shape, t.dtype) for name, t in merged.items()} == {
        name: (t.shape, t.dtype) for name, t in base.items()
    }
    assert any(not torch.equal(merged[name], base[name]) for name in base)


def test_from_the_embedded_adapters_to_one_adapter_that_writes_on_the_base(visit: Page, workplace: Path) -> None:
    result, note = visit.locator("#result"), visit.locator("#result-note")
    expect(note).to_contain_text("Only LoRA adapters of the base merge into an adapter")
    expect(result.get_by_label("One LoRA adapter")).to_be_disabled()

    choose_models(visit, ZOO / "base", [ZOO / "bible-lora", ZOO / "python-lora"])
    expect(result.get_by_label("One LoRA adapter")).to_be_enabled()
    expect(note).to_be_hidden()
    choose_method(visit, "One number per tensor", "Task arithmetic")
    result.get_by_label("One LoRA adapter").click()
    visit.locator("#rank input, #rank textarea").fill("12")

    expect(visit.locator("#forecast-note")).to_contain_text("before any cut to rank 12")
    expect_experts(visit, "bible-lora", "python-lora")
    cells = [cells[0] for cells in figure(visit, "#weights")[0]["cells"] if cells[0]]
    assert len(cells) == 42
    assert all("_proj" in cell for cell in cells)
    assert weights_of(visit, Q) == pytest.approx([0.4, 0.4])
    expect(visit.locator("#merge-estimate")).to_contain_text("The adapter is of rank 12.")
    visit.locator("#output input, #output textarea").fill("merges/adapter")
    visit.locator("#run").click()
    status = visit.locator("#merge-status")
    expect(status).to_contain_text("Merged into one LoRA adapter.", timeout=120_000)
    expect(status).to_contain_text("It is of rank 12, and goes onto the base")
    expect(status).to_contain_text(re.compile(r"The rank leaves out \d+\.\d\d% of the squared norm of all updates"))
    expect(status).to_contain_text(f'PeftModel.from_pretrained(model, "{workplace / "merges/adapter"}")')
    recipe = (workplace / "merges/adapter/mergescope.yaml").read_text()
    assert "result: adapter" in recipe
    assert "rank: 12" in recipe

    visit.locator("#sample-length input[type=number]").fill("8")
    visit.locator("#sample-run").click()
    expect(visit.locator("#answers [aria-busy=false] article")).to_have_count(4, timeout=120_000)
    card = visit.locator("#answers article.merge")
    expect(card.locator("h3")).to_have_text("merge: adapter")
    assert len(card.locator("pre").inner_text()) > len("[Enter ")
    expect(card.locator(".notice")).to_have_count(0)


def test_methods_of_adapters_alone_say_so_and_show_when_to_use_them(visit: Page) -> None:
    choose_method(visit, "Adapters only", "KnOTS")

    expect(visit.locator("#method-note .notice")).to_contain_text("KnOTS merges adapters and nothing else.")
    expect(visit.locator("#method-about")).to_contain_text("Use it for adapters that were trained apart")
    expect(visit.locator("#knots-density")).to_be_visible()
    expect(visit.locator("#result")).to_be_hidden()
    expect(visit.locator("#weights .pv-empty")).to_be_visible()

    choose_models(visit, ZOO / "base", [ZOO / "bible-lora", ZOO / "python-lora"])
    expect(visit.locator("#rank")).to_be_visible()
    expect(visit.locator("#forecast-note")).to_contain_text("mixes the adapters of each matrix")
    visit.locator("#method").get_by_label("PEFT", exact=True).click()
    expect(visit.locator("#peft-seed")).to_be_visible()
    visit.wait_for_function("() => document.querySelector('#weights .pv-box').data[0].z[0].join() === '1,1'")


def test_the_app_takes_the_next_free_port(app_url: str) -> None:
    port = int(app_url.rpartition(":")[2])

    assert 7860 < port < 7960


def test_samples_follow_the_seed_can_be_stopped_and_need_no_merge(visit: Page) -> None:
    visit.get_by_label("Random seed").fill("-5")
    visit.locator("#sample-run").click()
    expect(visit.locator("#answers .notice.error")).to_contain_text("Seed must be between 0")

    said: dict[str, str] = {}
    visit.locator("#sample-length input[type=number]").fill("8")
    for seed, before in (("0", ""), ("1", "0"), ("0", "1")):
        visit.get_by_label("Random seed").fill(seed)
        visit.locator("#sample-run").click()
        if before:
            expect(visit.locator("#answers .answers")).not_to_have_text(said[before], use_inner_text=True)
        expect(visit.locator("#answers [aria-busy=false] article")).to_have_count(5, timeout=120_000)
        text = visit.locator("#answers .answers").inner_text()
        assert said.setdefault(seed, text) == text
    assert said["0"] != said["1"]
    expect(visit.locator("#answers article.merge h3")).to_have_text("merge: as it stands")
    expect(visit.locator("#history")).to_contain_text("Every merge that you write")

    visit.locator("#sample-length input[type=number]").fill("400")
    visit.locator("#sample-run").click()
    cards = visit.locator("#answers article")
    expect(cards.first.locator("pre span")).to_have_text("[Enter ", timeout=120_000)
    visit.locator("#sample-stop").click()
    expect(visit.locator("#sample-run")).to_be_enabled(timeout=10_000)
    said["stopped"] = visit.locator("#answers .answers").inner_text()
    visit.wait_for_timeout(1_000)
    assert visit.locator("#answers .answers").inner_text() == said["stopped"]
    assert max(len(text) for text in cards.locator("pre").all_inner_texts()) < 600  # 400 tokens are some 1000 letters


def test_what_cannot_be_is_said_where_it_is(visit: Page, workplace: Path, tmp_path: Path) -> None:
    tensors = load_file(ZOO / "bible/model.safetensors")
    tensors[Q] = tensors[Q][:-1].clone()
    save_file(tensors, tmp_path / "short.safetensors")
    hostile = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(ZOO / "bible", hostile)

    choose_models(visit, ZOO / "base", [])
    expect(visit.locator("#models-table")).to_contain_text("No expert is chosen")
    expect(visit.locator("#norms .pv-empty")).to_be_visible()
    expect(visit.locator("#weights .pv-empty")).to_be_visible()

    add_experts(visit, [hostile, tmp_path / "short.safetensors", tmp_path / "nowhere"])
    expect(visit.locator("#models-table b").nth(1)).to_have_text(hostile.name)
    expect(visit.locator("tr.misfit")).to_have_count(2)
    expect(visit.locator("tr.misfit").first).to_contain_text(f"{Q} is")
    expect(visit.locator("tr.misfit").last).to_contain_text("There is no file or folder")
    expect_experts(visit, plain(hostile.name))
    assert visit.locator("img[src=x]").count() == 0
    visit.locator("#run").click()
    expect(visit.locator("#merge-status .notice.error")).to_contain_text("There is no file or folder")

    taken = workplace / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    choose_models(visit, ZOO / "base", [ZOO / "bible", ZOO / "python"])
    expect_experts(visit, "bible", "python")
    visit.locator("#output input, #output textarea").fill("taken")
    visit.locator("#output input, #output textarea").blur()
    expect(visit.locator("#merge-estimate")).to_contain_text("nothing is ever overwritten")
    expect(visit.locator("#run")).to_be_disabled()
    assert [file.name for file in taken.iterdir()] == ["thesis.txt"]

    visit.get_by_label("PCB-Merging").click()
    visit.locator("#output input, #output textarea").fill("untouched")
    expect(visit.locator("#run")).to_be_enabled()
    visit.locator("#run").click()
    expect(visit.locator("#merge-status")).to_contain_text("Merged.", timeout=120_000)
    # Left empty, it is the method's own.
    assert "clamp" not in (workplace / "untouched" / "mergescope.yaml").read_text()
    visit.locator("#pcb-clamp input, #pcb-clamp textarea").fill("5")
    expect(visit.locator("#forecast-note")).to_contain_text("clamp must be between 0 and 0.1, but it is 5.")
    visit.locator("#run").click()
    expect(visit.locator("#merge-status .notice.error")).to_contain_text("clamp must be between 0 and 0.1")
    expect(visit.locator("#run")).to_be_enabled()


UNDER_WAY = r"""() => /[1-8]\d% +(Surveying|Merging) model\.layers\.\d+\.mlp\.up_proj\.weight +about \d+ s left/
    .test(document.querySelector('#merge-status').innerText.replace(/\s+/g, ' '))"""


def test_a_merge_shows_its_progress_can_be_stopped_and_goes_on(visit: Page, workplace: Path, large: list[Path]) -> None:
    choose_models(visit, large[0], large[1:])
    expect_experts(visit, "one", "two")
    visit.get_by_label("PCB-Merging").click()
    visit.locator("#pcb-scope").get_by_label("tensor").click()
    output, status = visit.locator("#output input, #output textarea"), visit.locator("#merge-status")
    output.fill("stopped")

    visit.locator("#run").click()
    expect(visit.locator("#merge-status progress")).to_be_visible()
    visit.wait_for_function(UNDER_WAY)  # asked in every frame, and pressed at once: there are a few seconds only
    visit.locator("#stop").dispatch_event("click")

    expect(status).to_contain_text("Stopped. Nothing is at stopped; merge again with the same settings")
    expect(visit.locator("#run")).to_be_enabled()
    assert not (workplace / "stopped").exists()
    expect(output).to_have_value("stopped")

    visit.locator("#run").click()
    expect(status).to_contain_text("Merged.", timeout=120_000)
    assert verify(workplace / "stopped").problems == []
    assert not list(workplace.glob(".*part*"))
