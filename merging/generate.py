"""Text from base, experts and merge, side by side: the same prompt, the same seed, one token of each in turn."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from merging import space
from merging.adapter import open_base, open_expert
from merging.errors import MergeError
from merging.lazy import torch
from merging.loading import Loaded, load, load_unwritten, memory_of, told_of
from merging.templating import rendered

if TYPE_CHECKING:
    from merging.unwritten import Unwritten

MERGE = "a merge in memory"  # among the keys of models, of which all others are paths
LONGEST = 100_000  # characters of a prompt
LIMIT = 0.5  # share of the memory free at the time that loaded models may fill


@dataclass(frozen=True)
class Ask:
    """What every model is asked. At temperature 0 each model takes its most likely token."""

    prompt: str
    temperature: float = 0.7
    top_p: float = 0.95
    length: int = 120
    seed: int = 0
    chat: bool = False  # put the prompt through the model's chat template

    def checked(self) -> Ask:
        for label, value, low, high in (
            ("Temperature", self.temperature, 0, 2),
            ("Top-p", self.top_p, 0.05, 1),
            ("Length", self.length, 1, 2048),
            ("Seed", self.seed, 0, 2**32 - 1),
        ):
            if not low <= value <= high:
                raise MergeError(f"{label} must be between {low} and {high}, but it is {value}.")
        if len(self.prompt) > LONGEST:
            raise MergeError(
                f"The prompt has {len(self.prompt):,} characters, and {LONGEST:,} can be asked. Shorten it."
            )
        return self


@dataclass(frozen=True)
class Answer:
    """What one model has said so far, and why it says no more where something is wrong."""

    text: str = ""
    state: Literal["waiting", "loading", "answering", "done"] = "waiting"
    note: str = ""  # what the reader should know
    error: str = ""


class Asked(NamedTuple):
    """A model that is wanted on the shelf, and how it gets there."""

    key: tuple[Any, ...]
    name: str
    size: int
    made: Callable[[], Loaded]


@dataclass
class Shelf:
    """Models in memory, shared by all visitors: the least recently used goes first when room is needed."""

    device: str = "cpu"
    models: OrderedDict[tuple[Any, ...], Loaded] = field(default_factory=OrderedDict)
    lock: threading.RLock = field(default_factory=threading.RLock)  # held for a moment, to look or to put
    loading: threading.Lock = field(default_factory=threading.Lock)  # whose turn it is

    def take(self, model: Path | Unwritten, base: Path) -> Loaded:
        """The model at that path, or a merge; `base` gives config and tokenizer where it has none of its own.

        One is loaded at a time, since transformers sets the default dtype of all threads meanwhile. Who wants a model
        that is here does not wait for that.
        """
        key, name, size, made = self._model(model, base) if isinstance(model, Path) else self._merge(model)
        if found := self._found(key):
            return found
        with self.loading:
            if found := self._found(key):  # somebody else was before us
                return found
            with self.lock:
                self._make_room(key, size, name)
            loaded = made()
            loaded.model.to(self.device)
            with self.lock:
                self.models[key] = loaded
            return loaded

    def _found(self, key: tuple[Any, ...]) -> Loaded | None:
        with self.lock:
            if key in self.models:
                self.models.move_to_end(key)
            return self.models.get(key)

    def _model(self, path: Path, base: Path) -> Asked:
        ground = open_base(base)
        checkpoint = open_expert(path, ground)
        size = memory_of(checkpoint)
        key = (str(path), checkpoint.stamp, ground.stamp)
        return Asked(key, checkpoint.name, size, lambda: load(checkpoint, ground, size))

    def _merge(self, merge: Unwritten) -> Asked:
        size = memory_of(merge)
        return Asked((MERGE, merge.key), merge.name, size, lambda: load_unwritten(merge, size))

    def forget_merge(self) -> None:
        """Let the merge go: whoever changes settings and asks again has no use for the last one."""
        with self.lock:
            for key in [key for key in self.models if key[0] == MERGE]:
                del self.models[key]

    def clear(self) -> None:
        """Let all models go; those that are answering stay until they have."""
        with self.lock:
            self.models.clear()

    def room(self) -> float:
        """Bytes that models may fill, those that are here included."""
        with self.lock:
            return LIMIT * (free_memory() + sum(loaded.bytes for loaded in self.models.values()))

    def _make_room(self, key: tuple[Any, ...], size: int, name: str) -> None:
        if key[0] == MERGE:
            self.forget_merge()
        room = self.room()
        while self.models and sum(loaded.bytes for loaded in self.models.values()) + size > room:
            self.models.popitem(last=False)
        if size > (free := free_memory()):
            raise MergeError(
                f"{name} needs {size / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free. Sample a smaller model."
            )


SHELF = Shelf()


def free_memory() -> int:
    """Bytes that can be had without swapping. Linux tells; elsewhere half of all memory is taken for free."""
    if space.here():
        return space.memory_left()
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 8 << 30  # Windows does not say


def answers(
    models: Sequence[Path | Unwritten],
    base: Path,
    ask: Ask,
    stop: threading.Event | None = None,
    shelf: Shelf | None = None,
) -> Iterator[list[Answer]]:
    """What all models, on disk or merged in memory, have said so far, every time each has said one more token.

    Models answer together while they fit the memory together, else one after another. A model that cannot answer says
    why and keeps no other from answering.
    """
    ask.checked()
    stop, shelf = stop or threading.Event(), shelf or SHELF
    told = [Answer() for _ in models]
    for batch in _batches(models, base, shelf):
        streams = {}
        for index in batch:
            if stop.is_set():
                return
            told[index] = Answer(state="loading")
            yield list(told)
            try:
                streams[index] = _stream(shelf.take(models[index], base), ask)
            except MergeError as error:
                told[index] = Answer(state="done", error=str(error))
        while streams and not stop.is_set():
            for index in list(streams):
                told[index] = _next(streams[index], told[index])
                if told[index].state == "done":
                    del streams[index]
            yield list(told)
    yield list(told)


def _next(stream: Iterator[Answer], before: Answer) -> Answer:
    try:
        with told_of("It", "could not answer"):  # torch says so, too, when a model's numbers are not finite
            return next(stream, replace(before, state="done"))
    except MergeError as error:
        return replace(before, state="done", error=str(error))


def _batches(models: Sequence[Path | Unwritten], base: Path, shelf: Shelf) -> Iterator[list[int]]:
    """Models that fit the memory together, each at least alone."""
    batch: list[int] = []
    filled = 0
    for index, model in enumerate(models):
        try:
            size = memory_of(open_expert(model, open_base(base)) if isinstance(model, Path) else model)
        except MergeError:
            size = 0  # it will say why when it is its turn
        if batch and filled + size > shelf.room():
            yield batch
            batch, filled = [], 0
        batch.append(index)
        filled += size
    yield batch


def _stream(loaded: Loaded, ask: Ask) -> Iterator[Answer]:
    """The model's answer as it grows by a token at a time."""
    model, tokenizer = loaded.model, loaded.tokenizer
    tokens, note = _prompt_tokens(loaded, ask)
    generator = torch.Generator().manual_seed(ask.seed)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    said: list[int] = []
    past = None
    rows = model.get_input_embeddings().weight.shape[0]
    one = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}  # not the prompt's
    for _ in range(ask.length):
        if max(tokens) >= rows:
            words = f"The tokenizer gives a token the row {max(tokens):,}, and the model has {rows:,} rows"
            raise MergeError(f"{words}. Put the tokenizer that belongs to it into its folder.")
        with torch.inference_mode():  # left before every answer: it is the thread's, whoever else works there meanwhile
            seen = torch.tensor([tokens], device=model.device)
            out = model(input_ids=seen, past_key_values=past, use_cache=True, **one)
            past = out.past_key_values
            token = _draw(out.logits[0, -1].float().cpu(), ask, generator)
        if token in ends:
            return
        said.append(token)
        tokens = [token]
        yield Answer(tokenizer.decode(said, skip_special_tokens=True), "answering", note)


