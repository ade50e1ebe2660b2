"""How long a text can become on its way through a tokenizer, which its file decides: one that has no end is refused."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from merging.errors import MergeError
from merging.header import read_json

MOST = 1000  # times; what is in use stays below 20


def check_growth(file: Path) -> None:
    """MergeError where a tokenizer.json could make far more of a text than was written."""
    content = read_json(file)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if math.prod(_growths(content.get(part))) > MOST:
            words = f"The `{part}` in {file} makes more than {MOST:,} letters of one, as no tokenizer does"
            raise MergeError(f"{words}. Download it again, from where you trust it.")


def _growths(step: Any) -> Iterator[int]:
    """How many letters each step can make of one; no more than are enough to refuse it."""
    for value in step if isinstance(step, list) else step.values() if isinstance(step, dict) else ():
        yield from _growths(value)
    if not isinstance(step, dict):
        return
    written = [step[key] for key in ("content", "prepend") if isinstance(step.get(key), str)]
    if isinstance(told := step.get("precompiled_charsmap"), str):
        written += _mapped(told)
    if (longest := max(map(len, written), default=0)) > 1:
        pattern = step.get("pattern")
        plain = pattern.get("String") if isinstance(pattern, dict) else None
        each = max(1, len(plain)) if isinstance(plain, str) and plain else 1
        yield min(MOST + 1, -(-longest // each)) + (plain is None)


def _mapped(text: str) -> list[bytes]:
    """What a table of characters, as SentencePiece compiles it, writes in place of them."""
    try:
        table = base64.b64decode(text)
    except ValueError:  # the tokenizer will say so
        return []
    return table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
