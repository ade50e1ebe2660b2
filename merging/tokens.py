"""The tokens of a model and the row of each, read from whichever tokenizer files its folder has."""

from __future__ import annotations

import filecmp
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from merging.errors import MergeError
from merging.header import read_json

FILE = "tokenizer.json"
OLDER = ("vocab.json", "vocab.txt", "tokenizer.model")  # where there is no tokenizer.json; the first is read
ADDED = "added_tokens.json"
LIMIT = 256 << 20  # bytes of a tokenizer file; the largest in use are a tenth of it
MOST = 1 << 24  # rows of an embedding; the largest in use are a fiftieth of it


@dataclass(frozen=True)
class Tokens:
    """The row of every token; and the tokens that were added to the vocabulary, as their tokenizer describes them."""

    rows: dict[str, int]
    added: dict[str, dict[str, Any]] = field(default_factory=dict)
    pieces: int = 0  # the size of the vocabulary proper, to which the others were added


def read_tokens(folder: Path) -> Tokens | None:
    """The tokens of the model in that folder, or None where there is no tokenizer; MergeError when it is damaged."""
    try:
        stats = [(name, file.stat()) for name in (FILE, *OLDER, ADDED) if (file := folder / name).is_file()]
    except OSError as error:
        raise MergeError(f"The tokenizer in {folder} could not be read ({error.strerror}). Check the files.") from error
    for name, told in stats:
        if told.st_size > LIMIT:
            raise MergeError(f"{folder / name} is too large for a tokenizer. Download it again.")
    return _read(folder, tuple((name, told.st_size, told.st_mtime_ns) for name, told in stats))


def same_files(one: Path, other: Path) -> bool:
    """Whether both folders have tokenizers, and of the same bytes: then nothing has to be parsed."""
    kept = [[name for name in (FILE, *OLDER, ADDED) if (folder / name).is_file()] for folder in (one, other)]
    names = [[FILE] if FILE in found else found for found in kept]
    try:
        return bool(names[0]) and names[0] == names[1] and all(_equal(one / name, other / name) for name in names[0])
    except OSError:
        return False


def _equal(one: Path, other: Path) -> bool:
    return filecmp.cmp(one, other, shallow=False)


@lru_cache(maxsize=16)
def _read(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> Tokens | None:
    names = [name for name, _, _ in stamp]
    if FILE in names and (tokens := _of_json(folder / FILE)):
        return tokens
    if "vocab.json" in names:
        return _with_added(_natural(folder / "vocab.json", read_json(folder / "vocab.json")), folder, names)
    if "vocab.txt" in names:
        return _with_added(_of_lines(folder / "vocab.txt"), folder, names)
    return _by_transformers(folder) if "tokenizer.model" in names else None


def _of_json(file: Path) -> Tokens | None:
    """The tokens of a tokenizer.json, or None when it holds no vocabulary at all."""
    content = read_json(file)
    model, added = content.get("model"), content.get("added_tokens") or []
    told = model.get("vocab") if isinstance(model, dict) else None
    if told is None:
        return None
    if isinstance(told, list):  # Unigram's pieces with their scores, in the order of their rows
        if not all(isinstance(pair, list) and pair and isinstance(pair[0], str) for pair in told):
            raise _damaged(file)
        told = {pair[0]: row for row, pair in enumerate(told)}
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise _damaged(file)
    rows = _natural(file, told)
    extra = {token.get("content"): token for token in added}
    return Tokens(rows | _natural(file, {name: token.get("id") for name, token in extra.items()}), extra, len(rows))


def _natural(file: Path, rows: Any) -> dict[str, int]:
    if not isinstance(rows, dict) or not all(isinstance(token, str) for token in rows):
        raise _damaged(file)
    if not all(type(row) is int and 0 <= row < MOST for row in rows.values()):
        raise _damaged(file)
    return rows


def _damaged(file: Path) -> MergeError:
    return MergeError(f"The vocabulary in {file} does not give every token a row. Download it again.")


def _with_added(rows: dict[str, int], folder: Path, names: list[str]) -> Tokens:
    added = _natural(folder / ADDED, read_json(folder / ADDED)) if ADDED in names else {}
    return Tokens(rows | added, {token: {"content": token, "id": row} for token, row in added.items()}, len(rows))


def _of_lines(file: Path) -> dict[str, int]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MergeError(f"{file} could not be read ({error}). Download it again.") from error
    if text.count("\n") > MOST:
        raise _damaged(file)
    lines = text.split("\n")
    return {line.rstrip("\r"): row for row, line in enumerate(lines) if line or row < len(lines) - 1}


def _by_transformers(folder: Path) -> Tokens:
    """What the classes of transformers read from a tokenizer.model; code in the folder is never run."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        rows = _natural(folder / "tokenizer.model", dict(tokenizer.get_vocab()))
    except MergeError:
        raise
    except Exception as error:  # whatever a library says about a file that it cannot read
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MergeError(
            f"The tokenizer in {folder} has only tokenizer.model, which could not be read ({why[:200]}). "
            "Put its tokenizer.json there."
        ) from error
    added = {str(token): {"content": str(token), "id": row} for row, token in tokenizer.added_tokens_decoder.items()}
    return Tokens(rows, added, len(rows) - len(added))


def shown(token: str) -> str:
    """A token as a message can hold it: on one line, and not too long."""
    text = json.dumps(token, ensure_ascii=not token.isprintable())[1:-1]
    return f"`{text[:40]}…`" if len(text) > 41 else f"`{text}`"


def some_of(tokens: list[str]) -> str:
    """How many tokens there are, with the first as an example."""
    return f"{len(tokens):,} ({'such as ' if len(tokens) > 1 else ''}{shown(tokens[0])})"
