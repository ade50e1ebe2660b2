"""Merges in memory: the bytes that would be written, no file, and what the models of transformers make of them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from merging import generate, unwritten
from merging.engine import merge
from merging.errors import MergeError, MergeStopped
from merging.generate import Ask, Shelf, answers
from merging.recipe import Recipe
from merging.unwritten import forget, merged_in_memory
from tests.conftest import Family, write_model
from tests.merging.test_companions import taught
from tests.merging.test_same_bytes import IDS, SETTINGS, models, recipe_of, stored

ZOO = Path(__file__).parents[2] / "zoo"
EXPERTS = (ZOO / "shakespeare", ZOO / "bible-lora", ZOO / "python")

__all__ = ["models"]  # a fixture


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    forget()
    yield
    forget()


def held(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """Tensors as they can be compared, to the bit."""
    bits = {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}
    return {name: (tensor.dtype, tuple(tensor.shape), bits[name]) for name, tensor in tensors.items()}


def written(folder: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    from safetensors.torch import load_file

    return held(load_file(folder / "model.safetensors"))


def files_under(*folders: Path) -> set[tuple[str, int]]:
    return {(str(file), file.stat().st_mtime_ns) for folder in folders for file in folder.rglob("*")}


@pytest.mark.parametrize(("method", "values"), SETTINGS, ids=IDS)
def test_the_tensors_are_those_that_the_merge_writes(
    method: str, values: dict[str, Any], models: tuple[Path, tuple[Path, ...]], tmp_path: Path
) -> None:
    recipe = recipe_of(method, values, models)

    made = merged_in_memory(recipe)

    merge(recipe, tmp_path / "out")
    assert held(made.tensors) == written(tmp_path / "out")
    assert {name: told[1] for name, told in stored(tmp_path / "out").items()} == {
        name: told[2] for name, told in held(made.tensors).items()
    }


@pytest.mark.parametrize("method", ["from", "pcb", "task_arithmetic"])
@pytest.mark.parametrize("out_dtype", ["", "float16"])
def test_adapters_are_experts_and_another_dtype_is_that_of_the_result(
    method: str, out_dtype: str, tmp_path: Path
) -> None:
    recipe = Recipe(method, ZOO / "base", EXPERTS, out_dtype=out_dtype)

    made = merged_in_memory(recipe, workers=2)

    merge(recipe, tmp_path / "out")
    assert held(made.tensors) == written(tmp_path / "out")


def test_tensors_that_are_copied_or_left_out_are_so_here(family: Family, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base, experts = family()
    for folder, more in ((base, "steps"), (experts[0], "own")):
        tensors = load_file(folder / "model.safetensors") | {more: torch.tensor([3, 1])}
        write_model(folder, tensors)
    recipe = Recipe("ties", base, tuple(experts))

    made = merged_in_memory(recipe)

    merge(recipe, tmp_path / "out")
    assert "steps" in made.tensors
    assert "own" not in made.tensors
    assert held(made.tensors) == written(tmp_path / "out")


def test_nothing_is_left_on_disk() -> None:
    recipe = Recipe("from", ZOO / "base", EXPERTS)
    before, written, watching = files_under(ZOO), list[str](), True

    def watch(event: str, told: tuple[Any, ...]) -> None:
        if watching and event == "open" and told[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(str(told[0]))

    sys.addaudithook(watch)  # which stays, and is told of every file that Python opens
    try:
        *_, told = answers([merged_in_memory(recipe)], ZOO / "base", Ask("And the ", temperature=0, length=4))
    finally:
        watching = False

    assert told[0].text
    assert files_under(ZOO) == before
    assert [file for file in written if "__pycache__" not in file] == []


def test_it_answers_beside_models_on_disk_as_the_written_merge_does(tmp_path: Path) -> None:
    recipe = Recipe("ties", ZOO / "base", EXPERTS, weights=(1.0, 0.5, 1.0))
    merge(recipe, tmp_path / "out")
    ask = Ask("And the king ", temperature=0.8, seed=5, length=24)

    *_, told = answers([ZOO / "base", tmp_path / "out", merged_in_memory(recipe), EXPERTS[0]], ZOO / "base", ask)

    assert [answer.error for answer in told] == [""] * 4
    assert told[2].text == told[1].text
    assert len({answer.text for answer in told}) == 3


def test_the_next_merge_takes_the_place_of_the_last_one_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "SHELF", shelf := Shelf())
    ask = Ask("And the ", temperature=0, length=2)

    for weight in (0.2, 0.8):
        recipe = Recipe("linear", ZOO / "base", EXPERTS[:1], values={"normalize": False}, weights=(weight,))
        list(answers([merged_in_memory(recipe), ZOO / "base"], ZOO / "base", ask))

    assert len(shelf.models) == 2
    assert sum(key[0] == generate.MERGE for key in shelf.models) == 1


def test_the_same_recipe_again_gives_the_last_one_and_another_replaces_it(family: Family) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts))
    first = merged_in_memory(recipe)

    assert merged_in_memory(replace(recipe, values={"density": 0.2})) is first  # its default
    other = merged_in_memory(replace(recipe, values={"density": 0.9}))
    assert other.key != first.key
    assert unwritten.KEEP.last is other


def test_a_model_that_changed_on_disk_is_merged_again(family: Family) -> None:
    base, experts = family()
    recipe = Recipe("task_arithmetic", base, tuple(experts))
    before = held(merged_in_memory(recipe).tensors)

    write_model(experts[0], {name: tensor + 1 for name, tensor in merged_in_memory(recipe).tensors.items()})

    assert held(merged_in_memory(recipe).tensors) != before


def test_a_result_that_does_not_fit_is_refused_with_its_size_before_any_weight_is_read(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts))
    monkeypatch.setattr(unwritten, "Run", None)

    with pytest.raises(MergeError, match=r"takes 336 bytes of memory, and 300 bytes may be used\. Merge it into a fo"):
        merged_in_memory(recipe, budget=300)
    with pytest.raises(MergeError, match=r"needs \d+ MB of memory to work in, and may use 1 MB"):
        merged_in_memory(recipe, budget="1MB")
    monkeypatch.setattr(unwritten, "free_memory", lambda: 200)
    with pytest.raises(MergeError, match=r"takes 336 bytes of memory, and 100 bytes may be used"):
        merged_in_memory(recipe)


def test_models_that_were_sampled_make_room_for_a_merge(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    base, experts = family()
    monkeypatch.setattr(unwritten, "SHELF", shelf := Shelf())
    list(answers([ZOO / "base", ZOO / "bible"], ZOO / "base", Ask("And the ", length=1), shelf=shelf))
    monkeypatch.setattr(unwritten, "free_memory", lambda: (1 << 30) - (len(shelf.models) * (600 << 20)))

    made = merged_in_memory(Recipe("ties", base, tuple(experts)))

    assert made.tensors
    assert not shelf.models


def test_everything_that_is_wrong_is_said_at_once(family: Family) -> None:
    base, experts = family()

    with pytest.raises(MergeError, match=r"(?s)`density`.*no file or folder"):
        merged_in_memory(Recipe("ties", base, (*experts, Path("gone")), values={"density": 7}))


def test_a_nan_is_named_by_tensor_and_model(family: Family) -> None:
    base, experts = family()
    tensors = dict(merged_in_memory(Recipe("linear", base, tuple(experts))).tensors)
    tensors["model.norm.weight"] = torch.full((4,), torch.nan)
    write_model(experts[1], tensors)

    with pytest.raises(MergeError, match=r"`model.norm.weight` of expert-2 holds NaN"):
        merged_in_memory(Recipe("ties", base, tuple(experts)))


def test_an_adapter_is_no_model_to_sample() -> None:
    adapters = (ZOO / "bible-lora", ZOO / "python-lora")

    with pytest.raises(MergeError, match="makes an adapter"):
        merged_in_memory(Recipe("task_arithmetic", ZOO / "base", adapters, result="adapter"))


def test_stopping_ends_it_and_keeps_nothing(family: Family) -> None:
    base, experts = family()
    stop = threading.Event()
    steps = []

    with pytest.raises(MergeStopped):
        merged_in_memory(Recipe("ties", base, tuple(experts)), lambda step: steps.append(step) or stop.set(), stop)

    assert steps
    assert unwritten.KEEP.last is None


def test_whoever_waits_for_anothers_merge_can_stop(family: Family) -> None:
    base, experts = family()
    stop = threading.Event()
    stop.set()

    with unwritten.KEEP.lock, pytest.raises(MergeStopped):
        merged_in_memory(Recipe("ties", base, tuple(experts)), stop=stop)


def test_progress_ends_with_all_of_it(family: Family) -> None:
    base, experts = family()
    steps = []

    merged_in_memory(Recipe("ties", base, tuple(experts)), steps.append)

    assert (steps[-1].stage, steps[-1].done) == ("Done", steps[-1].total)


def test_a_base_without_a_config_is_merged_and_cannot_answer(family: Family) -> None:
    base, experts = family()
    (base / "config.json").unlink()
    made = merged_in_memory(Recipe("linear", base, tuple(experts)))

    *_, (answer,) = answers([made], base, Ask("x"))

    assert answer.error == "The base base has no config.json. Choose a model folder as the base."


@pytest.mark.parametrize("source", ["base", "union", "math"])
def test_another_vocabulary_answers_as_the_written_merge_does(
    source: str, llamas: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    base, experts = llamas
    math = taught(experts[0], tmp_path / "math", ["<tool>", "omega"], 66)
    (math / "generation_config.json").write_text('{"eos_token_id": 29, "bos_token_id": 1}')
    template = "{% for message in messages %}<tool> omega {{ message.content }}{% endfor %}"
    donor = str(math) if source == "math" else source
    recipe = Recipe("linear", base, (math, experts[1]), tokenizer_source=donor, chat_template=template)
    merge(recipe, tmp_path / "out")

    made = merged_in_memory(recipe)

    ours, theirs = generate.SHELF.take(made, base), generate.SHELF.take(tmp_path / "out", base)
    text = "<s> a <tool> omega z"
    assert held(made.tensors) == written(tmp_path / "out")
    assert ours.tokenizer(text)["input_ids"] == theirs.tokenizer(text)["input_ids"]
    assert ours.tokenizer.decode([3, 29, 30], skip_special_tokens=True) == theirs.tokenizer.decode(
        [3, 29, 30], skip_special_tokens=True
    )
    assert ours.tokenizer.chat_template == theirs.tokenizer.chat_template == template
    assert ours.model.config.vocab_size == theirs.model.config.vocab_size
    assert ours.model.generation_config.eos_token_id == theirs.model.generation_config.eos_token_id
    *_, told = answers([made, tmp_path / "out"], base, Ask("a b", temperature=1, length=9, chat=True))
    assert told[0] == told[1]
    assert told[0].text


def test_code_in_the_folder_of_a_base_is_never_run(llamas: tuple[Path, list[Path]], tmp_path: Path) -> None:
    import json
    import shutil

    base, experts = llamas
    shutil.copytree(base, tmp_path / "base")
    told = json.loads((base / "config.json").read_text()) | {"model_type": "strange"}
    told["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(told))
    (tmp_path / "base" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    made = merged_in_memory(Recipe("linear", tmp_path / "base", tuple(experts)))

    *_, (answer,) = answers([made], tmp_path / "base", Ask("a"))

    assert "no classes for its model type, 'strange'" in answer.error
    assert not (tmp_path / "ran").exists()
