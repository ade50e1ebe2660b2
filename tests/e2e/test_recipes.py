"""Recipes in a browser: shown, downloaded, linked to, and opened: dropped, chosen, by path, and from an address."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect

from merging.engine import merge
from merging.recipe import Recipe, load_recipe
from tests.e2e.conftest import ROOT, choose_method, choose_models, drawn, expect_weights, open_tab, saved, set_number

pytestmark = pytest.mark.e2e

ZOO = ROOT / "zoo"
Q = "model.layers.1.self_attn.q_proj.weight"
ADDITION = ("One number per tensor", "Task arithmetic")


def test_a_recipe_goes_out_as_a_file_and_in_a_link_and_comes_back(watched: Page, app_url: str) -> None:
    page = watched
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=app_url.rstrip("/"))
    page.goto(app_url)
    drawn(page, "#weights")
    choose_models(page, ZOO / "base", [ZOO / "bible", ZOO / "python"])
    choose_method(page, *ADDITION)
    set_number(page, "task_arithmetic-lambda", "0.7")
    weight = page.get_by_role("spinbutton", name="Weight of python")
    weight.fill("0.5")
    weight.press("Enter")
    expect_weights(page, Q, [0.7, 0.35])

    open_tab(page, "#forecast", "Recipe")
    expect(page.locator("#recipe-text")).to_contain_text("weight: 0.5")
    name, text = saved(page, page.locator("#recipe-save"))
    assert name == "recipe.yaml"
    told = yaml.safe_load(text)
    assert told["merge_method"] == "task_arithmetic"
    assert [model["parameters"]["weight"] for model in told["models"]] == [1.0, 0.5]
    name, text = saved(page, page.locator("#recipe-mergekit"))
    assert name == "mergekit.yaml"
    assert yaml.safe_load(text)["parameters"]["lambda"] == 0.7

    page.locator("#recipe-link").click()
    expect(page.locator("#recipe-unsaved")).to_contain_text("The link is copied.")
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('?recipe=')")
    link = page.evaluate("navigator.clipboard.readText()")
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('denied')); }")
    page.locator("#recipe-link").click()
    expect(page.locator("#recipe-unsaved")).to_contain_text("The browser does not let it be copied.")
    expect(page.locator("#recipe-unsaved code")).to_have_text(link)
    page.goto(link)
    expect(page.locator("#recipe-opened .notice")).to_have_count(1)
    expect_weights(page, Q, [0.7, 0.35])
    expect(page.locator("#models-table tbody tr")).to_have_count(3)
    expect(page.get_by_role("spinbutton", name="Weight of python")).to_have_value("0.5")


def drag(page: Page, path: Path) -> None:
    """Drag a file or a folder from outside the browser to the zone, and let it go there."""
    zone, session = page.locator("#recipe-drop .drop-zone"), page.context.new_cdp_session(page)
    over = page.locator("#recipe-drop .drop-zone.over")
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    zone.hover()  # which waits until it stands still
    for kind in ("dragEnter", "dragOver", "drop"):
        box = zone.bounding_box()
        assert box
        middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        session.send("Input.dispatchDragEvent", {"type": kind, **middle, "data": data})
        if kind == "dragOver":
            expect(over).to_be_visible()
    expect(over).to_have_count(0)
    session.detach()


def test_merged_models_are_dropped_as_folders(visit: Page, tmp_path: Path) -> None:
    ours, kits, bare = tmp_path / "ours", tmp_path / "kits", tmp_path / "bare"
    experts = (ZOO / "shakespeare", ZOO / "python")
    merge(Recipe("ties", ZOO / "base", experts, values={"density": 0.3}), ours)
    for folder in (kits, bare):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    models = [{"model": str(ZOO / name), "parameters": {"weight": 2}} for name in ("bible", "python")]
    told = {"merge_method": "task_arithmetic", "base_model": str(ZOO / "base"), "models": models}
    (kits / "mergekit_config.yml").write_text(yaml.safe_dump(told))
    open_tab(visit, "#forecast", "Recipe")
    opened, method = visit.locator("#recipe-opened"), visit.locator("#method")

    drag(visit, ours)
    expect(opened).to_contain_text("ours is open: TIES-Merging of 2 experts.")
    expect(visit.locator("#ties-density input[type=number]")).to_have_value("0.3")
    expect(visit.locator("#models-table tbody b")).to_have_text(["base", "shakespeare", "python"])
    drag(visit, kits)
    expect(opened).to_contain_text("kits is open: Task arithmetic of 2 experts.")
    expect(visit.get_by_role("spinbutton", name="Weight of bible")).to_have_value("2")
    expect(visit.locator("#models-table tbody b")).to_have_text(["base", "bible", "python"])
    (ours / "mergescope.yaml").unlink()  # the header of its weights tells it, too
    drag(visit, ours)
    expect(opened).to_contain_text("ours is open: TIES-Merging of 2 experts.")
    expect(method.get_by_label("TIES-Merging", exact=True)).to_be_checked()
    drag(visit, bare)
    expect(opened.locator(".notice.error")).to_contain_text("bare holds no recipe.")
    expect(method.get_by_label("TIES-Merging", exact=True)).to_be_checked()


def test_recipes_of_ours_of_mergekits_and_in_merged_models_are_opened(visit: Page, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    experts = (ZOO / "shakespeare", ZOO / "python")
    merge(Recipe("ties", ZOO / "base", experts, values={"density": 0.3, "lambda": 0.9}), merged)
    foreign = tmp_path / "foreign.yml"
    models = [
        {"model": str(ZOO / name), "parameters": {"weight": weight}} for name, weight in (("bible", 1), ("python", 2))
    ]
    foreign.write_text(
        yaml.safe_dump({"merge_method": "task_arithmetic", "base_model": str(ZOO / "base"), "models": models})
    )
    own = tmp_path / "own.yaml"
    own.write_text(load_recipe(merged / "mergescope.yaml").to_yaml(tmp_path).replace("density: 0.3", "density: 0.4"))
    (tmp_path / "notes.yaml").write_text("a: recipe for soup")
    open_tab(visit, "#forecast", "Recipe")
    drop, opened = visit.locator("#recipe-drop input[type=file]"), visit.locator("#recipe-opened")
    density, method = visit.locator("#ties-density input[type=number]"), visit.locator("#method")

    drop.set_input_files(foreign)
    expect(opened).to_contain_text("foreign.yml is open: Task arithmetic of 2 experts.")
    expect(method.get_by_label("Task arithmetic", exact=True)).to_be_checked()
    expect(visit.get_by_role("spinbutton", name="Weight of python")).to_have_value("2")
    drop.set_input_files(merged / "model.safetensors")
    expect(opened).to_contain_text("model.safetensors is open: TIES-Merging of 2 experts.")
    expect(density).to_have_value("0.3")
    expect(visit.locator("#recipe-text")).to_contain_text("merge_method: ties")

    drag(visit, own)
    expect(opened).to_contain_text("own.yaml is open")
    expect(density).to_have_value("0.4")
    prevented = """(place, kind) => {
      const told = new DataTransfer();
      if (kind === 'file') told.items.add(new File(['x'], 'x.yaml')); else told.setData('text/plain', 'x');
      return ['dragover', 'drop'].map((name) =>
        !place.dispatchEvent(new DragEvent(name, {dataTransfer: told, bubbles: true, cancelable: true})));
    }"""
    path = visit.locator("#recipe-path input, #recipe-path textarea")
    assert visit.locator("#title").evaluate(prevented, "file") == [True, True]  # it would take the page's place
    assert path.evaluate(prevented, "text") == [False, False]
    path.fill(str(merged))
    path.press("Enter")
    expect(density).to_have_value("0.3")

    drop.set_input_files(tmp_path / "notes.yaml")
    expect(opened.locator(".notice.error")).to_be_visible()
    expect(density).to_have_value("0.3")
    path.fill(str(tmp_path / "nowhere"))
    path.press("Enter")
    expect(opened.locator(".notice.error")).to_contain_text("nowhere")
    drop.focus()
    expect(visit.locator("#recipe-drop .drop-zone")).to_have_css("border-style", "dashed")
    assert drop.evaluate("input => input.matches(':focus-visible') && getComputedStyle(input).opacity === '0'")
