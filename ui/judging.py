"""Which of the chosen models can be merged, in the words that the merge itself would use, and how each was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from merging.adapter import as_expert, describe, is_adapter, open_base
from merging.changes import changes
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.errors import MergeError
from merging.hub.fetch import left_of
from merging.plan import Plan, plan
from merging.sizes import in_words

NO_CONFIG = "It has no config.json, so the merge will have none and cannot be sampled."
T = TypeVar("T")


@dataclass
class Chosen:
    """A model that was chosen: as it was opened, and as it enters the merge; neither where that is not possible."""

    path: str
    opened: Checkpoint | None = None
    model: Checkpoint | None = None
    problem: str = ""
    notes: list[str] = field(default_factory=list)

    def tried(self, step: Callable[..., T], *given: Any) -> T | None:
        """What the step gives, or None where it has something to say, which is noted."""
        try:
            return step(*given)
        except MergeError as error:
            self.problem = str(error)
        except OSError as error:
            self.problem = f"{self.path} could not be opened ({error}). Check the path."
        return None

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


@dataclass(frozen=True)
class Judged:
    """The base and the experts with what there is to say of each; `notes` are about no single one of them."""

    base: Chosen
    experts: list[Chosen]
    notes: list[str]
    merged: list[str] = field(default_factory=list)  # the tensors that a merge of the fitting experts is of

    @property
    def fitting(self) -> list[Chosen]:
        """The experts that can be merged into the base."""
        return [expert for expert in self.experts if self.base.model and expert.model and not expert.problem]


def judged(base: str, experts: list[str], problems: Mapping[str, str] = MappingProxyType({})) -> Judged:
    """Open the models, from headers alone, and find out which can be merged; `problems` are known of some, by path."""
    ground, *found = (Chosen(path, problem=problems.get(path, "")) for path in (base, *experts))
    if not ground.problem:
        ground.opened = ground.model = ground.tried(open_base, base)
    for expert in found:
        if not expert.problem:
            expert.opened = expert.tried(open_checkpoint, expert.path)
        if expert.opened and is_adapter(expert.opened) and expert.tried(describe, expert.opened) is None:
            expert.opened = None
        if ground.model and expert.opened:
            expert.model = expert.tried(as_expert, expert.opened, ground.model)
    all_of_them = Judged(ground, found, [])
    for one in (ground, *found):
        if one.model:
            one.notes += one.model.notes
        if one.model and (left := left_of(one.path)):
            one.note(f"It is on the Hub, at commit {left.name.revision[:7]}: {in_words(left.bytes)} to download.")
    if ground.model:
        if not ground.model.config:
            ground.note(NO_CONFIG)
        _plan(all_of_them, ground.model)
    return all_of_them


def _plan(chosen: Judged, base: Checkpoint) -> None:
    """Note what a plan of all models says, or what a plan of each has against it."""
    work, problem = _tried(base, chosen.fitting)
    if problem:
        for expert in chosen.fitting:
            _, expert.problem = _tried(base, [expert])
        work, problem = _tried(base, chosen.fitting)
    if work:
        chosen.merged.extend(work.merged)
        _told(chosen, work)
    elif problem:
        chosen.notes.extend(problem.splitlines())


def _tried(base: Checkpoint, experts: list[Chosen]) -> tuple[Plan | None, str]:
    models = [expert.model for expert in experts if expert.model]
    try:
        return (plan(base, models), "") if models else (None, "")
    except MergeError as error:
        words = str(error)
        return None, words.removeprefix(f"{models[0].name}: ") if len(models) == 1 else words
    except OSError as error:
        return None, f"{error.filename} could not be read ({error.strerror}). Check it."


def _told(chosen: Judged, work: Plan) -> None:
    """Put every warning of the plan to the model that it names, and say what experts lack or have alone."""
    models = [chosen.base, *chosen.fitting]
    for warning in work.warnings:
        named = [one for one in models if one.model and warning.startswith(f"{one.model.name}: ")]
        if len(named) == 1 and named[0].model:
            named[0].note(warning.removeprefix(f"{named[0].model.name}: "))
        else:
            chosen.notes.append(warning)
    for expert, model in zip(chosen.fitting, work.experts, strict=True):
        floating = [name for name in (*work.merged, *work.copied) if work.base.entries[name].floating]
        if lacks := [name for name in floating if name not in model.entries]:
            expert.note(
                f"It lacks {_first(lacks)} of the base model's tensors, and has no part in what becomes of them."
            )
        if alone := [name for name, why in work.dropped.items() if "only" in why and name in model.entries]:
            expert.note(f"It has {_first(alone)} that the base model lacks, which the merge leaves out.")


def _first(names: list[str]) -> str:
    return f"`{names[0]}`" + (f" and {len(names) - 1:,} more" if names[1:] else "")


def adapted(chosen: Judged) -> tuple[tuple[str, ...], str]:
    """The tensors that a merge of the fitting experts into one adapter would be of, or why there is no such merge."""
    models = [expert.opened for expert in chosen.fitting if expert.opened]
    full = [model.name for model in models if not is_adapter(model)]
    if full or not models:
        return (), f"Only LoRA adapters of the base merge into an adapter{_full(full)}."
    try:
        return tuple(changes(models, chosen.base.model).work.merged), ""
    except MergeError as error:
        return (), str(error).splitlines()[0]


def _full(names: list[str]) -> str:
    """Which experts are no adapters."""
    if not names:
        return ", and none is chosen"
    more = [f"{len(names) - 3} more"] if len(names) > 4 else []
    *first, last = [*names[: 3 if more else 4], *more]
    listed = f"{', '.join(first)} and {last}" if first else last
    return f", and {listed} {'is a full model' if len(names) == 1 else 'are full models'}"
