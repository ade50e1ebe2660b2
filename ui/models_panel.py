"""Step 1, Models: choose a base and experts, and read at once what they are and whether they fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr

from merging import space
from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.hub.fetch import left_of
from merging.hub.models import asked, on_the_hub
from merging.hub.names import told_by_name
from merging.sizes import in_words
from merging.tokens import ADDED, FILE, OLDER
from merging.words import listed
from ui import family
from ui.errors import escaped, notice
from ui.hub_panel import HubParts, hub_panel
from ui.judging import Chosen, adapted, judged
from ui.models_table import Row, table


@dataclass(frozen=True)
class Selection:
    """The models a visitor has chosen; `fitting` are the experts that can be merged into the base."""

    base: str = ""
    experts: tuple[str, ...] = ()
    fitting: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # of the fitting experts
    key: tuple[Any, ...] = ()  # what the comparison of base and fitting experts follows from
    merged: tuple[str, ...] = ()  # the tensors that a merge of the fitting experts into the base would be of
    adapted: tuple[str, ...] = ()  # the tensors that a merge of the fitting experts into one adapter would be of
    hurdle: str = "No LoRA adapter is chosen in step 1."  # why there is no such merge; empty where there is one
    far: tuple[str, ...] = ()  # of base and fitting experts, those whose weights are still on the Hub
    far_bytes: int = 0  # to be downloaded of them

    @property
    def ready(self) -> bool:
        return bool(self.base and self.fitting)

    @property
    def here(self) -> bool:
        """Whether there is something to merge, and all of its weights are on this machine."""
        return self.ready and not self.far

    @property
    def by_path(self) -> dict[str, str]:
        """The names of the fitting experts by their paths."""
        return dict(zip(self.fitting, self.names, strict=True))


@dataclass(frozen=True)
class Models:
    """The components that other panels listen to."""

    base: gr.Dropdown
    experts: gr.Dropdown
    table: gr.HTML
    selection: gr.State
    hub: HubParts


def models_panel(folder: Path | None) -> Models:
    listed = family.choices(folder)
    ground, others = str(family.BASE), [str(path) for path in family.EXPERTS]
    typed, places = ("a name", "") if space.here() else ("a path or a name", "a folder, a file of weights, or ")
    if space.here():
        words = f"Of the Hub, a Space takes public models of up to {in_words(space.largest())} each."
        gr.HTML(f'<p class="caption">{words} {escaped(space.elsewhere("Larger and private ones"))}</p>', padding=False)
    with gr.Row():
        base = gr.Dropdown(
            listed, value=ground, label="Base model", allow_custom_value=True, elem_id="base",
            info=f"The model that the experts were fine-tuned from. Choose one, or type {typed} of the Hub.",
        )  # fmt: skip
        experts = gr.Dropdown(
            listed, value=others, label="Experts", multiselect=True,
            allow_custom_value=True, elem_id="experts",
            info=f"Fine-tuned models or LoRA adapters: {places}owner/name on the Hub.",
        )  # fmt: skip
    # Here from the start, since a table that came later would push everything below it down.
    table = gr.HTML(read_models(ground, others)[0], elem_id="models-table", padding=False)
    return Models(base, experts, table, gr.State(Selection()), hub_panel())


def choose(
    base: str | None, experts: list[str] | None, offered: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[Any, Any]]:
    """The table of the chosen models and the selection, when the Hub was asked about those that only it has.

    `offered` are paths by names of their folders, which a visitor may type, too.
    """
    base, paths = tidied(base, experts)
    base, *paths = (offered.get(path, path) if not os.path.exists(path) else path for path in (base, *paths))
    if space.here() and len(paths) > space.EXPERTS:
        yield (
            notice(f"A Space merges {space.EXPERTS} experts at most. Remove {len(paths) - space.EXPERTS}."),
            Selection(),
        )
        return
    far = on_the_hub([base, *paths])
    if far:
        yield notice(f"Asking the Hub about {listed([f'`{name}`' for name in far])}.", "info"), gr.skip()
    yield read_models(base, paths, asked([base, *paths]) if far else {})


def tidied(base: str | None, experts: list[str] | None) -> tuple[str, list[str]]:
    """The models that are named in the fields, each once; those of the Hub by their names."""
    paths = list(dict.fromkeys(_path(path.strip()) for path in experts or [] if path.strip()))
    return _path(base.strip()) if base and base.strip() else "", paths


def _path(told: str) -> str:
    """The path that was typed, or the name of the model whose address on the Hub was pasted."""
    try:
        return str(Path(told_by_name(told)))
    except MergeError:  # which is told where it is opened
        return told


def read_models(
    base: str | None, experts: list[str] | None, problems: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, Selection]:
    """The table of the chosen models, from their headers alone, and which of them fit.

    `problems` are what the Hub says against some, by path.
    """
    base, paths = tidied(base, experts)
    if not base:
        return notice("No base model is chosen. Choose one to see what the experts changed.", "info"), Selection()
    found = judged(base, paths, problems)
    shown = table([row("Base", found.base), *(row("Expert", expert) for expert in found.experts)], found.notes)
    if not paths:
        shown += notice("No expert is chosen. Add at least one to see its task vector.", "info")
    if not found.base.model:
        return shown, Selection()
    models = [expert.model for expert in found.fitting if expert.model]
    names = _distinct([model.name for model in models])
    stamps = (stamp(found.base.model), *map(stamp, models))
    fitting = tuple(expert.path for expert in found.fitting)
    left = {path: one.bytes for path in (base, *fitting) if (one := left_of(path))}
    told = fitting, tuple(names), stamps, tuple(found.merged), *adapted(found)
    return shown, Selection(base, tuple(paths), *told, far=tuple(left), far_bytes=sum(left.values()))


def row(role: str, chosen: Chosen) -> Row:
    """What the table says of a model."""
    return Row(role, chosen.path, chosen.opened, chosen.problem, tuple(chosen.notes))


def stamp(model: Checkpoint) -> tuple[Any, ...]:
    """What a comparison of the model follows from: its files, and the tokenizer by which its rows are matched."""
    files = [file for name in (FILE, *OLDER, ADDED) if (file := model.folder / name).is_file()]
    return *model.stamp, *((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _distinct(names: list[str]) -> list[str]:
    """The names, numbered where two models are called the same."""
    return [f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]
