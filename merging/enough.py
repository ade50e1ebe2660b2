"""What collecting statistics tells beside them: of how much text they are, and whether that is enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from merging.sample import Sample
from merging.words import counted

FEW = 8  # blocks; a mean over fewer squared gradients is hardly one


@dataclass(frozen=True)
class Statistics:
    """What was collected: the file, and how much of the text it is of."""

    file: Path
    tokens: int
    blocks: int
    kept: tuple[str, ...] = ()  # the kinds that were there before and stay
    replaced: tuple[str, ...] = ()  # those that were there and are new now
    warnings: tuple[str, ...] = ()


def few(known: Sample, kinds: tuple[str, ...], inputs: Sequence[int]) -> Iterator[str]:
    """A sentence for each kind that the text is too short for; `inputs` are the columns of the linear layers."""
    if "fisher" in kinds and len(known.blocks) < FEW:
        words = f"Fisher information is a mean over {counted(len(known.blocks), 'block')} only"
        yield f"{words}. Name a longer text, or a smaller `--length`."
    widest = max(inputs, default=0)
    if known.tokens < widest:
        words = f"The text gives {counted(known.tokens, 'token')}, and the widest linear layer has {widest:,} inputs"
        yield f"{words}, whose inner products need as many tokens or more. Name a longer text, or more `--tokens`."
