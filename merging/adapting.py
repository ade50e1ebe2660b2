"""One merge of adapters into an adapter at work: what is read, how factors are merged, and where they go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.adapter_folder import names_of
from merging.adapter_method import Module, Modules, combined
from merging.adapter_ranks import kind
from merging.changes import Changes
from merging.crew import Crew
from merging.errors import MergeError
from merging.groups import Group, of_some
from merging.header import dtype_of
from merging.lazy import torch
from merging.lora import averaged
from merging.low_rank import Factors, Loss, beside, compressed, of_matrix
from merging.making import Making
from merging.method import METHODS, FactorCoefficients, ModelCoefficients, TaskCoefficients, Whole, accepted
from merging.passes import all_passes, tensorwise, values_of
from merging.progress import Clock, Progress, Step
from merging.ranking import NotFiniteError
from merging.run import converted
from merging.settings import Settings, depths
from merging.stream import Span, Stream
from merging.whole import made_whole
from merging.words import oddity
from merging.writer import Writer, writer

if TYPE_CHECKING:
    from torch import Tensor


class Adapting:
    """One merge: what is read of the adapters, how it is merged, and where it goes."""

    def __init__(
        self,
        changes: Changes,
        settings: Settings,
        ranks: dict[str, int],
        at: Making,
        on_step: Callable[[Step], None] | None,
        seed: int,
    ) -> None:
        self.changes, self.work, self.settings, self.method = changes, changes.work, settings, settings.method
        self.ranks, self.at, self.seed = ranks, at, seed
        self.kept = 0  # tensors that an earlier run had finished
        self.tensorwise = tensorwise(settings)
        self.stream = Stream(self.work, at.crew, tensorwise=self.tensorwise)
        self.notes: dict[str, str] = {}  # what is odd about how a tensor was merged
        self.stream.unit, self.stream.seed = self.method.unit, seed
        self.depths = depths(self.work.merged)
        self.stream.weights = {name: self._values(name)["weight"] for name in self.work.merged}
        passes = dict.fromkeys(self.work.merged, 0) if self.method.ranks else all_passes(self.work, settings)
        self.progress = Progress(self.work, passes, on_step)
        self.stream.watch = self.progress.watch

    def _values(self, name: str) -> dict[str, Any]:
        return values_of(self.work, self.settings, name, self.depths[name])

    def all(self, clock: Clock) -> None:
        """Survey and merge what an earlier run has not finished."""
        intact = self._intact()
        self.kept = len(intact)
        left = [name for name in self.work.merged if name not in intact]
        everyone = self.method.filled(self.settings.fixed, len(self.work.experts))
        survey = None if self.tensorwise or not left else self._look([*self.work.merged], everyone, self.at.crew)
        clock.lap("survey")
        self.at.crew.run(lambda name: self._merge(name, survey), left)
        clock.lap("merge")

    def _intact(self) -> set[str]:
        """The tensors that an earlier run finished, and that are still what they were."""
        found: set[str] = set()

        def look(name: str) -> None:
            if self.at.intact(names_of(self.changes, name)):
                found.add(name)

        self.at.crew.run(look, [*self.work.merged])
        for name in found:
            self.progress.skip(name, 1 + (self.progress.passes[name] if self.tensorwise else 0))
        return found

    def _look(self, names: list[str], values: dict[str, Any], crew: Crew) -> Any:
        """What the method's survey says of these tensors."""
        if self.method.ranks:
            modules = [self._module(name) for name in names if name in self.ranks]
            every = Modules(modules, crew, lambda module: self._watch(module.name))
            return self.method.look(every, values) if modules else None  # type: ignore[arg-type]
        return self.method.look(
            self.stream.tensor(names[0], crew) if self.tensorwise else self.stream.model(names), values
        )

    def _module(self, name: str) -> Module:
        return Module(name, self.changes.updates(name), self.seed)

    def _merge(self, name: str, survey: Any) -> None:
        values = self._values(name)
        if self.tensorwise:
            survey = self._look([name], values, self.at.crew.alone)
        self.progress.surveyed(name)
        if name not in self.ranks:
            return self._put_whole(name, survey, values)
        made = self._made(name, survey, values)
        if not all(part.isfinite().all() for part in ((made.down, made.up) if isinstance(made, Factors) else (made,))):
            raise NotFiniteError(name)
        rank = self.ranks[name]
        factors, loss = compressed(made, rank) if isinstance(made, Factors) else of_matrix(made, rank)
        down, up = names_of(self.changes, name)
        self._put(down, factors.down, self.notes.get(name), name)
        self._put(up, factors.up, loss, name)

    def _watch(self, name: str) -> None:
        """All of a tensor is about to be read."""
        self.progress.watch(Span(name, 0, self.work.base.entries[name].size))

    def _made(self, name: str, survey: Any, values: dict[str, Any]) -> Factors | Tensor:
        """A matrix of the merge, in PEFT's layout."""
        module = self._module(name)
        dense = not self.method.ranks and kind(self.method, values, name) == "dense"
        if not dense:
            self._watch(name)
        if self.method.ranks:
            return combined(self.method, module, survey, values)
        if dense:
            matrix = self._dense(name, survey, values)
            turned = next(update.transposed for update in module.updates if update)
            return matrix.T.contiguous() if turned else matrix
        like = self.stream.empty(name)
        outcome = self.method.outcome(like, of_some(survey, like.which), values)
        if isinstance(outcome, FactorCoefficients):
            one = averaged(module.updates, outcome.downs.tolist(), outcome.ups.tolist())
            parts = module.parts()
            downs = [weight * part.down for weight, part in zip(one.downs, parts, strict=True)]
            ups = [weight * part.up for weight, part in zip(one.ups, parts, strict=True)]
            return Factors(outcome.scaling * torch.stack(downs).sum(0), torch.stack(ups).sum(0))
        assert isinstance(outcome, TaskCoefficients | ModelCoefficients)
        if isinstance(outcome, TaskCoefficients) and outcome.note:
            self.notes.setdefault(name, outcome.note)
        weights = [float(outcome.values[number]) for number in module.which]
        return beside(module.parts(), [w * s for w, s in zip(weights, module.scalings, strict=True)])

    def _dense(self, name: str, survey: Any, values: dict[str, Any]) -> Tensor:
        """The merge of the products of a tensor, (rows, columns) as the base stores it."""
        if outcome := self._whole(name, values):
            return self._made_whole(name, outcome)
        entry = self.work.base.entries[name]
        out = np.empty(entry.size, np.uint32)
        for group, write in self._tiles(name, survey, values):
            if not write(group, out[group.start : group.start + group.size]):
                raise NotFiniteError(name)
        return torch.from_numpy(out.view(np.float32)).reshape(entry.shape)

    def _whole(self, name: str, values: dict[str, Any]) -> Whole | None:
        """What makes a tensor of which the method must see all entries."""
        if not self.method.whole:
            return None
        outcome = self.method.outcome(self.stream.empty(name), None, values)
        return outcome if isinstance(outcome, Whole) else None

    def _made_whole(self, name: str, outcome: Whole) -> Tensor:
        made = made_whole(outcome, self.stream, name)
        for note in outcome.notes:
            self.notes.setdefault(name, note)
        return made

    def _put_whole(self, name: str, survey: Any, values: dict[str, Any]) -> None:
        """Merge a tensor that was trained in full as it is in any model."""
        if outcome := self._whole(name, values):
            made = self._made_whole(name, outcome)
            for stored in names_of(self.changes, name):
                self._put(stored, made, self.notes.get(name), name)
            return
        places = [self.at.output.placed[stored] for stored in names_of(self.changes, name)]
        entry = places[0]
        for group, write in self._tiles(name, survey, values):
            out = np.empty(group.size, np.uint16 if entry.dtype == "BF16" else np.uint32)
            if not write(group, out):
                raise NotFiniteError(name)
            out = out if entry.dtype in ("BF16", "F32") else converted(out, entry)
            for place in places:
                self.at.output.write(place, group.start, out)
        for place in places:
            self.at.finish(place.name, place.size, self.notes.get(name))

    def _tiles(self, name: str, survey: Any, values: dict[str, Any]) -> Iterator[tuple[Group, Writer]]:
        """The tiles of a tensor, and what merges them. Methods of adapters add up what was trained in full."""
        method = self.method
        if method.ranks:
            method, survey = METHODS["task_arithmetic"], None
            values = method.filled({"scaling": 1.0, **accepted(method.function, values)}, len(self.work.experts))
        remark = partial(self.notes.setdefault, name)
        write = writer(method, survey, values, self.stream.empty(name), remark=remark)
        for span in self.stream.spans(name):
            self.at.crew.listen()
            yield from ((tile, write) for tile in self.stream.read(span))

    def _put(self, stored: str, values: Tensor, told: Loss | str | None, name: str) -> None:
        lowered = values.to(dtype_of(self.at.output.placed[stored])).contiguous()
        if not lowered.isfinite().all():
            raise NotFiniteError(name)
        self.at.put(stored, lowered.view(torch.uint8).numpy().reshape(lowered.numel(), -1), told)

    def warnings(self) -> list[str]:
        """What was odd about the merge, in a sentence; of what an earlier run finished, too."""
        told = {name: self.at.place.told.get(names_of(self.changes, name)[0]) for name in self.work.merged}
        return oddity(self.method.title, {name: note for name, note in told.items() if note})

    def blame(self, name: str) -> MergeError:
        """What to say when a number of that tensor, or of any, turned out not to be finite: which one it is."""
        whole = [name for name in self.work.merged if name not in self.ranks]
        read = [(adapter, stored) for adapter in self.changes.adapters for stored in adapter.entries]
        read += [(self.changes.base, name) for name in whole] if self.changes.base else []
        for model, stored in read:
            self.at.crew.listen()
            if not model.tensor(stored).float().isfinite().all():
                kind = "base" if model is self.changes.base else "adapter"
                words = f"`{stored}` of {model.name} holds NaN or infinity."
                return MergeError(f"{words} A merge would spread it; choose another {kind}.")
        if not name:
            return MergeError("Some adapter changes the base by more than float32 holds. Choose another adapter.")
        return MergeError(f"The merged `{name}` is too large for its dtype. Lower the scaling, or set `out_dtype`.")
