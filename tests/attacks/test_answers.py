"""Models made to be asked: their configs, tokenizers and templates run nothing, ask for nothing, and end nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merging import loading
from merging.errors import MergeError
from merging.generate import Answer, Ask, answers
from merging.growth import check_growth
from tests.attacks.conftest import ZOO

Change = Callable[[dict[str, Any]], Any]
CODE = 'from pathlib import Path\nPath(__file__).with_name("done").write_text("")\nC = M = T = 1\n'
OWN = {"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}}


def changed(folder: Path, name: str, change: dict[str, Any] | Change) -> Path:
    """A model of the zoo with another config or tokenizer."""
    model = Path(shutil.copytree(ZOO / "python", folder / "evil"))
    content = json.loads((model / name).read_text())
    change(content) if callable(change) else content.update(change)
    (model / name).write_text(json.dumps(content))
    return model


def asked(model: Path, prompt: str = "def ", chat: bool = False) -> Answer:
    *_, (answer, other) = answers([model, ZOO / "bible"], ZOO / "base", Ask(prompt, 0, length=2, chat=chat))
    assert other.text  # whoever is asked beside it answers
    return answer


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["llama", "evil"])
def test_code_that_comes_with_a_model_is_never_run(name: str, kind: str, tmp_path: Path) -> None:
    model = changed(tmp_path, name, {**OWN, "trust_remote_code": True, "model_type": kind, "tokenizer_class": "T"})
    for file in ("evil.py", "modeling.py", "tokenizer.py"):
        (model / file).write_text(CODE)

    answer = asked(model)

    assert answer.text or answer.error.startswith(("evil could not be loaded", "The tokenizer in"))
    assert not (model / "done").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_experts_implementation"])
def test_a_config_does_not_fetch_code_to_compute_with(key: str, tmp_path: Path) -> None:
    assert asked(changed(tmp_path, "config.json", {key: "evil/kernel"})).text


def test_an_adapters_config_beside_a_model_does_not_lead_to_another(tmp_path: Path) -> None:
    model = changed(tmp_path, "config.json", {})
    told = {"peft_type": "LORA", "base_model_name_or_path": str(ZOO / "bible"), "task_type": "CAUSAL_LM"}
    (model / "adapter_config.json").write_text(json.dumps(told))

    answer = asked(model)

    plain, *_ = next(reversed(list(answers([ZOO / "python"], ZOO / "base", Ask("def ", 0, length=2)))))
    assert answer.error or answer.text == plain.text


CONFIGS: dict[str, dict[str, Any]] = {
    "layers": {"num_hidden_layers": 10**9},
    "some layers": {"num_hidden_layers": 300},
    "experts": {"num_local_experts": 10**9},
    "heads": {"head_dim": 10**10},
    "inside": {"text_config": {"num_hidden_layers": 10**9}},
    "none": {"num_attention_heads": 0},
    "negative": {"hidden_size": -1},
    "large": {"vocab_size": 10**30},
    "dtype": {"dtype": "os.system", "torch_dtype": "os.system"},
    "text": {"max_position_embeddings": "x"},
    "activation": {"hidden_act": "__import__('os')"},
    "kind": {"model_type": ["llama"]},
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=list(CONFIGS))
def test_a_config_that_asks_for_the_impossible_is_told(change: dict[str, Any], tmp_path: Path) -> None:
    answer = asked(changed(tmp_path, "config.json", change))

    assert answer.error
    assert "\n" not in answer.error


def grown(part: str, times: int, step: dict[str, Any]) -> Change:
    return lambda content: content.update({part: {"type": "Sequence", f"{part}s": [step] * times}})


LETTER = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
TOKENIZERS: dict[str, Change] = {
    "kind": lambda content: content.update(normalizer={"type": "Nothing"}),
    "vocabulary": lambda content: content["model"].update(vocab={"a": -1}),
    "row": lambda content: content["model"].update(vocab={"a": 2**31}),
    "merges": lambda content: content["model"].update(merges=["x y"]),
    "pattern": lambda content: content.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": False}
    ),
    "backtracking": lambda content: content.update(
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": "(a|aa)+$|(a+)+b"},
            "behavior": "Isolated",
            "invert": False,
        }
    ),
    "growing": grown("normalizer", 60, LETTER),
    "growing in the end": grown("decoder", 60, LETTER),
    "growing at once": grown("normalizer", 1, {**LETTER, "content": "a" * 2000}),
    "growing at nothing": grown("normalizer", 60, {**LETTER, "pattern": {"Regex": ""}, "content": "a"[:1] * 2}),
    "growing in front": grown("normalizer", 2, {"type": "Prepend", "prepend": "a" * 2000}),
    "a table": grown(
        "normalizer", 1, {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAA" + "YWFh" * 4000 + "AA=="}
    ),
}


@pytest.mark.parametrize("change", TOKENIZERS.values(), ids=list(TOKENIZERS))
def test_a_tokenizer_that_is_none_is_told(change: Change, tmp_path: Path) -> None:
    answer = asked(changed(tmp_path, "tokenizer.json", change), "a" * 60 + "c")

    assert answer.error
    assert answer.text == ""


@pytest.mark.parametrize("name", ["base", "bible", "python", "shakespeare"])
def test_tokenizers_in_use_grow_as_far_as_they_do(name: str) -> None:
    check_growth(ZOO / name / "tokenizer.json")


def test_steps_that_tokenizers_in_use_have_are_taken(tmp_path: Path) -> None:
    steps = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        {"type": "NFKD"},
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"normalizer": {"type": "Sequence", "normalizers": steps}}))

    check_growth(tmp_path / "tokenizer.json")


def test_a_prompt_without_end_is_refused() -> None:
    with pytest.raises(
        MergeError, match=r"^The prompt has 100,001 characters, and 100,000 can be asked\. Shorten it\.$"
    ):
        Ask("a" * 100_001).checked()


def test_whoever_stops_is_not_told_of_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), loading.told_of("It"):
        raise KeyboardInterrupt
