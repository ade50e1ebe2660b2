"""The recipe goes out, as a file or in a link, and comes in: dropped, by its path, or in the page's address."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from merging import space
from merging.edits import Edits
from merging.errors import MergeError
from merging.exporting import to_mergekit
from merging.hub.models import asked, donors
from merging.links import Roots, encode, opened
from merging.method import ADAPTERS, METHODS
from merging.recipe import Recipe, load_recipe
from ui.downloads import offer
from ui.draft import Draft, Opened, controls_of, placed
from ui.edit_panel import shown
from ui.errors import notice
from ui.events import PRIVATE, heard
from ui.finished import called
from ui.method_panel import chosen
from ui.models_panel import Selection
from ui.page import Page
from ui.visit import Visit

# Only the browser knows whether the link was copied: it says so itself, or shows the link.
COPY = """async (letters, said) => {
  if (!letters) return said;
  const address = new URL(window.location.href);
  address.search = '?recipe=' + letters;
  address.hash = '';
  try { await navigator.clipboard.writeText(address.href); return COPIED; } catch (error) { /* it may be forbidden */ }
  return BY_HAND.replace('LINK', address.href);
}"""
for key, words, kind in (
    ("COPIED", "The link is copied.", "good"),
    ("BY_HAND", "The browser does not let it be copied. Copy it from here: `LINK`", "info"),
):
    COPY = COPY.replace(key, json.dumps(notice(words, kind)))
BASELESS = "It names no base model, from which step 2 measures the experts. Choose one in step 1."
QUIETLY: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}


@dataclass(frozen=True)
class Filling:
    """Sets the page to a recipe: values for `outputs`."""

    page: Page

    @property
    def outputs(self) -> list[Any]:
        page = self.page
        merging = page.merging
        held = [merging.weights, merging.filled, page.draft]
        editing = page.forecast.editing
        changes = [editing.done, editing.undo, editing.redo, editing.reset]
        return [page.models.base, page.models.experts, *merging.form.values(), *held, *changes, page.forecast.opened]

    def unchanged(self) -> tuple[Any, ...]:
        return (gr.skip(),) * len(self.outputs)

    def refused(self, words: str) -> tuple[Any, ...]:
        return (*self.unchanged()[:-1], notice(words))

    def tried(self, read: Callable[[], Recipe], name: str = "") -> tuple[Any, ...]:
        """What is set by a recipe, with a word on it where it has a name; or what is wrong with it."""
        try:
            recipe = read()
        except MergeError as error:
            return self.refused(str(error))
        if twice := [str(path) for path in recipe.experts if recipe.experts.count(path) > 1]:
            return self.refused(
                f"The recipe has the expert {twice[0]} twice, and here it can be chosen once. Name it once."
            )
        form = self.page.merging.form
        told = controls_of(recipe, form)
        problems = asked(map(str, donors(recipe)))  # which no field of step 1 names
        return (
            str(recipe.base or ""),
            [str(path) for path in recipe.experts],
            chosen(recipe.method),
            *(told.get(key, gr.skip()) for key in form if key != "method"),
            json.dumps(dict(zip(map(str, recipe.experts), recipe.weights, strict=False))),
            object(),
            Draft(opened=Opened(recipe, told)),
            *shown({}, Edits()),
            _opened(name, recipe, problems.values()) if name else "",
        )


def wire(page: Page, roots: Roots) -> Filling:
    forecast, selection, filling = page.forecast, page.models.selection, Filling(page)
    tried, unchanged = filling.tried, filling.unchanged

    def offered() -> dict[str, str]:
        """The models at hand, by the names of their folders."""
        return {Path(str(path)).name: str(path) for _, path in page.models.base.choices}

    def recipe_of(models: Selection, values: tuple[Any, ...]) -> Recipe:
        return page.recipe(models, values, all_of_them=True)

    def on_save(models: Selection, *values: Any) -> tuple[str, str] | None:
        return ("recipe.yaml", recipe_of(models, values).to_yaml(Path.cwd())) if models.ready else None

    def on_mergekit(models: Selection, *values: Any) -> tuple[str, str] | None:
        return ("mergekit.yaml", to_mergekit(recipe_of(models, values))) if models.ready else None

    def on_link(models: Selection, *values: Any) -> tuple[str, str]:
        try:
            return encode(recipe_of(models, values), roots), ""
        except MergeError as error:
            return "", notice(str(error))

    def on_drop(visit: Visit, event: gr.EventData) -> tuple[Any, ...]:
        name, text = str(event.name)[:300], str(event.text)
        if not text.strip():
            return filling.refused(f"{name} holds no recipe. Drop a YAML file, or a model that Mergescope merged.")
        if past := visit.with_recipe(text):
            return tried(lambda: past.recipe, f"{name}, which is {called(past.report.out)} of this visit,")
        return tried(lambda: placed(load_recipe(f"{text}\n"), offered()), name)

    def on_path(path: str) -> tuple[Any, ...]:
        return tried(lambda: load_recipe(Path(path.strip())), path) if path.strip() else unchanged()

    def on_visit(request: gr.Request) -> str:
        return str(request.query_params.get("recipe", ""))

    def on_linked(letters: str) -> tuple[Any, ...]:
        return tried(lambda: opened(letters, roots), "The link")

    unsaved, inputs = forecast.unsaved, [selection]
    offer(forecast.save, unsaved, on_save, inputs, "application/yaml", page.with_form)
    offer(forecast.mergekit, unsaved, on_mergekit, inputs, "application/yaml", page.with_form)
    asked = page.with_form(heard(forecast.link.click), on_link, inputs, [forecast.linked, unsaved], **QUIETLY)
    asked.then(None, [forecast.linked, unsaved], unsaved, js=COPY, **PRIVATE)
    forecast.drop.dropped(on_drop, page.visit, filling.outputs, **QUIETLY)
    if not space.here():  # where nobody reads files by their paths
        forecast.path.submit(on_path, forecast.path, filling.outputs, **QUIETLY)
    linked = gr.State("")  # so that a page without one has nothing to fill
    page.demo.load(on_visit, None, linked, **QUIETLY)
    linked.change(on_linked, linked, filling.outputs, **QUIETLY)
    return filling


def _opened(name: str, recipe: Recipe, problems: Iterable[str]) -> str:
    title = (METHODS | ADAPTERS)[recipe.method].title
    warnings = [*recipe.warnings, *([] if recipe.base else [BASELESS]), *problems]
    odd = "".join(notice(warning, "warning") for warning in warnings)
    return notice(f"{name} is open: {title} of {len(recipe.experts)} experts.", "good") + odd
