"""What was collected of experts by running them over text: read from the files beside them, run by run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from merging.checkpoint import Checkpoint, open_checkpoint
from merging.errors import MergeError
from merging.header import Entry
from merging.lazy import torch
from merging.plan import Plan
from merging.renaming import matches
from merging.rows import Gathered

if TYPE_CHECKING:
    from torch import Tensor

ENDING = ".statistics.safetensors"
FISHER, INPUTS = "fisher.", "inputs."  # what the names of tensors begin with, before those that they are about
WORDS = {FISHER: "the Fisher information of", INPUTS: "what goes into"}


def beside(model: str | Path) -> Path:
    """Where the statistics of a model are: next to its folder or file, under its name."""
    path = Path(os.path.abspath(Path(model).expanduser()))
    return path.with_name((path.name if path.is_dir() else path.stem) + ENDING)


def open_collected(model: Path, expert: Checkpoint, base: Path | None, title: str) -> Checkpoint:
    """The statistics of an expert, under its names and in the order of its rows.

    MergeError says how to make them where there are none.
    """
    file = beside(model)
    if not file.is_file():
        words = f"{title} needs statistics of `{model}`, and there is no {file}"
        more = f" --base {base}" if expert.adapter else ""
        raise MergeError(f"{words}. Collect them: python -m merging collect {model} TEXT{more}.")
    try:
        found = open_checkpoint(file)
    except MergeError as error:
        words = str(error).replace(" Download it again.", "").replace(" Download the file again.", "")
        raise MergeError(f"{words} Collect these statistics again.") from error
    new: dict[str, str] = {}
    for kind in (FISHER, INPUTS):
        known = [name.removeprefix(kind) for name in found.entries if name.startswith(kind)]
        new |= {kind + name: kind + other for name, other in matches(known, expert.entries).items()}
    return _gathered(replace(found, entries={new.get(name, name): e for name, e in found.entries.items()}), expert)


def _gathered(found: Checkpoint, expert: Checkpoint) -> Checkpoint:
    """The same with the Fisher information of those rows of the expert that were matched by their tokens."""
    entries, made = dict(found.entries), dict(found.made)
    for name, rows in expert.made.items():
        if not isinstance(rows, Gathered) or not (entry := entries.pop(FISHER + name, None)):
            continue
        own = rows.sources[0]  # what it has no row for has no information
        if entry.shape == own.model.entries[name].shape:
            entries[FISHER + name] = replace(entry, shape=expert.entries[name].shape)
            made[FISHER + name] = Gathered(rows.shape, (replace(own, model=found, name=FISHER + name),), ())
    return replace(found, entries=entries, made=made)


def lacking(work: Plan, title: str, kind: str) -> Iterator[str]:
    """A sentence for each expert whose statistics do not fit its tensors, which names the first of these.

    Information is needed of every tensor; inputs of those that some expert has them of, and of one at least.
    """
    told = [name for name in work.merged if any(kind + name in file.entries for file in work.collected)]
    for index, (expert, file) in enumerate(zip(work.experts, work.collected, strict=True)):
        wanted = [name for name in (work.merged if kind == FISHER else told) if index in work.merged[name]]
        bad = next((name for name in wanted if not _fits(file.entries.get(kind + name), work, name, kind)), "")
        if bad or not wanted:
            what = f"{WORDS[kind]} `{bad}`" if bad else f"{WORDS[kind]} linear layers"
            has = "has other numbers for it" if kind + bad in file.entries else "does not tell that"
            words = f"{title} needs {what}, and {file.path.name} {has}"
            yield f"{words}. Collect the statistics of {expert.name} again, or choose another method."


def _fits(entry: Entry | None, work: Plan, name: str, kind: str) -> bool:
    shape = work.base.entries[name].shape
    square = len(shape) == 2 and (shape[1], shape[1])
    return entry is not None and entry.floating and entry.shape == (shape if kind == FISHER else square)


def of_tensor(work: Plan, name: str) -> Collected | None:
    """The statistics of the experts that have a tensor, where the method asks for them."""
    if not work.collected:
        return None
    return Collected(tuple(work.collected[index] for index in work.merged[name]), name)


@dataclass(frozen=True)
class Collected:
    """The statistics of the experts that have one tensor."""

    files: tuple[Checkpoint, ...]
    name: str

    def information(self, start: int, stop: int) -> Tensor:
        """Entries `start` to `stop` of the diagonal Fisher information, (experts, entries), float32."""
        return torch.stack([_read(file, FISHER + self.name, start, stop, least=0.0) for file in self.files])

    def inputs(self) -> tuple[Callable[[], Tensor], ...]:
        """What reads the inner products of a linear layer's inputs, (columns, columns), for each expert; or nothing.

        Nothing where the tensor is no linear layer's.
        """
        name = INPUTS + self.name
        return tuple(partial(_products, file, name) for file in self.files if name in file.entries)


def _products(file: Checkpoint, name: str) -> Tensor:
    found = _read(file, name, 0, file.entries[name].size).reshape(file.entries[name].shape)
    if (found.diagonal() < 0).any():
        raise MergeError(_wrong(file, name))
    return found


def _read(file: Checkpoint, name: str, start: int, stop: int, least: float = float("-inf")) -> Tensor:
    """Numbers of a file as float32; MergeError where some are less, or not finite."""
    numbers = file.read(name, start, stop).float()
    low, high = numbers.aminmax()
    if not (low >= least and low > float("-inf") and high < float("inf")):
        raise MergeError(_wrong(file, name))
    return numbers


def _wrong(file: Checkpoint, name: str) -> str:
    words = f"`{name}` in {file.path} holds numbers that nothing gives which is collected: NaN, infinite or negative"
    return f"{words}. Collect these statistics again."
