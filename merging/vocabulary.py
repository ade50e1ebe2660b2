"""Which row of an embedding stands for which token: models whose vocabularies differ are matched by their tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.lazy import torch
from merging.rows import Gathered, Source
from merging.tokens import FILE, Tokens, read_tokens, same_files, shown

if TYPE_CHECKING:
    from torch import Tensor

# Tensors with a row for each token: embeddings and heads, under the names that architectures give them.
WORDS = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|shared|embed_in|tok_embeddings|token_embedding|lm_head(?:\.decoder)?"
    r"|embed_out|vocab_projector|cls\.predictions(?:\.decoder)?)\.(?:weight|bias)$|^output\.weight$"
)
PARTS = ("text_config", "language_config", "llm_config", "decoder", "encoder")  # of a config, with sizes of their own


@dataclass(frozen=True)
class Vocabulary:
    """The rows that the result will have, and whose tokenizer it gets."""

    rows: int
    home: Path | None  # the folder of that tokenizer
    whose: str  # the name of its model, for messages
    added: tuple[dict[str, Any], ...] = ()  # a union's new tokens, as their own tokenizers describe them

    @cached_property
    def tokens(self) -> dict[str, int] | None:
        """The row of every token that has one; None where no tokenizer could be found."""
        tokens = _tokens(self.home)
        if tokens is None:
            return None
        known = tokens.rows | {token["content"]: token["id"] for token in self.added}
        return {token: row for token, row in known.items() if row < self.rows}


def rows_of(model: Checkpoint) -> int:
    """How many tokens the model has rows for; 0 when it has no embedding."""
    named = [entry.shape[0] for name, entry in model.entries.items() if _tabular(model, name)]
    stated = vocab_size(model.config)
    return stated if stated in named else max(set(named), key=named.count) if named else 0


def _tabular(model: Checkpoint, name: str) -> bool:
    entry = model.entries[name]
    return entry.floating and len(entry.shape) == 2 and bool(WORDS.search(name))


def worded(model: Checkpoint) -> set[str]:
    """The names of the tensors with one row for each token."""
    rows = rows_of(model)
    return {
        name
        for name, entry in model.entries.items()
        if entry.floating and entry.shape[:1] == (rows,) and WORDS.search(name)
    }


def vocab_size(config: dict[str, Any]) -> int | None:
    """The number of rows that a config states, of the model or of its text part."""
    sizes = [part["vocab_size"] for part in _parts(config) if type(part.get("vocab_size")) is int]
    return sizes[0] if sizes else None


def sized(config: dict[str, Any], rows: int) -> dict[str, Any]:
    """The config with that many rows stated wherever it stated its number of rows."""
    stated = vocab_size(config)
    if not config or stated == rows:
        return config
    if stated is None:
        return config | {"vocab_size": rows}
    inner = {key: config[key] | {"vocab_size": rows} for key in PARTS if _states(config.get(key), stated)}
    return config | inner | ({"vocab_size": rows} if _states(config, stated) else {})


def _states(part: Any, rows: int) -> bool:
    return isinstance(part, dict) and part.get("vocab_size") == rows


def _parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [config, *(part for key in PARTS if isinstance(part := config.get(key), dict))]


def home(model: Checkpoint) -> Path | None:
    """The folder of the model's tokenizer: its own, and not that of other files beside a lone one."""
    return model.folder if model.path.is_dir() or model.config else None


def _tokens(folder: Path | None) -> Tokens | None:
    return read_tokens(folder) if folder else None


def same(base: Checkpoint, model: Checkpoint) -> bool:
    """Whether the model's rows are those of the base, one by one.

    Where either has no tokenizer, equal numbers of rows have to do.
    """
    if model.adapter or not rows_of(base):
        return True
    if rows_of(model) != rows_of(base):
        return not rows_of(model)
    ours, theirs = home(base), home(model)
    if ours is None or theirs is None or ours == theirs or same_files(ours, theirs):
        return True
    try:
        mine, its = _tokens(ours), _tokens(theirs)
    except MergeError:  # `unread` tells of it
        return True
    return mine is None or its is None or mine.rows == its.rows


def unread(base: Checkpoint, experts: list[Checkpoint]) -> list[str]:
    """A sentence about each expert whose tokenizer is damaged, and whose rows are taken for the base's."""
    found, ours = [], home(base)
    for expert in experts:
        theirs = None if expert.adapter else home(expert)
        if ours and theirs and ours != theirs and not same_files(ours, theirs):
            try:
                read_tokens(theirs)
            except MergeError as error:
                found.append(f"{expert.name}: {error} Its rows are taken to be in the order of the base model's.")
    return found


def unmatched(base: Checkpoint, expert: Checkpoint) -> str:
    """Why the expert's rows cannot be matched with the base's, in a sentence or two; empty when they can."""
    try:
        if same(base, expert):
            return ""
        lacking = [model for model in (base, expert) if _tokens(home(model)) is None]
    except MergeError as error:
        return str(error)
    if not lacking:
        return ""
    words = f"It has {rows_of(expert):,} rows of tokens and the base model {rows_of(base):,}"
    where = "the base model" if lacking[0] is base else "it"
    return (
        f"{words}, and {where} has no tokenizer by which they could be matched. "
        f"Put a {FILE} into {lacking[0].folder}, or choose a model of the same vocabulary."
    )


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
    known = _tokens(home(base if same(base, model) else model)) or _tokens(home(model))
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
        words.append(f"it lacks {_counted(theirs)}, for which {base.model.name} stands in")
    if nobodys := [token for token in found.lacking if token in new]:
        words.append(f"it lacks {_counted(nobodys)}, for which the mean of the experts that have it stands in")
    if left:
        words.append(f"{_counted(left)} of its own {'are' if len(left) > 1 else 'is'} left out")
    if found.padding:
        words.append(f"{found.padding:,} rows of it that stand for no token are left out")
    advice = " Set `tokenizer_source: union` to keep them." if left else ""
    return f"{found.model.name}: {'; '.join(words)}.{advice}"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _counted(tokens: list[str]) -> str:
    return f"{len(tokens):,} ({'such as ' if len(tokens) > 1 else ''}{shown(tokens[0])})"


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
    warnings = [told(one, own, vocabulary) for one in (own, *found) if not one.exact]
    moved = [_moved(one, own, found) for one in (own, *found)]
    return moved[0], moved[1:], warnings


def _all_somewhere(vocabulary: Vocabulary, found: list[Match]) -> None:
    nowhere = set(found[0].lacking).intersection(*(one.lacking for one in found))
    if nowhere:
        tokens = [token for token in found[0].lacking if token in nowhere]
        raise MergeError(
            f"No model has a row for {_counted(tokens)} of the tokens of {vocabulary.whose}. "
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
