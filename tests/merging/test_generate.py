"""Text from several models side by side."""

from __future__ import annotations

import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from merging import MergeError, generate
from merging.generate import Ask, Shelf, answers
from merging.meter import metered
from tests.conftest import random_tensors, write_model

ZOO = Path(__file__).parents[2] / "zoo"
BASE, EXPERT, ADAPTER = ZOO / "base", ZOO / "bible", ZOO / "bible-lora"


def last(paths: list[Path], ask: Ask) -> list[str]:
    *_, told = answers(paths, BASE, ask)
    assert all(answer.state == "done" for answer in told)
    for answer in told:
        if answer.error:
            raise MergeError(answer.error)
    return [answer.text for answer in told]


def test_at_temperature_0_a_model_says_what_transformers_says() -> None:
    tokenizer = AutoTokenizer.from_pretrained(EXPERT)
    model = AutoModelForCausalLM.from_pretrained(EXPERT, dtype=torch.float32)
    prompt = tokenizer("And the ", return_tensors="pt")
    expected = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]

    assert last([EXPERT], Ask("And the ", temperature=0, length=16)) == [
        tokenizer.decode(expected, skip_special_tokens=True)
    ]


def test_the_seed_decides_and_the_company_does_not() -> None:
    ask = Ask("The ", temperature=1, length=12, seed=3)

    alone, together = last([EXPERT], ask), last([BASE, EXPERT], ask)

    assert together[1] == alone[0]
    assert last([EXPERT], Ask("The ", temperature=1, length=12, seed=4)) != alone


def test_answers_grow_by_a_token_of_each_at_a_time() -> None:
    steps = list(answers([BASE, EXPERT], BASE, Ask("The ", temperature=0, length=5)))

    assert len(steps) >= 5
    for before, after in pairwise(steps):
        assert all(new.text.startswith(old.text.rstrip("\ufffd")) for old, new in zip(before, after, strict=True))


def test_an_adapter_and_a_lone_file_answer_with_the_tokenizer_of_the_base(tmp_path: Path) -> None:
    shutil.copy(EXPERT / "model.safetensors", tmp_path / "lone.safetensors")
    ask = Ask("And the ", temperature=0, length=12)

    adapter, lone = last([ADAPTER, tmp_path / "lone.safetensors"], ask)

    assert lone == last([EXPERT], ask)[0]
    assert adapter != last([BASE], ask)[0]


def test_stopping_ends_all_answers() -> None:
    stop = threading.Event()
    told = []

    for told in answers([BASE, EXPERT], BASE, Ask("The ", length=200), stop):
        if len(told[1].text) > 3:
            stop.set()

    assert 3 < len(told[1].text) < 60
    assert told[1].state == "answering"


def test_stopping_while_models_load_loads_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "SHELF", shelf := Shelf())
    stop = threading.Event()

    for _ in answers([BASE, EXPERT, ADAPTER], BASE, Ask("The "), stop):
        stop.set()

    assert len(shelf.models) == 1


def test_a_model_that_cannot_answer_says_why_and_the_others_answer(tmp_path: Path) -> None:
    *_, told = answers([BASE, tmp_path / "gone", EXPERT], BASE, Ask("The ", temperature=0, length=4))

    assert "There is no file or folder" in told[1].error
    assert told[0].text
    assert told[2].text


def test_a_file_of_another_name_in_a_folder_answers_too(tmp_path: Path) -> None:
    shutil.copytree(EXPERT, tmp_path / "named")
    (tmp_path / "named" / "model.safetensors").rename(tmp_path / "named" / "weights.safetensors")
    ask = Ask("And the ", temperature=0, length=8)

    assert last([tmp_path / "named"], ask) == last([EXPERT], ask)


def test_models_that_do_not_fit_memory_together_answer_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "SHELF", shelf := Shelf())
    size = generate.memory_of(generate.open_base(BASE))
    held = lambda: sum(loaded.bytes for loaded in shelf.models.values())  # noqa: E731
    monkeypatch.setattr(generate, "free_memory", lambda: 3 * size - held())  # half may be filled: one model
    ask = Ask("The ", temperature=0, length=4)

    steps = list(answers([BASE, EXPERT], BASE, ask))

    assert any(first.state == "done" and second.state == "waiting" for first, second in steps)
    assert len(shelf.models) == 1
    assert [answer.text for answer in steps[-1]] == last([BASE, EXPERT], ask)


def test_models_in_memory_answer_together_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "SHELF", shelf := Shelf())
    size = generate.memory_of(generate.open_base(BASE))
    held = lambda: sum(loaded.bytes for loaded in shelf.models.values())  # noqa: E731
    monkeypatch.setattr(generate, "free_memory", lambda: 5 * size - held())  # half may be filled: two models
    last([BASE, EXPERT], Ask("The ", length=2))

    assert list(generate._batches([BASE, EXPERT], BASE, shelf)) == [[0, 1]]


def test_a_model_that_is_here_is_taken_while_another_one_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, load, begun, go = Shelf(), generate.load, threading.Event(), threading.Event()
    here = shelf.take(BASE, BASE)
    loaded: list[str] = []

    def slow(model: Any, *given: Any) -> Any:
        loaded.append(model.name)
        begun.set()
        assert go.wait(60)
        return load(model, *given)

    monkeypatch.setattr(generate, "load", slow)
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(shelf.take, EXPERT, BASE) for _ in range(2)]
        try:
            assert begun.wait(60)
            assert pool.submit(shelf.take, BASE, BASE).result(60) is here
        finally:
            go.set()
        one, other = (each.result(60) for each in others)

    assert one is other  # who waited for it does not load it again
    assert len(loaded) == 1


