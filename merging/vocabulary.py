"""Which row of an embedding stands for which token: models whose vocabularies differ are matched by their tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.tokens import FILE, Tokens, read_tokens, same_files

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
    note: str = ""  # what is to be said of them

    @cached_property
    def tokens(self) -> dict[str, int] | None:
        """The row of every token that has one; None where no tokenizer could be found."""
        tokens = tokens_in(self.home)
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
    return _named_so(name) and model.entries[name].floating and len(model.entries[name].shape) == 2


@lru_cache(maxsize=1 << 14)
def _named_so(name: str) -> bool:
    return bool(WORDS.search(name))


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


def tokens_in(folder: Path | None) -> Tokens | None:
    """The tokens of that folder's tokenizer; None without one."""
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
        mine, its = tokens_in(ours), tokens_in(theirs)
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
        lacking = [model for model in (base, expert) if tokens_in(home(model)) is None]
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
