"""Models that are read on the Hub while they are merged, of which nothing is kept: what is fetched, and how often."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from merging.caches import previews
from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.header import SIZES, Entry, dtype_of, size_on_the_hub
from merging.hub.ahead import Ahead, Bytes
from merging.hub.cached import commit_of, kept
from merging.hub.ranges import Ranged
from merging.lazy import torch
from merging.passes import readings
from merging.plan import Plan
from merging.settings import Settings
from merging.sizes import in_words
from merging.whole import whole_tensors

if TYPE_CHECKING:
    from torch import Tensor

OFTEN = 2  # times that a model may be fetched: more often, downloading it is what anyone would rather do
ASIDE = 256_000_000  # bytes at most, and a share of the memory at most, for what is fetched ahead
SHARE, SMALL = 4, 1 << 20
DOWNLOAD = "Download the models instead."
UNHASHED = f"Inputs that are streamed are read in parts, so that they have no SHA-256 to note. {DOWNLOAD}"
WHOLLY = f"Adapters that become one adapter are read again and again, so they cannot be streamed. {DOWNLOAD}"


@dataclass(frozen=True)
class Distant(Entry):
    """A tensor of a file on the Hub."""

    ahead: Ahead = field(repr=False, compare=False)

    @property
    def here(self) -> bool:
        return False

    def run(self, start: int, stop: int) -> Bytes:
        """Where entries `start` to `stop` are."""
        size = SIZES[self.dtype]
        return self.file, self.offset + start * size, self.offset + stop * size

    def read(self, start: int, stop: int) -> Tensor:
        data = self.ahead.read(*self.run(start, stop))
        return torch.frombuffer(data, dtype=dtype_of(self)) if data else torch.empty(0, dtype=dtype_of(self))


@dataclass(frozen=True)
class Fetching:
    """What a merge fetches of models on the Hub: the bytes that it reads of them, and those of all readings."""

    once: int
    bytes: int
    times: int  # that a tensor is read at most
    hurdle: str = ""  # why they cannot be streamed, in sentences; empty where they can

    @property
    def words(self) -> str:
        """What is fetched, without a full stop."""
        if self.times == 1:
            return f"{in_words(self.once)} from the Hub"
        return f"{in_words(self.once)} from the Hub {self.often} ({in_words(self.bytes)} in all)"

    @property
    def often(self) -> str:
        """That it is read so often, or, where this holds for a part of it only, up to so often."""
        some = "up to " if self.bytes < self.once * self.times else ""
        return f"{some}{'twice' if self.times == 2 else f'{self.times} times'}"


def fetching(work: Plan, settings: Settings | None) -> Fetching | None:
    """What a merge would fetch if it streamed the models that only the Hub has; None where there are none of them."""
    far = far_of(work)
    if not far:
        return None
    often = readings(work, settings, whole_tensors(work, settings)) if settings else {}
    there = bytes_there(work, not settings or settings.with_base)
    once, total = sum(there.values()), sum(size * often.get(name, 1) for name, size in there.items())
    found = Fetching(once, total, max((often.get(name, 1) for name, size in there.items() if size), default=1))
    return replace(found, hurdle=_hurdle(work, settings, found, far))


def _hurdle(work: Plan, settings: Settings | None, found: Fetching, far: Collection[Path]) -> str:
    if settings and settings.method.collects:
        return (
            f"{settings.method.title} needs statistics of the models, which are collected by running them. {DOWNLOAD}"
        )
    for model in (work.base, *work.experts):
        if any(file in far for made in model.made.values() for file in made.files):
            why = "is an adapter" if model.adapter else "has tensors that are worked out from others"
            return f"{model.name} {why}, for which bytes would be fetched again and again. {DOWNLOAD}"
    if settings and found.times > OFTEN:
        words = f"{settings.method.title} reads the weights {found.often}, so it would fetch {found.words}"
        return f"{words}. {DOWNLOAD}"
    return ""


def far_of(work: Plan) -> dict[Path, Ranged]:
    """The files of the models that are on the Hub, and not here."""
    models = (work.base, *work.experts)
    files = {file for model in models for file in model.files}
    return {file: found for file in files if (found := ranged(file))}


def bytes_there(work: Plan, with_base: bool) -> dict[str, int]:
    """The bytes on the Hub that one reading of each tensor takes."""
    far = far_of(work)
    names = [*work.merged, *work.copied, *work.kept]
    entries = {name: [model.entries[name] for model in read_of(work, name, with_base)] for name in names}
    return {name: sum(entry.bytes for entry in found if entry.file in far) for name, found in entries.items()}


def read_of(work: Plan, name: str, with_base: bool) -> list[Checkpoint]:
    """The models that a merge of the tensor reads."""
    if name not in work.merged:
        kept = work.kept.get(name)
        return [work.base if kept is None else work.experts[kept]]
    experts = [work.experts[index] for index in work.merged[name]]
    return [work.base, *experts] if with_base else experts


def set_aside(memory: int, found: Fetching, hashed: bool = False) -> int:
    """The bytes of a merge's memory that are for what it fetches ahead, which may be all of a small model.

    MergeError where the models are to be hashed.
    """
    if hashed:
        raise MergeError(UNHASHED)
    return min(ASIDE, memory // SHARE, max(SMALL, 2 * found.once))


def is_far(path: Path) -> bool:
    """Whether only a preview of that model is here."""
    return (kept(path) or path).absolute().parent.parent == previews().absolute()


@contextmanager
def streaming(work: Plan, room: int, hands: int) -> Iterator[Plan]:
    """The plan with those models read on the Hub which only it has, in so much memory for so many hands.

    Without any memory for that, it is the plan as it is.
    """
    if not room:
        yield work
        return
    models, far = (work.base, *work.experts), far_of(work)
    ahead = Ahead(far, room, hands * len(models))
    try:
        base, *experts = (_distant(model, ahead) for model in models)
        yield replace(work, base=base, experts=tuple(experts))
    finally:
        ahead.close()


def ahead_of(work: Plan) -> Ahead | None:
    """What reads models on the Hub for a plan, where something does."""
    entries = (entry for model in (work.base, *work.experts) for entry in model.entries.values())
    return next((entry.ahead for entry in entries if isinstance(entry, Distant)), None)


def ranged(file: Path) -> Ranged | None:
    """The file on the Hub that a preview's stands for; None for every other file."""
    size, name = size_on_the_hub(file), commit_of(file.parent)
    return Ranged(name, file.name, size) if size and name else None


def _distant(model: Checkpoint, ahead: Ahead) -> Checkpoint:
    def found(entry: Entry) -> Entry:
        there = entry.file in ahead.files
        return Distant(entry.name, entry.dtype, entry.shape, entry.file, entry.offset, ahead) if there else entry

    return replace(model, entries={name: found(entry) for name, entry in model.entries.items()})
