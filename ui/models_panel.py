"""Step 1, Models: choose a base and experts, and read at once what they are and whether they fit."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from merging.adapter import applied, describe, is_adapter, open_base
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.errors import MergeError
from merging.plan import misfit
from ui import family
from ui.errors import notice


@dataclass(frozen=True)
class Selection:
    """The models a visitor has chosen; `fitting` are the experts that can be merged into the base."""

    base: str = ""
    experts: tuple[str, ...] = ()
    fitting: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # of the fitting experts
    key: tuple[Any, ...] = ()  # what the comparison of base and fitting experts follows from

    @property
    def ready(self) -> bool:
        return bool(self.base and self.fitting)


@dataclass(frozen=True)
class Models:
    """The components that other panels listen to."""

    base: gr.Dropdown
    experts: gr.Dropdown
    table: gr.HTML
    selection: gr.State


def models_panel(folder: Path | None) -> Models:
    listed = family.choices(folder)
    with gr.Row():
        base = gr.Dropdown(
            listed, value=str(family.BASE), label="Base model", allow_custom_value=True, elem_id="base",
            info="The model that the experts were fine-tuned from. Choose one, or type a path and press Enter.",
        )  # fmt: skip
        experts = gr.Dropdown(
            listed, value=[str(path) for path in family.EXPERTS], label="Experts", multiselect=True,
            allow_custom_value=True, elem_id="experts",
            info="Fine-tuned models or LoRA adapters: a folder, or a lone .safetensors file.",
        )  # fmt: skip
    table = gr.HTML(elem_id="models-table", padding=False)
    return Models(base, experts, table, gr.State(Selection()))


def read_models(base: str | None, experts: list[str] | None) -> tuple[str, Selection]:
    """The table of the chosen models, from their headers alone, and which of them fit."""
    paths = list(dict.fromkeys(path.strip() for path in experts or [] if path.strip()))
    base = (base or "").strip()
    if not base:
        return notice("No base model is chosen. Choose one to see what the experts changed.", "info"), Selection()
    opened = _open(base, open_base)
    rows = [_row("Base", base, opened, "")]
    fitting, names, key = [], [], []
    for path in paths:
        expert = _open(path)
        problem = ""
        if isinstance(expert, Checkpoint) and isinstance(opened, Checkpoint):
            problem = _problem(opened, expert)
            if not problem:
                fitting.append(path)
                names.append(expert.name)
                key.append(expert.stamp)
        rows.append(_row("Expert", path, expert, problem))
    if isinstance(opened, Checkpoint) and not opened.config:
        rows.append(_note("The base has no config.json, so the merge will have none and cannot be sampled."))
    hint = "" if paths else notice("No expert is chosen. Add at least one to see its task vector.", "info")
    if not isinstance(opened, Checkpoint):
        return _table(rows) + hint, Selection()
    stamps = (opened.stamp, *key)
    return _table(rows) + hint, Selection(base, tuple(paths), tuple(fitting), tuple(_distinct(names)), stamps)


def _open(path: str, how: Callable[[str], Checkpoint] = open_checkpoint) -> Checkpoint | MergeError:
    try:
        model = how(path)
        if is_adapter(model):
            describe(model)  # its config can be read
        return model
    except MergeError as error:
        return error
    except OSError as error:
        return MergeError(f"{path} could not be opened ({error}). Check the path.")


def _problem(base: Checkpoint, expert: Checkpoint) -> str:
    try:
        return misfit(base, applied(expert, base) if is_adapter(expert) else expert)
    except MergeError as error:
        return str(error)


def _distinct(names: list[str]) -> list[str]:
    """The names, numbered where two models are called the same."""
    return [f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _row(role: str, path: str, model: Checkpoint | MergeError, problem: str) -> str:
    if isinstance(model, MergeError):
        cells = [f"<b>{html.escape(Path(path).name or path)}</b>{_bad(str(model))}", *["–"] * 5]
    else:
        fits = _bad(problem) if problem else ""
        name = f'<b>{html.escape(model.name)}</b><span class="path">{html.escape(_shown(path))}</span>{fits}'
        dtypes = " + ".join(model.dtypes) or "no floats"
        kind = describe(model) if is_adapter(model) else model.architecture
        architecture = html.escape(kind or "no config")
        cells = [name, architecture, f"{len(model.entries):,}", _count(model.parameters), dtypes, _bytes(model.bytes)]
    tone = ' class="misfit"' if problem or isinstance(model, MergeError) else ""
    return f"<tr{tone}><td>{role}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _shown(path: str) -> str:
    """The path as it was given; the embedded family's from the project's folder on."""
    root = family.ZOO.parent
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def _note(text: str) -> str:
    return f'<tr><td></td><td colspan="6">{notice(text, "warning")}</td></tr>'


def _bad(problem: str) -> str:
    return f'<span class="problem">{html.escape(problem)}</span>'


def _table(rows: list[str]) -> str:
    heads = ("", "Model", "Architecture", "Tensors", "Parameters", "Dtype", "Size")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="models">{body}</table></div>'


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def _bytes(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} bytes"
