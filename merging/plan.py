"""What a merge will do, known before it is done: which experts fit the base, and every tensor's fate."""

from __future__ import annotations

from dataclasses import dataclass, replace

from merging.checkpoint import Checkpoint
from merging.donor import vocabulary_of
from merging.errors import MergeError
from merging.fit import ADD, HEAD, misfit, mismatch, ties
from merging.header import Entry
from merging.matching import matched
from merging.places import in_order
from merging.vocabulary import Vocabulary, rows_of, sized, unmatched, unread, vocab_size, worded
from merging.words import listed, verb

__all__ = ["HEAD", "Plan", "misfit", "plan"]


@dataclass(frozen=True)
class Plan:
    """The models of a merge with the result's names and rows, and the fate of each tensor, in the order of layers."""

    base: Checkpoint
    experts: tuple[Checkpoint, ...]
    merged: dict[str, tuple[int, ...]]  # and which experts have it
    copied: dict[str, str]  # from the base, and why
    kept: dict[str, int]  # copied from the expert of that number, since the base does not have it
    dropped: dict[str, str]  # and why
    warnings: tuple[str, ...]
    vocabulary: Vocabulary
    collected: tuple[Checkpoint, ...] = ()  # statistics of each expert, where the method asks for them

    @property
    def written(self) -> list[Entry]:
        """The tensors of the result, of the base model's dtypes and shapes."""
        kept = {name: self.experts[index].entries[name] for name, index in self.kept.items()}
        return [kept.get(name) or self.base.entries[name] for name in in_order([*self.merged, *self.copied, *kept])]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.written)

    @property
    def fates(self) -> dict[str, str]:
        """What becomes of every tensor of every model, in words."""
        merged = {name: self._merged(has) for name, has in self.merged.items()}
        kept = {name: self._kept(name) for name in self.kept}
        used = {name: told for model in (*self.experts, self.base) for name, told in model.used.items()}
        return {**used, **merged, **self.copied, **kept, **self.dropped}

    def _merged(self, has: tuple[int, ...]) -> str:
        lack = [expert.name for index, expert in enumerate(self.experts) if index not in has]
        return f"merged without {listed(lack)}, which {verb(lack, 'lacks', 'lack')} it" if lack else "merged"

    def _kept(self, name: str) -> str:
        return f"copied from {self.experts[self.kept[name]].name}: the base does not have it"


def plan(
    base: Checkpoint, experts: list[Checkpoint], *, extra_tensors: str = "drop", tokenizer_source: str = ""
) -> Plan:
    """The fate of every tensor; MergeError names everything that does not fit."""
    tied = ties(base)
    _fitting(base, experts, tied)
    vocabulary = vocabulary_of(base, experts, tokenizer_source)
    whole, notes = _with_heads(base, experts, tied)
    first, others, moved = matched(vocabulary, base, whole)
    first, wrong = _sized(first, base, vocabulary.rows)
    copied, dropped = {}, {}
    merged: dict[str, tuple[int, ...]] = {}
    for name in in_order(list(first.entries)):
        has = tuple(index for index, expert in enumerate(others) if name in expert.entries)
        if tied and name == HEAD:
            dropped[name] = "left out: the embedding is used in its place, as the config says"
        elif not first.entries[name].floating:
            copied[name] = "copied from the base: it does not hold floating-point numbers"
        elif first.entries[name].size == 0:
            copied[name] = "copied from the base: it is empty"
        elif has:
            merged[name] = has
        else:
            copied[name] = f"copied from the base: {_none(others)} it"
    if not merged:
        raise MergeError(f"{base.name} has no floating-point tensor to merge. Choose another base model.")
    kept = _extra(first, others, tied, extra_tensors == "keep", dropped)
    read = [f"{model.name}: {note}" for model in (base, *experts) for note in model.notes]
    warnings = (*read, *wrong, *unread(base, experts), *notes, *moved)
    return Plan(first, tuple(others), merged, copied, kept, dropped, warnings, vocabulary)


def _none(experts: list[Checkpoint]) -> str:
    return f"{experts[0].name} lacks" if len(experts) == 1 else "every expert lacks"


def _fitting(base: Checkpoint, experts: list[Checkpoint], tied: bool) -> None:
    bad = []
    for expert in experts:
        if problem := mismatch(base, expert, tied):
            bad.append(f"{expert.name}: {problem}{'' if problem.endswith(ADD) else ' Remove this expert.'}")
        elif problem := unmatched(base, expert):
            bad.append(f"{expert.name}: {problem}")
    if bad:
        raise MergeError("\n".join(bad))


def _extra(
    base: Checkpoint, experts: list[Checkpoint], tied: bool, keep: bool, dropped: dict[str, str]
) -> dict[str, int]:
    """The tensors that only experts have and that are kept, with whose they are; why others are not is noted."""
    owners: dict[str, list[int]] = {}
    for index, expert in enumerate(experts):
        for name in expert.entries:
            if name not in base.entries:
                owners.setdefault(name, []).append(index)
    kept = {}
    for name, indices in owners.items():
        names = list(dict.fromkeys(experts[index].name for index in indices))
        if tied and name == HEAD:
            dropped[name] = "left out: the embedding is used in its place"
        elif keep:
            kept[name] = indices[0]
        else:
            dropped[name] = f"left out: only {listed(names)} {verb(names, 'has', 'have')} it, the base does not"
    return kept


def _with_heads(base: Checkpoint, experts: list[Checkpoint], tied: bool) -> tuple[list[Checkpoint], list[str]]:
    """The experts, those whose head is their embedding with that head as a tensor where the base's is one."""
    if HEAD not in base.entries or tied:
        return experts, []
    whole, notes = [], []
    for expert in experts:
        twin = _embedding(expert)
        if HEAD not in expert.entries and expert.tied and twin:
            entry = replace(expert.entries[twin], name=HEAD)
            made = {HEAD: expert.made[twin]} if twin in expert.made else {}
            whole.append(replace(expert, entries={**expert.entries, HEAD: entry}, made={**expert.made, **made}))
            notes.append(
                f"{expert.name}: Its head is its embedding; in {base.name} they are two, and so in the result."
            )
        else:
            whole.append(expert)
    return whole, notes


def _embedding(model: Checkpoint) -> str:
    """The name of the one tensor that has a row for each token, an embedding; empty when it is not certain."""
    names = [name for name in worded(model) if len(model.entries[name].shape) == 2 and name != HEAD]
    return names[0] if len(names) == 1 else ""


def _sized(model: Checkpoint, base: Checkpoint, rows: int) -> tuple[Checkpoint, list[str]]:
    """The base with the number of rows in its config that will be written, and what is to be said of that."""
    stated, own = vocab_size(base.config), rows_of(base)
    if not rows or not base.config or stated == rows or (stated is None and own == rows):
        return model, []
    words = f"{base.name}: Its config says {stated} rows of tokens and its embedding has {own}"
    note = (
        [] if stated in (None, own) else [f"{words}. The config of the result will say {rows}, as its embedding has."]
    )
    return replace(model, config=sized(model.config, rows)), note