def test_a_model_larger_than_memory_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "SHELF", Shelf())
    monkeypatch.setattr(generate, "free_memory", lambda: 1000)

    with pytest.raises(MergeError, match=r"base needs .* GB of memory"):
        last([BASE], Ask("The "))


def test_a_model_that_changed_on_disk_is_loaded_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    ask = Ask("And the ", temperature=0, length=12)
    before = last([folder], ask)

    shutil.copy(EXPERT / "model.safetensors", folder / "model.safetensors")

    assert last([folder], ask) != before


def test_a_long_prompt_keeps_its_end_and_says_so_and_a_length_beyond_the_context_is_refused() -> None:
    context = AutoModelForCausalLM.from_pretrained(BASE).config.max_position_embeddings

    *_, (answer,) = answers([BASE], BASE, Ask("word " * 2 * context, temperature=0, length=4))

    assert answer.text
    assert "tokens of the prompt are beyond what the model can see" in answer.note
    with pytest.raises(MergeError, match=f"only see {context} tokens"):
        last([BASE], Ask("The ", length=context))


def test_an_empty_prompt_starts_from_the_first_token_of_all() -> None:
    assert last([BASE], Ask("", length=8, seed=1))[0] != ""


def test_the_chat_template_wraps_the_prompt(tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(EXPERT, folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}And {{ m['content'] }}{% endfor %}")

    wrapped = last([folder], Ask("the ", temperature=0, length=8, chat=True))

    assert wrapped == last([folder], Ask("And the ", temperature=0, length=8))


def test_a_template_that_reaches_for_python_is_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(EXPERT, folder)
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")

    with pytest.raises(MergeError, match="chat template"):
        last([folder], Ask("x", chat=True))


def test_files_that_are_no_language_model_are_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "odd", random_tensors(0), config={"model_type": "nothing-known"})

    with pytest.raises(MergeError, match="odd could not be loaded"):
        last([folder], Ask("x"))


def alone(model: Path, base: Path = BASE) -> str:
    """Why a model does not answer, beside one that does."""
    *_, (answer, other) = answers([model, EXPERT], base, Ask("And the ", length=3))
    assert other.text
    return answer.error


def test_without_a_config_or_a_tokenizer_a_model_says_which_is_missing(tmp_path: Path) -> None:
    bare, mute, torn = (shutil.copytree(BASE, tmp_path / name) for name in ("bare", "mute", "torn"))
    (bare / "config.json").unlink()
    for file in mute.glob("tokenizer*"):
        file.unlink()
    (torn / "tokenizer.json").write_text("{}")

    assert alone(bare, bare) == "bare has no config.json. Choose a model folder."
    assert alone(mute, mute).startswith(f"mute cannot be asked: there is no tokenizer in {mute}. Put")
    assert alone(torn).startswith(f"The tokenizer in {torn} could not be loaded: ")
    assert alone(torn).endswith(". Check its files, or download them again.")
    assert alone(bare) == alone(mute) == ""  # which the base has


def test_weights_that_do_not_belong_to_the_config_or_the_tokenizer_are_told(tmp_path: Path) -> None:
    other, few = (shutil.copytree(EXPERT, tmp_path / name) for name in ("other", "few"))
    config = json.loads((EXPERT / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 48}))
    (few / "config.json").write_text(json.dumps({**config, "vocab_size": 40}))
    tensors = load_file(few / "model.safetensors")
    rows = {name: tensor[:40].clone() for name, tensor in tensors.items() if len(tensor) == config["vocab_size"]}
    save_file({**tensors, **rows}, few / "model.safetensors", {"format": "pt"})

    assert "The weights of other have other shapes than its config.json says." in alone(other)
    assert re.match(r"The tokenizer gives a token the row [\d,]+, and the model has 40 rows\.", alone(few))


def test_a_model_without_a_chat_template_says_that_it_was_asked_without() -> None:
    *_, (answer,) = answers([BASE], BASE, Ask("The ", length=3, chat=True))

    assert "has no chat template" in answer.note


def test_what_is_computed_between_two_tokens_is_computed_as_ever() -> None:
    told = answers([BASE], BASE, Ask("a", length=3))
    while next(told)[0].state != "answering":
        pass

    number = torch.ones(1, requires_grad=True)

    assert (2 * number).requires_grad


def test_a_model_of_which_tensors_are_missing_is_not_filled_at_random(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXPERT, tmp_path / "part"))
    tensors = load_file(folder / "model.safetensors")
    lost = "model.layers.2.mlp.up_proj.weight"
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    *_, told = answers([folder, EXPERT], BASE, Ask("The ", temperature=0, length=2))

    assert told[0].error == f"part could not be loaded: its config asks for `{lost}`, which it does not hold."
    assert told[1].text


def test_a_config_that_says_too_little_is_told_before_it_takes_memory(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')  # which is one of 7 B by default

    with metered() as taken:
        *_, (told,) = answers([tmp_path / "model"], BASE, Ask("And"))

    assert "its config asks for 6,738,415,616 parameters, and it holds 2,8" in told.error
    assert taken.peak - taken.before < 1 << 30
