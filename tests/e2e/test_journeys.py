"""What a person does in the app, from picking models to reading what their merge writes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, expect
from safetensors.torch import load_file, save_file

from merging.verify import verify
from tests.e2e.conftest import ROOT, choose_models, drawn, figure

pytestmark = pytest.mark.e2e

ZOO = ROOT / "zoo"
Q = "model.layers.1.self_attn.q_proj.weight"


def weights_of(page: Page, tensor: str) -> list[float]:
    """The coefficients that the page shows for a tensor."""
    trace = figure(page, "#weights")[0]
    row = [cells[0] for cells in trace["cells"]].index(tensor)
    return list(trace["z"][row])


def set_slider(page: Page, name: str, value: str) -> None:
    page.locator(f"#{name} input[type=number]").fill(value)
    page.locator(f"#{name} input[type=number]").press("Enter")


def test_from_the_embedded_models_to_reading_what_the_merge_writes(visit: Page, workplace: Path) -> None:
    page = visit

    expect(page.locator("#models-table")).to_contain_text("LlamaForCausalLM")
    expect(page.locator("#models-table tbody tr")).to_have_count(4)
    assert [trace["name"] for trace in figure(page, "#norms")][::2] == ["shakespeare", "bible", "python"]

    page.get_by_label("TIES-Merging").click()
    expect(page.locator("#coefficients-note")).to_contain_text("TIES-Merging weighs every entry")
    expect(page.locator("#merge-estimate")).to_contain_text(re.compile(r"Reads .+ MB and writes .+ MB, with about"))
    page.locator("#output input, #output textarea").fill("merges/first")
    page.locator("#run").click()
    expect(page.locator("#merge-status")).to_contain_text("Merged.", timeout=120_000)
    expect(page.locator("#merge-status")).to_contain_text(str(workplace / "merges" / "first"))
    expect(page.locator("#merge-status")).to_contain_text(re.compile(r"\d+(\.\d+)? MB, \d+\.\d s"))

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


def test_the_app_takes_the_next_free_port(app_url: str) -> None:
    port = int(app_url.rpartition(":")[2])

    assert 7860 < port < 7960


def test_the_norms_on_the_page_are_those_of_the_files(visit: Page) -> None:
    base, expert = (load_file(ZOO / name / "model.safetensors")[Q].double() for name in ("base", "bible"))

    visit.get_by_label("absolute").click()
    expect(visit.locator("#norms")).to_contain_text("‖τ‖")
    visit.wait_for_function("() => document.querySelector('#norms .pv-box').data[0].text[0][0].endsWith(' ‖τ‖')")
    trace = next(t for t in figure(visit, "#norms") if t["name"] == "bible")

    shown = trace["z"][trace["y"].index("layer 1")][trace["x"].index("q")]
    assert shown == pytest.approx(float((expert - base).norm()), rel=1e-4)


def test_coefficients_follow_a_moving_slider_and_are_what_the_formula_says(visit: Page) -> None:
    base = load_file(ZOO / "base/model.safetensors")[Q].double()
    norms = torch.stack(
        [
            (load_file(ZOO / name / "model.safetensors")[Q].double() - base).norm()
            for name in ("shakespeare", "bible", "python")
        ]
    )
    assert weights_of(visit, Q) == pytest.approx((norms / norms.sum()).tolist(), rel=1e-4)

    slider = visit.locator("#from-k input[type=range]")
    slider.focus()
    for _ in range(10):
        slider.press("ArrowRight")

    visit.wait_for_function(
        "([name, want]) => { const t = document.querySelector('#weights .pv-box').data[0];"
        " const i = t.customdata.findIndex(c => c[0] === name); return Math.abs(t.z[i][0] - want) < 1e-4; }",
        arg=[Q, float(norms[0] ** 2 / norms.square().sum())],
    )


@pytest.mark.parametrize("method", ["TIES-Merging", "PCB-Merging"])
def test_effective_weights_become_exact_when_the_slider_rests(visit: Page, method: str) -> None:
    visit.get_by_label(method).click()

    expect(visit.locator("#coefficients-note")).to_contain_text(f"{method} weighs every entry")
    expect(visit.locator("#coefficients-note")).to_contain_text("exact", timeout=60_000)
    assert all(0 <= weight <= 1 for weight in weights_of(visit, Q))


def test_weights_of_experts_have_sliders_where_the_method_weighs_them(visit: Page) -> None:
    expect(visit.get_by_text("Weight of bible")).to_have_count(0)

    visit.get_by_label("Task arithmetic").click()
    expect(visit.get_by_text("Weight of bible")).to_be_visible()
    weight = visit.get_by_role("spinbutton", name="Weight of bible")
    weight.fill("-1")
    weight.press("Enter")

    visit.wait_for_function("() => document.querySelector('#weights .pv-box').data[0].z[0][1] < 0")
    assert weights_of(visit, Q) == pytest.approx([0.4, -0.4, 0.4], rel=1e-4)


def test_a_click_on_a_cell_shows_that_tensor(visit: Page) -> None:
    visit.locator("#norms").scroll_into_view_if_needed()
    area = visit.locator("#norms .nsewdrag").first.bounding_box()
    assert area
    columns, rows = len(figure(visit, "#norms")[0]["x"]), len(figure(visit, "#norms")[0]["y"])
    x, y = area["x"] + area["width"] * 0.5 / columns, area["y"] + area["height"] * 1.5 / rows

    visit.mouse.move(x - 3, y)
    visit.mouse.move(x, y)
    visit.wait_for_timeout(200)
    visit.mouse.click(x, y)

    expect(visit.locator("#tensor-detail h3")).to_have_text(Q)
    expect(visit.locator("#tensor-detail tbody tr")).to_have_count(3)
    drawn(visit, "#tensor-histogram")


def test_a_cell_of_the_coefficients_shows_its_tensor_too(visit: Page) -> None:
    visit.locator("#weights .pv-box").focus()

    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "Enter"):
        visit.keyboard.press(key)

    expect(visit.locator("#weights .pv-live")).to_contain_text("model.layers.0.self_attn.q_proj.weight, shakespeare: ")
    expect(visit.locator("#tensor-detail h3")).to_have_text("model.layers.0.self_attn.q_proj.weight")


@pytest.mark.parametrize("layers", [0, 1, 80])
def test_models_of_any_depth_are_drawn_whole(visit: Page, tmp_path: Path, layers: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (16, 8), "lm_head.weight": (16, 8)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{module}.weight": (8, 8) for module in ("self_attn.q_proj", "mlp.up_proj")}
    paths = []
    for name in ("ground", "one", "two"):
        tensors = {tensor: torch.randn(shape, generator=generator) for tensor, shape in shapes.items()}
        save_file(tensors, tmp_path / f"{name}.safetensors")
        paths.append(tmp_path / f"{name}.safetensors")

    choose_models(visit, paths[0], paths[1:])

    visit.wait_for_function("() => document.querySelector('#weights .pv-box').data[0].x.join() === 'one,two'")
    cells = [cell for cells in figure(visit, "#weights")[0]["cells"] for cell in cells[:1] if cell]
    assert set(cells) == set(shapes)
    drawn_cells = {cell for trace in figure(visit, "#norms") for cells in trace["cells"] for cell in cells}
    assert drawn_cells == set(shapes)
    labels = visit.locator("#weights .ytick text").evaluate_all("all => all.map(t => t.getBoundingClientRect().y)")
    assert all(after - before > 8 for before, after in zip(sorted(labels), sorted(labels)[1:], strict=False))


def test_the_heatmap_can_be_walked_with_the_keyboard(visit: Page) -> None:
    visit.locator("#norms .pv-box").focus()

    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        visit.keyboard.press(key)
    expect(visit.locator("#norms .pv-live")).to_contain_text("shakespeare, layer 1, k")
    visit.keyboard.press("Enter")

    expect(visit.locator("#tensor-detail h3")).to_have_text("model.layers.1.self_attn.k_proj.weight")


def test_base_and_experts_answer_before_there_is_a_merge_and_stop_works(visit: Page) -> None:
    visit.locator("#sample-length input[type=number]").fill("400")
    visit.locator("#sample-run").click()
    cards = visit.locator("#answers article")
    expect(cards).to_have_count(4, timeout=120_000)
    expect(cards.first.locator("pre span")).to_have_text("[Enter ", timeout=120_000)

    visit.locator("#sample-stop").click()

    expect(visit.locator("#sample-run")).to_be_enabled(timeout=5_000)
    said = visit.locator("#answers .answers").inner_text()
    visit.wait_for_timeout(1_000)
    assert visit.locator("#answers .answers").inner_text() == said
    assert max(len(text) for text in cards.locator("pre").all_inner_texts()) < 600  # 400 tokens are some 1000 letters


def test_the_same_seed_gives_the_same_answers_and_another_seed_gives_others(visit: Page) -> None:
    said = {}
    visit.locator("#sample-length input[type=number]").fill("8")
    for seed, before in (("0", ""), ("1", "0"), ("0", "1")):
        visit.get_by_label("Random seed").fill(seed)
        visit.locator("#sample-run").click()
        before = said.get(before, "")
        if before:
            expect(visit.locator("#answers .answers")).not_to_have_text(before, use_inner_text=True)
        expect(visit.locator("#answers [aria-busy=false] article")).to_have_count(4, timeout=120_000)
        text = visit.locator("#answers .answers").inner_text()
        assert said.setdefault(seed, text) == text

    assert said["0"] != said["1"]


def test_an_expert_that_does_not_fit_says_why_beside_its_name(visit: Page, tmp_path: Path) -> None:
    tensors = load_file(ZOO / "bible/model.safetensors")
    tensors[Q] = tensors[Q][:-1].clone()
    save_file(tensors, tmp_path / "short.safetensors")

    choose_models(visit, ZOO / "base", [ZOO / "python", tmp_path / "short.safetensors", tmp_path / "nowhere"])

    expect(visit.locator("tr.misfit")).to_have_count(2)
    expect(visit.locator("tr.misfit").first).to_contain_text(f"`{Q}` is")
    expect(visit.locator("tr.misfit").last).to_contain_text("There is no file or folder")
    visit.wait_for_function("() => document.querySelector('#weights .pv-box').data[0].x.length === 1")
    visit.locator("#run").click()
    expect(visit.locator("#merge-status .notice.error")).to_contain_text("There is no file or folder")


def test_a_parameter_left_empty_stays_the_methods_own(visit: Page, workplace: Path) -> None:
    visit.get_by_label("PCB-Merging").click()
    visit.locator("#output input, #output textarea").fill("untouched")
    visit.locator("#run").click()
    expect(visit.locator("#merge-status")).to_contain_text("Merged.", timeout=120_000)

    assert "clamp" not in (workplace / "untouched" / "mergescope.yaml").read_text()

    visit.locator("#pcb-clamp input, #pcb-clamp textarea").fill("5")
    expect(visit.locator("#coefficients-note")).to_contain_text("Clamp share must be between 0 and 0.1, but it is 5.")
    visit.locator("#run").click()
    expect(visit.locator("#merge-status .notice.error")).to_contain_text("Clamp share must be between 0 and 0.1")
    expect(visit.locator("#run")).to_be_enabled()


def test_a_seed_that_cannot_be_is_refused_in_words_and_sampling_goes_on(visit: Page) -> None:
    visit.get_by_label("Random seed").fill("-5")
    visit.locator("#sample-run").click()
    expect(visit.locator("#answers .notice.error")).to_contain_text("Seed must be between 0")

    visit.get_by_label("Random seed").fill("5")
    visit.locator("#sample-length input[type=number]").fill("3")
    visit.locator("#sample-run").click()
    expect(visit.locator("#answers [aria-busy=false] article")).to_have_count(4, timeout=120_000)


def test_no_expert_leaves_a_hint_and_no_plot(visit: Page) -> None:
    choose_models(visit, ZOO / "base", [])

    expect(visit.locator("#models-table")).to_contain_text("No expert is chosen")
    expect(visit.locator("#norms .pv-empty")).to_be_visible()
    expect(visit.locator("#weights .pv-empty")).to_be_visible()


def test_a_folder_that_holds_something_is_never_written_to(visit: Page, workplace: Path) -> None:
    taken = workplace / "taken"
    taken.mkdir(exist_ok=True)
    (taken / "thesis.txt").write_text("mine")

    visit.locator("#output input, #output textarea").fill("taken")
    visit.locator("#run").click()

    expect(visit.locator("#merge-status .notice.error")).to_contain_text("nothing is ever overwritten")
    assert [file.name for file in taken.iterdir()] == ["thesis.txt"]


@pytest.fixture
def large(tmp_path: Path) -> list[Path]:
    """A base and two experts of 170 million parameters, so that there is time to stop a merge."""
    generator = torch.Generator().manual_seed(0)
    paths = []
    for name in ("base", "one", "two"):
        noise = torch.randn(2048, 2048, generator=generator).bfloat16()
        tensors = {f"model.layers.{i}.mlp.up_proj.weight": noise.roll(i) for i in range(40)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
        paths.append(tmp_path / f"{name}.safetensors")
    return paths


def test_a_merge_shows_its_progress_can_be_stopped_and_goes_on(visit: Page, workplace: Path, large: list[Path]) -> None:
    choose_models(visit, large[0], large[1:])
    visit.wait_for_function("() => document.querySelector('#weights .pv-box').data[0].x.join() === 'one,two'")
    visit.get_by_label("PCB-Merging").click()
    visit.locator("#pcb-scope").get_by_label("tensor").click()
    output, status = visit.locator("#output input, #output textarea"), visit.locator("#merge-status")
    output.fill("stopped")

    visit.locator("#run").click()
    expect(visit.locator("#merge-status progress")).to_be_visible()
    expect(status).to_contain_text(re.compile(r"(Surveying|Merging) model\.layers\.\d+"))
    expect(status).to_contain_text(re.compile(r"about \d+ s left"))
    expect(status).to_contain_text(re.compile(r"[2-9]\d%"))  # some tensors are finished
    visit.locator("#stop").click()

    expect(status).to_contain_text("Stopped. Nothing is at stopped; merge again with the same settings")
    expect(visit.locator("#run")).to_be_enabled()
    assert not (workplace / "stopped").exists()
    expect(output).to_have_value("stopped")

    visit.locator("#run").click()
    expect(status).to_contain_text("Merged.", timeout=120_000)
    assert verify(workplace / "stopped").problems == []
    assert not list(workplace.glob(".*part*"))


def test_two_visitors_see_their_own_models(visit: Page, browser: Browser, app_url: str) -> None:
    other = browser.new_page()
    other.goto(app_url)
    drawn(other, "#weights")

    choose_models(other, ZOO / "base", [ZOO / "bible"])

    other.wait_for_function("() => document.querySelector('#weights .pv-box').data[0].x.join() === 'bible'")
    assert figure(visit, "#weights")[0]["x"] == ["shakespeare", "bible", "python"]
    expect(visit.locator("#models-table tbody tr")).to_have_count(4)
    other.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_as_wide_as_the_window_in_light_and_dark(visit: Page, width: int) -> None:
    visit.set_viewport_size({"width": width, "height": 900})

    visit.locator("#theme").click()

    expect(visit.locator("body.dark")).to_be_attached()
    visit.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)


def test_a_model_name_with_markup_is_shown_as_it_is(visit: Page, tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(ZOO / "bible", folder)

    choose_models(visit, ZOO / "base", [folder])

    expect(visit.locator("#models-table b").last).to_have_text(folder.name)
    visit.wait_for_function("() => document.querySelector('#weights .pv-box').data[0].x.length === 1")
    assert visit.locator("img[src=x]").count() == 0
