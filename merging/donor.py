"""Whose tokenizer a result gets, and with it its vocabulary: the base's, another model's, or the union of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from merging import space
from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.header import read_json
from merging.hub.cached import commit_of, kept
from merging.params import nearest
from merging.tokens import FILE, Tokens, read_tokens, shown, some_of
from merging.vocabulary import Vocabulary, home, rows_of, vocab_size

SETTINGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token, in a tokenizer.json


def vocabulary_of(base: Checkpoint, experts: list[Checkpoint], source: str = "") -> Vocabulary:
    """The vocabulary that `tokenizer_source` asks for; MergeError when there is none of that name."""
    if source in ("", "base"):
        return Vocabulary(rows_of(base), home(base), base.name)
    if source == "union":
        return _union(base, experts)
    folder = _folder(source)
    for model in (base, *experts):
        if _is(model, source) or model.path == folder:
            if model.adapter:
                return Vocabulary(rows_of(base), home(base), base.name)
            return _of_model(model, source)
    if folder is None:
        known = ["base", "union", *(model.name for model in (base, *experts))]
        raise MergeError(f"There is no model `{source}` to take the tokenizer of. {nearest(source, known)}")
    return _of_folder(folder)


def _folder(source: str) -> Path | None:
    """The folder of that path, or that a name of the Hub opens."""
    try:
        folder = Path(source).expanduser()
        folder = kept(source) or folder
        return folder if folder.is_dir() and not space.opens(source) else None
    except (OSError, RuntimeError, ValueError):  # too long, `~name` of nobody, a NUL
        return None


def _is(model: Checkpoint, source: str) -> bool:
    """Whether that is the model's name, or the end of its path."""
    parts = [part for part in Path(source).parts if part not in ("..", ".")]
    return source == model.name or (bool(parts) and list(model.path.parts[-len(parts) :]) == parts)


def _of_model(model: Checkpoint, source: str) -> Vocabulary:
    folder = home(model)
    if folder is None or read_tokens(folder) is None:
        raise MergeError(f"{source}, the `tokenizer_source`, has no tokenizer. Put its {FILE} into its folder.")
    return Vocabulary(rows_of(model), folder, model.name) if rows_of(model) else _of_folder(folder)


def _of_folder(folder: Path) -> Vocabulary:
    """The vocabulary of a folder that is no model of this merge: as many rows as its config says or its tokens need."""
    tokens, hub = read_tokens(folder), commit_of(folder)
    if tokens is None or not tokens.rows:
        words = f"{hub.repo if hub else folder}, the `tokenizer_source`, has no tokenizer"
        raise MergeError(f"{words}. {'Name another model' if hub else f'Put its {FILE} into it'}.")
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    needed = max(tokens.rows.values()) + 1
    whose = hub.repo.partition("/")[2] if hub else folder.name
    return Vocabulary(max(needed, min(vocab_size(config) or 0, 2 * needed)), folder, whose)


def _union(base: Checkpoint, experts: list[Checkpoint]) -> Vocabulary:
    """The base's tokens, followed by those that only experts have, in the order of the experts and of their rows."""
    folder = home(base)
    ours = read_tokens(folder) if folder else None
    if folder is None or ours is None:
        raise MergeError(f"{base.name} has no tokenizer to add the experts' tokens to. Put its {FILE} into its folder.")
    found: dict[str, dict[str, Any]] = {}
    pieces = set[str]()
    for expert in experts:
        theirs = _own_tokens(expert)
        for token, row in sorted(theirs.rows.items(), key=lambda pair: pair[1]):
            if token and token not in ours.rows and row < rows_of(expert):
                found.setdefault(token, _added(token, theirs))
                if token not in theirs.added:
                    pieces.add(token)
    if not found:
        return Vocabulary(rows_of(base), folder, base.name)
    if not (folder / FILE).is_file():
        raise MergeError(
            f"{base.name} has no {FILE}, to which {len(found):,} tokens of the experts would be added. "
            "Save its tokenizer with transformers, which writes one."
        )
    first = _next(base, ours)
    added = tuple(token | {"id": row} for row, token in enumerate(found.values(), first))
    rows = max(rows_of(base), first + len(added))
    return Vocabulary(rows, folder, "the union", added, _note(base, list(found), pieces, rows))


def _note(base: Checkpoint, found: list[str], pieces: set[str], rows: int) -> str:
    """What a union adds. Pieces of another vocabulary are found in a text only as they are spelled."""
    count = f"{len(found):,} tokens (such as {shown(found[0])})" if len(found) > 1 else f"the token {shown(found[0])}"
    spelled = [token for token in found if token in pieces]
    also = f" Of them {some_of(spelled)} came from another vocabulary and are found only as spelled." if spelled else ""
    return f"The union adds {count} to those of {base.name}; the result has {rows:,} rows.{also}"


def _own_tokens(expert: Checkpoint) -> Tokens:
    folder = None if expert.adapter else home(expert)
    return (read_tokens(folder) if folder else None) or Tokens({})


def _added(token: str, tokens: Tokens) -> dict[str, Any]:
    """How the union's tokenizer will treat a token: as its own does where it was added there, and as text otherwise."""
    told = tokens.added.get(token, {})
    return {"content": token, **{key: told.get(key) is True for key in SETTINGS}}


def _next(base: Checkpoint, tokens: Tokens) -> int:
    """The row that tokenizers give to the next token that is added: the one after the last."""
    last = max((row for token, row in tokens.rows.items() if token in tokens.added), default=-1)
    first = max(last + 1, tokens.pieces)
    if any(row >= first for row in tokens.rows.values()):
        raise MergeError(
            f"The tokenizer of {base.name} leaves out rows between its tokens, so none can be added to it. "
            "Leave `tokenizer_source` empty."
        )
    return first
