"""Models with the rows of the result: for every row, the one of each model that has the same token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.lazy import torch
from merging.rows import Gathered, Source
from merging.tokens import FILE, some_of
from merging.vocabulary import Vocabulary, home, rows_of, same, tokens_in, worded

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Match:
    """For every row of the result, the row of a model that has the same token, or -1."""

    model: Checkpoint
    rows: Tensor
    lacking: list[str]  # tokens of the result that the model has no row for
    left: list[str]  # tokens of the model that the result has no row for
    padding: int  # rows of the model without a token that the result has no row for

    @property
    def exact(self) -> bool:
        """Whether the model's rows are the result's already."""
        whole = len(self.rows) == rows_of(self.model)
        return whole and bool((self.rows == torch.arange(len(self.rows))).all())


def match(vocabulary: Vocabulary, base: Checkpoint, model: Checkpoint) -> Match:
    """Find the rows of a model that `unmatched` has nothing against."""
    own, size = rows_of(model), vocabulary.rows
    tokens = vocabulary.tokens
    known = tokens_in(home(base if same(base, model) else model)) or tokens_in(home(model))
    if tokens is None or known is None:
        raise MergeError(
            f"{model.name} has no tokenizer by which its rows could be matched. Put a {FILE} into its folder."
        )
    rows, named, used = [-1] * size, set(tokens.values()), set(known.rows.values())
    for row in range(min(size, own)):
        if row not in named and row not in used:
            rows[row] = row
    lacking = []
    for token, row in tokens.items():
        there = known.rows.get(token, own)
        if there < own:
            rows[row] = there
        else:
            lacking.append(token)
    left = [token for token, row in known.rows.items() if row < own and token not in tokens]
    padding = sum(row not in used for row in range(size, own))
    return Match(model, torch.tensor(rows), lacking, left, padding)


def told(found: Match, base: Match, vocabulary: Vocabulary) -> str:
    """What matching means for a model, in a sentence with its counts."""
    total, left = len(vocabulary.tokens or ()), found.left
    known = total - len(found.lacking)
    words = [f"{known:,} of the result's {total:,} tokens {_was(known)} found in it by their text"]
    new = set(base.lacking)
    if theirs := [token for token in found.lacking if token not in new]:
        words.append(f"it lacks {some_of(theirs)}, for which {base.model.name} stands in")
    if nobodys := [token for token in found.lacking if token in new]:
        words.append(f"it lacks {some_of(nobodys)}, for which the mean of the experts that have it stands in")
    if left:
        words.append(f"{some_of(left)} of its own {'are' if len(left) > 1 else 'is'} left out")
    if found.padding:
        words.append(f"{found.padding:,} rows of it that stand for no token are left out")
    advice = " Set `tokenizer_source: union` to keep them." if left else ""
    return f"{found.model.name}: {'; '.join(words)}.{advice}"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def matched(
    vocabulary: Vocabulary, base: Checkpoint, experts: list[Checkpoint]
) -> tuple[Checkpoint, list[Checkpoint], list[str]]:
    """The models with the rows of the result, and a sentence about each whose rows had to be moved."""
    unchanged = not vocabulary.added and (vocabulary.rows, vocabulary.home) == (rows_of(base), home(base))
    if not rows_of(base) or (unchanged and all(same(base, expert) for expert in experts)):
        return base, experts, []
    own = match(vocabulary, base, base)
    found = [match(vocabulary, base, expert) for expert in experts]
    _all_somewhere(vocabulary, [own, *found])
    notes = [vocabulary.note] if vocabulary.note else []
    notes += [told(one, own, vocabulary) for one in (own, *found) if not one.exact]
    moved = [_moved(one, own, found) for one in (own, *found)]
    return moved[0], moved[1:], notes


def _all_somewhere(vocabulary: Vocabulary, found: list[Match]) -> None:
    nowhere = set(found[0].lacking).intersection(*(one.lacking for one in found))
    if nowhere:
        tokens = [token for token in found[0].lacking if token in nowhere]
        raise MergeError(
            f"No model has a row for {some_of(tokens)} of the tokens of {vocabulary.whose}. "
            "Choose another `tokenizer_source`."
        )


def _moved(one: Match, base: Match, experts: list[Match]) -> Checkpoint:
    """The model with every tensor that has vocabulary rows gathered as the result orders them."""
    model = one.model
    if one.exact:
        return model
    entries, made = dict(model.entries), dict(model.made)
    for name in sorted(worded(model)):
        sources = [Source(other.model, name, other.rows) for other in (one, base) if name in worded(other.model)]
        others = [Source(other.model, name, other.rows) for other in experts if name in worded(other.model)]
        entry = entries[name]
        entries[name] = replace(entry, shape=(len(one.rows), *entry.shape[1:]))
        made[name] = Gathered(entry.shape[1:], tuple(sources if one is not base else sources[:1]), tuple(others))
    return replace(model, entries=entries, made=made)
