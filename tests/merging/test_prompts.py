"""Long prompts: what they take of the memory, and how much of them is seen in a Space."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import space
from merging.generate import Ask, Shelf, answers
from merging.meter import metered

BASE = Path(__file__).parents[2] / "zoo" / "base"


def test_a_prompt_takes_no_memory_for_what_is_not_asked_of_it(tmp_path: Path) -> None:
    config = json.loads((BASE / "config.json").read_text()) | {"vocab_size": 100_000, "max_position_embeddings": 8192}
    random = torch.Generator().manual_seed(0)
    names = {name: tensor for name, tensor in load_file(BASE / "model.safetensors").items() if "embed" not in name}
    rows = torch.randn(100_000, config["hidden_size"], generator=random)
    shutil.copytree(BASE, tmp_path / "wide", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "wide" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    kept = {name: tensor for name, tensor in names.items() if name != "lm_head.weight"}
    save_file(kept | {"model.embed_tokens.weight": rows}, tmp_path / "wide" / "model.safetensors", {"format": "pt"})
    ask = Ask("word " * 2000, temperature=0, length=2)
    list(answers([tmp_path / "wide"], BASE, replace(ask, prompt="word"), shelf=(shelf := Shelf())))

    with metered() as taken:
        *_, (told,) = answers([tmp_path / "wide"], BASE, ask, shelf=shelf)

    assert (told.state, told.error) == ("done", "")
    assert taken.peak - taken.before < 400 << 20  # numbers for every token of the prompt would take 800 MB


def test_a_space_shows_a_model_no_more_of_a_prompt_than_its_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/mergescope")
    monkeypatch.setattr(space, "TOKENS", 8)

    *_, (answer,) = answers([BASE], BASE, Ask("word " * 40, temperature=0, length=4))
    *_, (short,) = answers([BASE], BASE, Ask("word", temperature=0, length=4))

    words = r"The first \d+ tokens of the prompt are beyond what this Space lets a model see, which is 8\."
    assert re.fullmatch(words, answer.note)
    assert answer.text
    assert not short.note
