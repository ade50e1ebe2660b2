"""A text as a model is run over it: the beginning of a file, in blocks of tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import MergeError
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

LETTERS = 8  # that are read for each token that is wanted, at first
SPARE = 64  # tokens at the end of what was read, which may be others when more is read


@dataclass(frozen=True)
class Sample:
    """What a model is run over: blocks of tokens, all of one length but for the last."""

    blocks: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        return sum(len(block) for block in self.blocks)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens' numbers, as text."""
        return hashlib.sha256(str([block.tolist() for block in self.blocks]).encode()).hexdigest()


def found(text: Path) -> Path:
    """The file of a text; MergeError where there is none."""
    if text.is_dir():
        raise MergeError(f"{text} is a folder, and a text is a file. Name that.")
    if not text.exists():
        raise MergeError(f"There is no text {text}. Check the path.")
    return text


def sample(tokenizer: Any, text: Path, most: int, length: int) -> Sample:
    """At most so many tokens from the beginning of a file, in blocks of that length.

    No more of the file is read than they need. MergeError where it is no text, or has not even two tokens.
    """
    if min(most, length) < 2:
        raise MergeError("A model predicts each token from those before, so it must be run over 2 or more. Ask for 2.")
    known = _beginning(tokenizer, text, most)
    blocks = [known[start : start + length] for start in range(0, len(known), length)]
    blocks = [block for block in blocks if len(block) > 1]  # of a single token nothing is predicted
    if not blocks:
        raise MergeError(f"The text {text} is too short: it has {len(known)} tokens. Name a longer one.")
    return Sample(tuple(torch.tensor(block) for block in blocks))


def _beginning(tokenizer: Any, text: Path, most: int) -> list[int]:
    words, known = "", list[int]()
    try:
        with text.open(encoding="utf-8") as file:
            while len(known) < most + SPARE and (more := file.read(max(len(words), LETTERS * most))):
                words += more
                known = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    except (OSError, ValueError) as error:
        raise MergeError(f"The text {text} could not be read ({error}). Name a file of UTF-8 text.") from error
    return known[:most]