def _prompt_tokens(loaded: Loaded, ask: Ask) -> tuple[list[int], str]:
    """The prompt's tokens, and a note where only the last of them can be seen."""
    tokenizer, config = loaded.tokenizer, loaded.model.config
    note = "It has no chat template, and was asked without one." if ask.chat and not tokenizer.chat_template else ""
    wrapped = ask.chat and not note
    tokens = _templated(tokenizer, ask.prompt) if wrapped else list(tokenizer(ask.prompt)["input_ids"])
    if not tokens:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise MergeError("The prompt is empty. Write one.")
        tokens = [start]
    room = getattr(config, "max_position_embeddings", 0) or len(tokens) + ask.length
    if ask.length >= room:
        raise MergeError(f"The model can only see {room} tokens. Lower the length below that.")
    room = min(room, ask.length + space.TOKENS) if space.here() else room
    seen = tokens[-(room - ask.length) :]
    cut = len(tokens) - len(seen)
    short = space.here() and len(seen) == space.TOKENS
    who = f"this Space lets a model see, which is {space.TOKENS:,}" if short else "the model can see"
    return seen, f"The first {cut:,} tokens of the prompt are beyond what {who}." if cut else note


def _templated(tokenizer: Any, prompt: str) -> list[int]:
    names = {name: told for name, told in tokenizer.special_tokens_map.items() if isinstance(told, str)}
    text = rendered(tokenizer.get_chat_template(), prompt, tuple(sorted(names.items())))
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _draw(logits: Any, ask: Ask, generator: Any) -> int:
    if ask.temperature == 0:
        return int(logits.argmax())
    chances, tokens = (logits / ask.temperature).softmax(0).sort(descending=True)
    kept = chances.cumsum(0) - chances < ask.top_p  # the fewest likely tokens that make up top_p
    drawn = torch.multinomial(chances * kept, 1, generator=generator)
    return int(tokens[drawn])
