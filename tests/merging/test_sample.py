"""A text in blocks of tokens, of which no more is read than that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from merging import sample as module
from merging.errors import MergeError
from merging.sample import sample

ZOO = Path(__file__).parents[2] / "zoo"
TEXT = ZOO / "heldout" / "shakespeare.txt"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ZOO / "base", local_files_only=True)


@pytest.mark.parametrize("letters", [1, 8, 1000])
@pytest.mark.parametrize(("most", "length"), [(300, 64), (301, 100), (64, 64), (2, 256)])
def test_blocks_are_the_beginning_of_the_text(
    letters: int, most: int, length: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LETTERS", letters)
    whole = tokenizer(TEXT.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]

    found = sample(tokenizer, TEXT, most, length)

    blocks = [block.tolist() for block in found.blocks]
    last = most % length
    assert [token for block in blocks for token in block] == whole[: most - (last if last == 1 else 0)]
    assert {len(block) for block in blocks[:-1]} <= {length}
    assert found.tokens == sum(map(len, blocks))


def test_no_more_is_read_than_is_needed(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(TEXT.read_bytes() + b"\xff")

    found = sample(tokenizer, file, 100, 50)

    assert found.tokens == 100
    with pytest.raises(MergeError, match=r"could not be read .* Name a file of UTF-8 text\.$"):
        sample(tokenizer, file, 100_000, 50)


def test_a_text_that_is_shorter_is_taken_whole(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("To be, or not to be: that is the question.")

    found = sample(tokenizer, file, 1000, 256)

    assert found.tokens == len(tokenizer(file.read_text(), add_special_tokens=False)["input_ids"])
    assert found.digest == sample(tokenizer, file, 2000, 256).digest != sample(tokenizer, file, 3, 256).digest


@pytest.mark.parametrize("name", ["none.txt", "."])
def test_a_text_that_is_not_there_is_named(name: str, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match=r"^The text .* could not be read"):
        sample(tokenizer, tmp_path / name, 100, 50)
