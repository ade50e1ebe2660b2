"""One merge at work: what is read, how it is merged, where it goes, and what an earlier run has left of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from merging import kernels
from merging.checkpoint import Checkpoint
from merging.crew import Crew, breathe
from merging.distant import Distant, ahead_of, bytes_there, read_of
from merging.errors import MergeError
from merging.groups import TILE
from merging.header import Entry, dtype_of
from merging.hub.ahead import Bytes
from merging.lazy import torch
from merging.method import Whole
from merging.output import Sink, stored_checksum
from merging.passes import all_passes, tensorwise, values_of
from merging.plan import Plan
from merging.progress import Clock, Progress, Step
from merging.ranking import NotFiniteError
from merging.settings import Settings, depths
from merging.stream import Span, Stream, spans
from merging.whole import Room, made_whole
from merging.words import oddity
from merging.workplace import Workplace
from merging.writer import WeightedSum, Writer, writer

LARGE = 4  # a tensor of more pieces than this is shared by all workers; the others are given to one worker each


class Run:
    """One merge: what is read, how it is merged, and where it goes."""

    def __init__(
        self,
        work: Plan,
        settings: Settings,
        team: Crew,
        device: str,
        output: Sink,
        made_in: Workplace,
        whole: dict[str, int],
        room: Room,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        self.work, self.settings, self.method, self.crew = work, settings, settings.method, team
        self.output, self.made_in = output, made_in
        self.whole, self.room = whole, room  # the bytes that whole tensors take, and those that there are
        self.notes: dict[str, str] = {}  # what is odd about how a tensor was merged
        self.kept = 0  # tensors that an earlier run had finished
        self.tensorwise = tensorwise(settings)
        self.stream = Stream(work, team, with_base=settings.with_base, tensorwise=self.tensorwise, device=device)
        self.stream.unit, self.stream.seed = self.method.unit, settings.seed
        self.depths, self.known = depths(work.merged), dict[Any, dict[str, Any]]()
        self.stream.weights = {name: self._values(name)["weight"] for name in work.merged}
        self.progress = Progress(work, all_passes(work, settings), on_step)
        self.stream.watch = self.progress.watch
        self.ahead = ahead_of(work)
        if self.ahead:
            self.progress.fetch(bytes_there(work, settings.with_base))
            self.ahead.on_bytes = self.progress.came

    def _intact(self) -> set[str]:
        """The tensors that an earlier run finished, and that are still what they were."""
        found: set[str] = set()

        def look(name: str) -> None:
            if self.made_in.finished[name] == stored_checksum(self.output.placed[name]):
                found.add(name)

        self.crew.run(look, [name for name in self.output.placed if name in self.made_in.finished])
        for name in found:
            surveyed = self.progress.passes[name] if name in self.work.merged and self.tensorwise else 0
            self.progress.skip(name, 1 + surveyed)
        return found

    @property
    def fetched(self) -> int:
        """The bytes that were fetched from the Hub."""
        return self.ahead.fetched if self.ahead else 0

    def _expect(self, names: Iterable[str]) -> None:
        """Have tensors fetched that are on the Hub: they will be read next, in this order."""
        if self.ahead:
            self.ahead.expect(self._rounds(names))

    def _rounds(self, names: Iterable[str]) -> Iterator[list[Bytes]]:
        """Where what is read side by side of them is, one piece after the other."""
        for name in names:
            entries = [model.entries[name] for model in self._read(name)]
            size = self.output.placed[name].size
            for span in self.stream.spans(name) if name in self.work.merged else spans(name, size):
                yield [entry.run(span.start, span.stop) for entry in entries if isinstance(entry, Distant)]

    def _values(self, name: str) -> dict[str, Any]:
        alike: Any = self.work.merged[name] if self.settings.constant else name
        if alike not in self.known:
            self.known[alike] = values_of(self.work, self.settings, name, self.depths[name])
        return self.known[alike]

    def all(self, clock: Clock) -> None:
        """Copy what is copied, survey, and merge, but for what an earlier run has finished."""
        intact = self._intact()
        self.kept = len(intact)
        left = [name for name in self.output.placed if name not in intact]
        copied = [name for name in left if name not in self.work.merged]
        self._expect(copied)
        self.crew.run(self._copy, copied)
        clock.lap("copy")
        names = [name for name in self.work.merged if name not in intact and name not in self.whole]
        if self.tensorwise:
            self._merge_each(names)
        else:
            self._expect([*self.work.merged] * (self.progress.passes[names[0]] if names else 0))
            survey = self.method.look(self.stream.model(list(self.work.merged)), self._of_all()) if names else None
            clock.lap("survey")
            self._expect(names)
            self._merge([(name, survey) for name in names], self.crew)
        whole = {name: size for name, size in self.whole.items() if name not in intact}
        self._expect(whole)
        self.crew.run(self._merge_whole, self.room.admitted(whole))
        clock.lap("merge")

    def _merge_each(self, names: list[str]) -> None:
        """Survey and merge each tensor on its own; the largest together, the others each by one worker."""
        large = [name for name in names if len(self.stream.spans(name)) > LARGE]
        rest = [name for name in names if name not in large]
        self._expect(name for name in (*large, *rest) for _ in range(1 + self.progress.passes[name]))
        for name in large:
            self._merge([(name, self._survey(name, self.crew))], self.crew)
        alone = self.crew.alone
        self.crew.run(
            lambda name: self._merge([(name, self._survey(name, alone))], alone),
            rest,
        )

    def _of_all(self) -> dict[str, Any]:
        """What a survey of the whole model is given, which is the same for all tensors, and for all experts."""
        return self.method.filled(self.settings.fixed, len(self.work.experts))

    def _survey(self, name: str, team: Crew) -> Any:
        return self.method.look(self.stream.tensor(name, team), self._values(name))

    def _merge(self, jobs: list[tuple[str, Any]], team: Crew) -> None:
        """Merge tensors, each by its survey, piece by piece."""

        def pieces() -> Iterator[tuple[Span, Writer]]:
            for name, survey in jobs:
                average, remark = partial(self.stream.average, name), partial(self.notes.setdefault, name)
                self.progress.surveyed(name)
                write = writer(self.method, survey, self._values(name), self.stream.empty(name), average, remark)
                yield from ((span, write) for span in self.stream.spans(name))

        team.run(self._merge_piece, pieces())

    def _merge_piece(self, piece: tuple[Span, Writer]) -> None:
        span, write = piece
        entry = self.output.placed[span.name]
        dtype, plain = np.uint16 if entry.dtype == "BF16" else np.uint32, entry.dtype in ("BF16", "F32")
        self.progress.watch(span)
        if plain and isinstance(write, WeightedSum) and self._merge_at_once(span, write, dtype):
            return self._told(span)
        for tile in self.stream.tiles(span):
            out = kernels.scratch("out", (1, tile.size), dtype)[0]
            if not write(tile, out):
                raise NotFiniteError(span.name)
            self.output.write(entry, tile.start, out if plain else converted(out, entry))
        self._told(span)

    def _merge_at_once(self, span: Span, write: WeightedSum, dtype: Any) -> bool:
        """Merge a piece in one call; False where that cannot be, or something is wrong, which tile by tile will say."""
        entry, stored = self.output.placed[span.name], self.stream.in_files(span)
        place = self.output.place(entry, span.start)
        if stored is None or place is None:
            return False
        out = kernels.scratch("out", (1, span.size), dtype)[0]
        if not write.from_files(stored, out, *place):
            return False
        self.output.note(entry, span.start, out)
        return True

    def _merge_whole(self, name: str) -> None:
        """Merge a tensor that must be in memory with all its entries."""
        try:
            breathe()
            outcome = self.method.outcome(self.stream.empty(name), None, self._values(name))
            assert isinstance(outcome, Whole)
            self.progress.surveyed(name)
            entry = self.output.placed[name]
            merged = made_whole(outcome, self.stream, name).to(dtype_of(entry)).cpu().contiguous()
            if not merged.isfinite().all():
                raise NotFiniteError(name)
            for start, tile in enumerate(merged.reshape(-1).split(TILE)):
                self.output.write(entry, start * TILE, tile.view(torch.uint8).numpy())
            for note in outcome.notes:
                self.notes.setdefault(name, note)
            self._told(Span(name, 0, entry.size))
        finally:
            self.room.leave(self.whole[name])

    def warnings(self) -> list[str]:
        """What was odd about the merge, in a sentence; of what an earlier run finished, too."""
        told = self.made_in.told
        return oddity(self.method.title, {name: told[name] for name in self.work.merged if name in told})

    def _copy(self, name: str) -> None:
        """A tensor that is not merged, from the base or from the expert that has it."""
        kept = self.work.kept.get(name)
        model = self.work.base if kept is None else self.work.experts[kept]
        entry = self.output.placed[name]
        for start in range(0, entry.size, TILE):
            self.crew.listen()
            values = model.read(name, start, min(start + TILE, entry.size)).to(dtype_of(entry))
            if entry.floating and not values.isfinite().all():
                raise NotFiniteError(name)
            self.output.write(entry, start, values.contiguous().view(torch.uint8).numpy())
        self._told(Span(name, 0, entry.size))

    def _told(self, span: Span) -> None:
        """A piece was written: the journal is told of every tensor that is finished."""
        if self.output.complete(span.name, span.size):
            self.made_in.finish(span.name, self.output.checksum(span.name), self.notes.get(span.name))

    def blame(self, name: str) -> MergeError:
        """What to say when a number of that tensor, or of any, turned out not to be finite: which one it is."""
        for suspect in [name] if name else self.work.merged:
            for model in self._read(suspect):
                for span in spans(suspect, self.output.placed[suspect].size):
                    self.crew.listen()
                    if not model.read(suspect, span.start, span.stop).float().isfinite().all():
                        words = f"`{suspect}` of {model.name} holds NaN or infinity."
                        return MergeError(f"{words} A merge would spread it; choose another model.")
        if not name:
            return MergeError("Some expert is too far from the base for float32. Were they fine-tuned from this base?")
        return MergeError(f"The merged `{name}` is too large for {self.output.placed[name].dtype}. Lower the scaling.")

    def _read(self, name: str) -> list[Checkpoint]:
        """The models that a merge of the tensor reads."""
        return read_of(self.work, name, self.settings.with_base)


def converted(out: Any, entry: Entry) -> Any:
    """float32 in another dtype of the result; NotFiniteError when it does not fit."""
    values = torch.from_numpy(out.view(np.float32)).to(dtype_of(entry))
    if not values.isfinite().all():
        raise NotFiniteError(entry.name)
    return values.view(torch.uint8).numpy()
