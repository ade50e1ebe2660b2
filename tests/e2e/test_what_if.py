"""What the merge will do, in a browser: it follows the sliders, is held and compared, and is changed by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors.torch import load_file

from tests.e2e.conftest import (
    ROOT,
    choose_method,
    drawn,
    expect_weights,
    figure,
    numbers,
    open_tab,
    pick,
    set_number,
    weights_of,
)

pytestmark = pytest.mark.e2e

ZOO = ROOT / "zoo"
NAMES = ("shakespeare", "bible", "python")
Q, K = (f"model.layers.1.self_attn.{module}_proj.weight" for module in "qk")
UP = "model.layers.1.mlp.up_proj.weight"


def tensors(name: str, folder: Path = ZOO) -> dict[str, torch.Tensor]:
    return load_file(folder / name / "model.safetensors")


def test_the_forecast_follows_the_sliders_is_compared_and_is_changed_by_hand(visit: Page, workplace: Path) -> None:
    shares = weights_of(visit, Q)
    follow_the_sliders_and_compare(visit)
    set_weight(visit, "bible", "1")
    choose_method(visit, "Three papers", "FroM")
    expect_weights(visit, Q, shares)
    change_by_hand(visit, workplace)
    open_tab(visit, "#forecast", "Coefficients")
    pick_by_labels(visit)


def set_weight(page: Page, expert: str, value: str) -> None:
    """Type how much an expert counts."""
    field = page.get_by_role("spinbutton", name=f"Weight of {expert}")
    field.fill(value)
    field.press("Enter")


def follow_the_sliders_and_compare(visit: Page) -> None:
    """Move sliders, hold a setting beside another, and look at what each method will do."""
    expect(visit.get_by_text("Weight of bible")).to_have_count(0)
    base = tensors("base")[Q].double()
    norms = torch.stack([(tensors(name)[Q].double() - base).norm() for name in NAMES])
    assert weights_of(visit, Q) == pytest.approx((norms / norms.sum()).tolist(), rel=1e-4)

    slider = visit.locator("#from-k input[type=range]")
    slider.focus()
    for _ in range(10):
        slider.press("ArrowRight")
    expect_weights(visit, Q, (norms**2 / norms.square().sum()).tolist())

    open_tab(visit, "#forecast", "Compare")
    visit.locator("#hold").click()
    expect(visit.locator("#holding")).to_contain_text("Held: FroM, exponent 2, λ 1. What you change")
    set_number(visit, "from-k", "1")
    drawn(visit, "#difference")
    visit.wait_for_function("""([tensor, wanted]) => {
      const [, , trace] = document.querySelector('#difference .pv-box').data || [];
      if (!trace) return false;
      const row = trace.customdata.findIndex((cells) => cells[0] === tensor);
      return Math.abs(trace.z[row][0] - wanted) < 1e-4;
    }""", arg=[Q, float(norms[0] / norms.sum() - norms[0] ** 2 / norms.square().sum())])  # fmt: skip
    tables = numbers(visit, "#difference")
    assert [title for title, _ in tables] == ["Held", "Now", "Now − held"]
    assert all(rows[0] == ["", *NAMES] and len(rows) == len(tensors("base")) + 1 for _, rows in tables)
    for width, stands in (
        (400, "yaxis2.domain[1] < yaxis.domain[0]"),
        (1280, "`${yaxis2.domain}` === `${yaxis.domain}`"),
    ):
        visit.set_viewport_size({"width": width, "height": 800})  # the difference stands below both, or beside them
        layout = "const {yaxis, yaxis2} = document.querySelector('#difference .pv-box')._fullLayout"
        visit.wait_for_function(f"() => {{ {layout}; return {stands}; }}")
    visit.locator("#compared").get_by_label("distance from the base").click()
    visit.wait_for_function("() => document.querySelector('#difference .pv-box').data[0].x.join() === 'merge'")

    open_tab(visit, "#forecast", "Effects")
    drawn(visit, "#effects")
    assert [trace["name"] for trace in figure(visit, "#effects")] == ["merge", *NAMES]
    assert numbers(visit, "#effects")[0][1][0] == ["layer", "merge", *NAMES]
    visit.get_by_label("TIES-Merging").click()
    visit.locator("#effect input").click()
    visit.get_by_role("option", name=re.compile("^Entries decided")).click()
    visit.wait_for_function("() => document.querySelector('#effects .pv-box').data[0].name === 'no expert'")
    none, one, several = (trace["y"] for trace in figure(visit, "#effects"))
    assert [sum(shares) for shares in zip(none, one, several, strict=True)] == pytest.approx([1] * 6)

    open_tab(visit, "#forecast", "Coefficients")
    for method in ("TIES-Merging", "PCB-Merging"):
        visit.get_by_label(method).click()
        expect(visit.locator("#forecast-note")).to_contain_text(re.compile(f"{method} · steps .* by none .* · exact"))
        assert all(0 <= weight <= 1.1 for weight in weights_of(visit, Q))

    choose_method(visit, "One number per tensor", "Task arithmetic")
    set_weight(visit, "bible", "-1")
    expect_weights(visit, Q, [0.4, -0.4, 0.4])


def convert(page: Page) -> None:
    """Make task arithmetic of FroM, which mergekit does not have and whose weights nobody can change."""
    open_tab(page, "#forecast", "Recipe")
    page.locator("#recipe-mergekit").click()
    expect(page.locator("#recipe-unsaved [role=alert]")).to_contain_text("mergekit has no FroM.")
    open_tab(page, "#forecast", "Coefficients")
    page.locator("#editing button").first.click()
    page.locator("#edit-convert").click()
    expect(page.locator("#method").get_by_label("Task arithmetic", exact=True)).to_be_checked()
    expect(page.locator("#forecast-note")).to_contain_text("Task arithmetic")


def change_one(page: Page, before: list[float]) -> None:
    """Set the weight of one tensor of one expert to zero."""
    pick(page, "#weights", Q, column=1)
    expect(page.locator("#edit-picked")).to_contain_text(f"{Q} of bible")
    page.locator("#edit-change").get_by_label("zero").click()
    page.locator("#edit-apply").click()
    expect(page.locator("#edit-done")).to_contain_text(f"{Q}: weight 0 of bible")
    expect_weights(page, Q, [before[0], 0, before[2]])


def change_parts_and_take_one_back(page: Page) -> None:
    """Change a layer, a module, a group and a third of the model, for all experts, with a step back and forth."""
    first, done = page.locator("#edit-first input"), page.locator("#edit-done li")
    for chosen, picked, how, to, said in (
        ("its layer", K, "set", "0.5", "layer 1: weight 0.5"),
        ("its module", K, "scale", "2", "k: weight × 2"),
        ("its group", UP, "set", "0.25", "MLP: weight 0.25"),
    ):
        pick(page, "#norms", picked)
        expect(page.locator("#edit-picked")).to_contain_text(f"{picked} of shakespeare")
        page.locator("#edit-part").get_by_label(chosen).click()
        page.locator("#edit-who").get_by_label("all experts").click()
        page.locator("#edit-change").get_by_label(how, exact=True).click()
        first.fill(to)
        page.locator("#edit-apply").click()
        expect(done.first).to_have_text(said)
    expect_weights(page, Q, [0.5] * 3)
    expect_weights(page, K, [1.0] * 3)
    expect_weights(page, UP, [0.25] * 3)

    page.locator("#edit-undo").click()
    expect(done).to_have_count(3)
    expect_weights(page, UP, [0.5] * 3)
    page.locator("#edit-redo").click()
    expect_weights(page, UP, [0.25] * 3)

    page.locator("#edit-part").get_by_label("last third").click()
    first.fill("0.75")
    page.locator("#edit-apply").click()
    expect(done.first).to_have_text("last third: weight 0.75")
    expect_weights(page, UP.replace("layers.1", "layers.4"), [0.75] * 3)
    expect_weights(page, UP, [0.25] * 3)


def slope_and_reset(page: Page, before: list[float]) -> None:
    """Let the weight fall with the depth, and then take back everything that was changed."""
    page.locator("#edit-part").get_by_label("the model").click()
    page.locator("#edit-change").get_by_label("ramp").click()
    page.locator("#edit-first input").fill("1")
    page.locator("#edit-last input").fill("0")
    page.locator("#edit-apply").click()
    expect_weights(page, Q, [0.8] * 3)
    page.locator("#edit-reset").click()
    expect(page.locator("#edit-done li").first).to_have_text("the whole model: weight as before")
    expect_weights(page, Q, before)


def choose_preset(page: Page) -> None:
    """Change the weights by a preset, which adds one change to the list."""
    done = page.locator("#edit-done li")
    count = done.count()
    page.locator("#edit-preset input").click()
    page.get_by_role("option", name="attention only").click()
    expect_weights(page, UP, [0] * 3)
    expect(done).to_have_count(count + 1)  # not twice, though the dropdown tells of a choice twice


def choose_method_without_weights_and_convert(page: Page) -> None:
    """Choose a method that takes no changes, and turn it into one that does: the changes stand on top."""
    choose_method(page, "Three papers", "FroM")
    expect(page.locator("#forecast-note")).to_contain_text("Or press Reset below “Change by hand”")
    page.locator("#edit-convert").click()
    expect(page.locator("#edit-done")).to_contain_text("Your changes stand on top of them.")
    expect(page.locator("#method").get_by_label("Task arithmetic", exact=True)).to_be_checked()


def sample(page: Page) -> None:
    """Ask the base, the experts and the merge as it stands."""
    page.locator("#sample-length input[type=number]").fill("4")
    page.locator("#sample-run").click()
    expect(page.locator("#answers [aria-busy=false] article")).to_have_count(5, timeout=120_000)
    expect(page.locator("#answers article.merge h3")).to_have_text("merge: as it stands")
    assert len(page.locator("#answers article.merge pre").inner_text()) > len("[Enter ")


def change_by_hand(visit: Page, workplace: Path) -> None:
    """Make task arithmetic of FroM, change its weights in all ways, sample it, and merge it."""
    before = weights_of(visit, Q)
    convert(visit)
    expect_weights(visit, Q, before)  # FroM's coefficients, as weights that can be changed
    change_one(visit, before)
    change_parts_and_take_one_back(visit)
    slope_and_reset(visit, before)
    choose_preset(visit)
    expect_weights(visit, Q, before)
    choose_method_without_weights_and_convert(visit)
    expect_weights(visit, UP, [0] * 3)
    expect_weights(visit, Q, before)

    open_tab(visit, "#forecast", "Recipe")
    expect(visit.locator("#recipe-text")).to_contain_text("merge_method: task_arithmetic")
    expect(visit.locator("#recipe-text")).to_contain_text("filter:")
    sample(visit)
    assert not (workplace / "by-hand").exists()
    visit.locator("#output input, #output textarea").fill("by-hand")
    visit.locator("#run").click()
    expect(visit.locator("#merge-status")).to_contain_text("Merged.", timeout=120_000)
    merged, base = tensors("by-hand", workplace), tensors("base")
    assert torch.equal(merged[UP], base[UP])
    steps = sum(
        weight * (tensors(name)[Q].double() - base[Q].double()) for name, weight in zip(NAMES, before, strict=True)
    )
    torch.testing.assert_close(merged[Q].double(), base[Q].double() + steps, rtol=0.01, atol=1e-3)


def pick_by_labels(visit: Page) -> None:
    """Click labels of layers, modules and experts, each of which picks all of it, and press their keys."""
    drawn(visit, "#norms")
    before = coefficients(visit)

    label = visit.locator("#norms .ytick text").get_by_text("layer 1", exact=True)
    assert label.evaluate("text => getComputedStyle(text).cursor") == "pointer"
    label.click()
    picked = visit.locator("#edit-picked")
    expect(picked).to_contain_text("layer 1, all experts")
    expect(visit.locator("#edit-part").get_by_label("its layer")).to_be_checked()
    expect(visit.locator("#edit-who").get_by_label("all experts")).to_be_checked()
    visit.locator("#edit-change").get_by_label("zero").click()
    visit.locator("#edit-apply").click()
    expect_weights(visit, Q, [0] * 3)
    assert coefficients(visit) == {
        tensor: [0] * 3 if ".layers.1." in tensor else weights for tensor, weights in before.items()
    }

    visit.locator("#weights .xtick text").get_by_text("bible", exact=True).click()
    expect(picked).to_contain_text("the whole model of bible")
    expect(visit.locator("#edit-part").get_by_label("the model")).to_be_checked()
    expect(visit.locator("#edit-who").get_by_label("this expert")).to_be_checked()
    visit.locator("#weights .ytick text").get_by_text("layer 3", exact=True).click()
    expect(picked).to_contain_text("layer 3, all experts")
    visit.locator("#norms .annotation").get_by_text("python", exact=True).click()
    expect(picked).to_contain_text("the whole model of python")
    visit.locator("#norms .x3tick text").get_by_text("gate", exact=True).click()
    expect(picked).to_contain_text("module gate, all experts")

    visit.locator("#norms .pv-box").focus()
    for key in ("ArrowRight", "ArrowDown", "Shift+Enter"):
        visit.keyboard.press(key)
    expect(picked).to_contain_text("layer 1, all experts")
    visit.keyboard.press("Control+Enter")
    expect(picked).to_contain_text("module q, all experts")
    visit.keyboard.press("Enter")
    expect(picked).to_contain_text(f"{Q} of shakespeare")
    expect(visit.locator("#edit-part").get_by_label("this tensor")).to_be_checked()


def coefficients(page: Page) -> dict[str, list[float]]:
    """All coefficients that the page shows, by tensor."""
    trace = figure(page, "#weights")[0]
    return {cells[0]: row for cells, row in zip(trace["cells"], trace["z"], strict=True) if cells[0]}
