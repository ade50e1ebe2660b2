"""Merges in memory: what a merge would write, tensor by tensor, without a file of it, to be sampled before."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.companions import config_of, generation_of
from merging.crew import Crew, crew
from merging.engine import stored_as, team_of
from merging.errors import MergeError
from merging.generate import LIMIT, SHELF, free_memory
from merging.header import SIZES, Entry, dtype_of
from merging.lazy import torch
from merging.plan import Plan
from merging.preflight import Preflight, check
from merging.progress import Clock, Step
from merging.provenance import mark_of
from merging.ranking import NotFiniteError
from merging.recipe import Recipe
from merging.run import Run
from merging.sizes import in_bytes, in_words
from merging.workplace import Workplace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

NAME = "the merge as it stands"
ENDLESS = 1 << 62  # bytes, where memory is not what is looked at


@dataclass(frozen=True)
class Unwritten:
    """A merge in memory: its tensors by name, of the bytes that would be written, and what would stand beside them."""

    key: str  # of the recipe, and of the files that it reads as they were
    tensors: dict[str, Tensor]
    work: Plan
    config: dict[str, Any]  # as its config.json would be
    generation: dict[str, Any] | None  # likewise its generation_config.json; None where it would have none
    chat_template: str  # Jinja; empty: its tokenizer's own
    seconds: float  # that it took
    warnings: tuple[str, ...]
    name: str = NAME

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values() if tensor.is_floating_point())

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Buffers:
    """The tensors of a result as they are filled, by any thread, in memory."""

    def __init__(self, entries: list[Entry]) -> None:
        self.placed = {entry.name: entry for entry in entries}
        self.tensors = {entry.name: torch.empty(entry.shape, dtype=dtype_of(entry)) for entry in entries}
        self.bytes = {name: tensor.reshape(-1).view(torch.uint8).numpy() for name, tensor in self.tensors.items()}
        self.left = {entry.name: entry.size for entry in entries}
        self.lock = threading.Lock()

    def place(self, entry: Entry, start: int) -> None:
        """There is no file."""

    def note(self, entry: Entry, start: int, values: Any) -> None:
        """Nothing is put into files, so there is nothing to note."""

    def write(self, entry: Entry, start: int, tile: Any) -> None:
        """Put a tile of a tensor, laid flat, at its place, from entry number `start` on."""
        at = start * SIZES[entry.dtype]
        self.bytes[entry.name][at : at + tile.nbytes] = tile.reshape(-1).view(np.uint8)

    def complete(self, name: str, entries: int) -> bool:
        """Note that so many entries of a tensor were written; whether that was the last of it."""
        with self.lock:
            self.left[name] -= entries
            return self.left[name] == 0

    def checksum(self, name: str) -> str:
        """None is taken."""
        return ""


@dataclass
class Keep:
    """The last merge in memory, which only one thread makes at a time. It follows from files alone."""

    last: Unwritten | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def turn(self, stop: threading.Event | None) -> Iterator[None]:
        """Wait for the others, unless asked to stop meanwhile."""
        while not self.lock.acquire(timeout=0.1):
            Crew(stop=stop).listen()
        try:
            yield
        finally:
            self.lock.release()


KEEP = Keep()


def merged_in_memory(
    recipe: Recipe,
    listen: Callable[[Step], None] | None = None,
    stop: threading.Event | None = None,
    budget: int | str | None = None,
    workers: int | None = None,
) -> Unwritten:
    """What `engine.merge` would write of this recipe, byte for byte, without a file; blocking.

    `budget` is the memory that it may take, in bytes or as "4GB": half of what is free if none is named. The last
    merge is kept, and given back when it is asked for again and no file of its models has changed. MergeError names
    every problem there is, or the sizes where it does not fit; MergeStopped when asked to stop. `listen` may be called
    by any thread, one at a time.
    """
    if recipe.makes == "adapter":
        words = "This recipe makes an adapter, which is no model to sample"
        raise MergeError(f"{words}. Merge it into a folder, or make a model (`result: model`).")
    with KEEP.turn(stop):
        found = _checked(recipe, ENDLESS, workers)
        assert found.plan
        mark = partial(mark_of, {"recipe": recipe.to_yaml(Path.cwd())}, found.plan, 0, "memory")
        key = mark()
        if KEEP.last is None or KEEP.last.key != key:
            KEEP.last = None  # before there is another one, or both would be in memory
            SHELF.forget_merge()
            room = _room(found.bytes_out, budget)
            _checked(recipe, room, workers)
            made = _made(recipe, found.plan, key, room, workers, listen, stop)
            if mark() != key:
                raise MergeError("A model was changed while it was merged. Merge again when nothing writes to it.")
            KEEP.last = replace(made, warnings=(*found.warnings, *made.warnings))
        return KEEP.last


def forget() -> None:
    """Give the memory of the last merge back."""
    KEEP.last = None


def _room(size: int, budget: int | str | None) -> int:
    """The bytes that are left to work in beside a result of that size, for which models that were sampled make room."""
    allowed = int(LIMIT * free_memory()) if budget is None else in_bytes(budget)
    if size >= allowed and budget is None:
        SHELF.clear()
        allowed = int(LIMIT * free_memory())
    if size >= allowed:
        words = f"The merged model takes {in_words(size)} of memory, and {in_words(allowed)} may be used"
        raise MergeError(f"{words}. Merge it into a folder, and sample that.")
    return allowed - size


def _checked(recipe: Recipe, room: int, workers: int | None) -> Preflight:
    """What is known of the merge, which may work in so many bytes; MergeError with all that is in its way."""
    found = check(recipe, memory=room, workers=workers)
    if found.problems:
        raise MergeError("\n".join(found.problems))
    return found


def _made(
    recipe: Recipe,
    work: Plan,
    key: str,
    room: int,
    workers: int | None,
    listen: Callable[[Step], None] | None,
    stop: threading.Event | None,
) -> Unwritten:
    clock, settings = Clock(), recipe.settings()
    hands, whole, left = team_of(work, settings, room, workers)
    buffers = Buffers([stored_as(entry, recipe.out_dtype) for entry in work.written])
    nowhere = Workplace(Path(), io.StringIO())
    with crew(hands, stop) as team:
        run = Run(work, settings, team, "cpu", buffers, nowhere, whole, left, listen)
        with closing(run.stream.files):
            try:
                run.all(clock)
            except NotFiniteError as error:
                raise run.blame(error.name) from None
        run.progress.finish()
    config, generation = config_of(work, recipe.out_dtype), generation_of(work)
    template = "" if recipe.chat_template == "auto" else recipe.chat_template
    told = tuple(run.warnings())
    return Unwritten(key, buffers.tensors, work, config, generation, template, clock.total, told)
