"""Merging from disk to disk: what is written, what is told on the way, and what is left when it does not end."""

import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from merging import groups, passes, ranking
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.engine import Step, merge, merge_groups
from merging.errors import MergeError, MergeStopped
from merging.header import STORED_AS
from merging.method import METHODS, Group
from merging.output import Output
from merging.publish import target
from merging.recipe import Recipe, load_recipe
from tests.conftest import DATA_FREE, TEMPLATE, Family, random_tensors, write_model

NAMES = DATA_FREE


def in_memory(method: str, base: Path, experts: list[Path], **values: Any) -> dict[str, torch.Tensor]:
    """The same merge of whole tensors, without the engine's streams and files."""
    opened = open_checkpoint(base), [open_checkpoint(path) for path in experts]
    groups = [
        Group(name, opened[0].tensor(name).float(), torch.stack([e.tensor(name).float() for e in opened[1]]))
        for name in opened[0].entries
    ]
    return dict(merge_groups(METHODS[method], groups, **values))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_after(steps: int) -> tuple[Any, threading.Event]:
    """A listener that asks to stop when it has heard that many steps, and the event with which it asks."""
    event, heard = threading.Event(), []

    def listen(step: Step) -> None:
        heard.append(step)
        if len(heard) == steps:
            event.set()

    return listen, event


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("shards", [1, 3])
def test_a_merged_folder_holds_what_the_method_gives(
    method: str, shards: int, family: Family, tmp_path: Path, small_chunks: Callable[..., None]
) -> None:
    base, experts = family(METHODS[method].taking(3), shards=shards)
    small_chunks(7)

    merge(Recipe(method, base, tuple(experts)), tmp_path / "out")

    merged = load_file(tmp_path / "out" / "model.safetensors")
    expected = in_memory(method, base, experts)
    assert set(merged) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor)


@pytest.mark.parametrize("method", NAMES)
def test_the_same_recipe_gives_the_same_bytes(method: str, family: Family, tmp_path: Path) -> None:
    base, experts = family(METHODS[method].taking(3), torch.bfloat16)
    recipe = Recipe(method, base, tuple(experts))

    merge(recipe, tmp_path / "one")
    merge(recipe, tmp_path / "two")

    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


@pytest.mark.parametrize("method", NAMES)
def test_the_recipe_in_the_result_makes_it_again(method: str, family: Family, tmp_path: Path) -> None:
    base, experts = family(METHODS[method].taking(2))
    weights = (0.5, 1.5) if "weight" in METHODS[method].params else ()
    merge(Recipe(method, base, tuple(experts), weights), tmp_path / "one")

    recipe = load_recipe(tmp_path / "one" / "mergescope.yaml")
    merge(recipe, tmp_path / "two")

    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_the_recipe_is_in_the_weights_file_too(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)

    merge(Recipe("ties", base, tuple(experts)), tmp_path / "out")

    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "pt"
    assert metadata["recipe"] == (tmp_path / "out" / "mergescope.yaml").read_text()
    assert str(tmp_path) not in metadata["recipe"]


def test_the_result_has_the_dtypes_of_the_base(tmp_path: Path) -> None:
    start = random_tensors(0)
    mixed = {name: tensor.to(dtype) for (name, tensor), dtype in zip(start.items(), DTYPES, strict=True)}
    base, expert = write_model(tmp_path / "base", mixed), write_model(tmp_path / "expert", random_tensors(1))

    merge(Recipe("linear", base, (expert,)), tmp_path / "out")

    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert [merged[name].dtype for name in start] == DTYPES
    assert all(torch.equal(merged[name], tensor.to(merged[name].dtype)) for name, tensor in random_tensors(1).items())


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def test_the_result_is_rounded_once(family: Family, tmp_path: Path) -> None:
    base, experts = family(3, torch.bfloat16)

    merge(Recipe("linear", base, tuple(experts)), tmp_path / "out")

    merged = load_file(tmp_path / "out" / "model.safetensors")
    models = [load_file(path / "model.safetensors") for path in experts]
    third = torch.tensor(1.0) / 3
    for name, tensor in merged.items():
        once = sum(third * model[name].float() for model in models)
        assert isinstance(once, torch.Tensor)
        assert torch.equal(tensor, once.bfloat16())


def test_what_cannot_be_merged_is_copied_from_the_base(tmp_path: Path, small_chunks: Callable[..., None]) -> None:
    others = {"ids": torch.arange(9), "mask": torch.tensor([True, False]), "empty": torch.ones(0, 2)}
    base = write_model(tmp_path / "base", {"w": torch.ones(3), "scale": torch.tensor(2.0)} | others)
    moved = {"w": torch.zeros(3), "scale": torch.tensor(4.0), "empty": torch.ones(0, 2), "more": torch.ones(1)}
    expert = write_model(tmp_path / "expert", moved)
    small_chunks(4)

    report = merge(Recipe("linear", base, (expert,)), tmp_path / "out")

    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert set(merged) == {"w", "scale", *others}
    assert all(torch.equal(merged[name], tensor) for name, tensor in others.items())
    assert (merged["w"].tolist(), merged["scale"].shape, merged["scale"].item()) == ([0.0] * 3, (), 4.0)
    assert report.fates["more"] == "left out: only expert has it, the base does not"


def test_a_large_result_is_written_in_shards(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    merge(Recipe("ties", base, tuple(experts)), tmp_path / "one")

    merge(Recipe("ties", base, tuple(experts)), tmp_path / "many", shard_size=200)

    one, many = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) == 3
    assert set(one.entries) == set(many.entries)
    assert all(torch.equal(one.tensor(name), many.tensor(name)) for name in one.entries)


def test_lone_files_can_be_merged(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    soup = shutil.copy(experts[0] / "model.safetensors", tmp_path / "soup.safetensors")

    merge(Recipe("linear", base / "model.safetensors", (Path(soup),)), tmp_path / "out")

    assert (tmp_path / "out" / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert open_checkpoint(tmp_path / "out").tensor("model.norm.weight").tolist() == (
        open_checkpoint(soup).tensor("model.norm.weight").tolist()
    )


def test_the_report_says_what_was_written(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)

    report = merge(Recipe("ties", base, tuple(experts)), str(tmp_path / "new" / "out"))

    assert report.out == tmp_path / "new" / "out"
    assert report.bytes == open_checkpoint(report.out).bytes
    assert set(report.fates.values()) == {"merged"}


def test_a_merged_llama_loads_as_its_base_does(llamas: tuple[Path, list[Path]], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, experts = llamas
    merge(Recipe("task_arithmetic", base, tuple(experts), values={"lambda": 1.0}), tmp_path / "out")

    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")

    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    assert model.generation_config.max_new_tokens == 5
    assert tokenizer("h i")["input_ids"] == AutoTokenizer.from_pretrained(base)("h i")["input_ids"]
    assert tokenizer.chat_template == TEMPLATE
    expected = in_memory("task_arithmetic", base, experts, scaling=1.0)
    torch.testing.assert_close(model.state_dict()["model.embed_tokens.weight"], expected["model.embed_tokens.weight"])
    assert model(torch.tensor([[1, 4, 5]])).logits.isfinite().all()


def test_all_files_that_loading_needs_are_carried_over(llamas: tuple[Path, list[Path]], tmp_path: Path) -> None:
    base, experts = llamas

    merge(Recipe("linear", base, tuple(experts)), tmp_path / "out")

    made = files_of(tmp_path / "out")
    assert {*files_of(base), "mergescope.yaml", "mergescope.json"} == set(made)
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= set(made)
    assert all(made[name] == content for name, content in files_of(base).items() if name != "model.safetensors")


def test_other_files_of_the_base_are_not_carried_over(family: Family, tmp_path: Path) -> None:
    base, experts = family(1)
    (base / "optimizer.pt").write_bytes(b"large")
    (base / "tokenizer.model").write_bytes(b"pieces")

    merge(Recipe("linear", base, tuple(experts)), tmp_path / "out")

    made = files_of(tmp_path / "out")
    assert made["tokenizer.model"] == b"pieces"
    assert "optimizer.pt" not in made


PASSES = [
    ("linear", {}, 0),
    ("task_arithmetic", {}, 0),
    ("from", {}, 1),
    ("from", {"scope": "model"}, 1),
    ("ties", {}, 2),
    ("ties", {"sign": "normfrac"}, 3),
    ("ties", {"scope": "tensor"}, 2),
    ("ties", {"variant": "mergekit"}, 1),
    ("pcb", {}, 2),
    ("pcb", {"scope": "tensor", "variant": "pairwise"}, 2),
]


@pytest.mark.parametrize(("method", "values", "passes"), PASSES)
def test_progress_counts_every_pass_and_reaches_its_end(
    method: str, values: dict[str, Any], passes: int, family: Family, tmp_path: Path
) -> None:
    base, experts = family(2)
    steps: list[Step] = []

    merge(Recipe(method, base, tuple(experts), values=values), tmp_path / "out", steps.append)

    tensors = len(random_tensors(0))
    total = (passes + 1) * tensors
    assert [step.done for step in steps] == list(range(total + 1))
    assert {step.total for step in steps} == {total}
    assert [step.bytes_done for step in steps] == sorted(step.bytes_done for step in steps)
    assert steps[-1].bytes_done == steps[-1].bytes_total == (passes + 1) * 3 * open_checkpoint(base).bytes
    assert [step.stage for step in steps].count("Merging") == tensors
    assert (steps[-1].stage, steps[-1].name) == ("Done", "")


@pytest.mark.parametrize(("method", "scope"), [("ties", "model"), ("ties", "tensor"), ("pcb", "model")])
def test_passes_that_nobody_expected_are_still_before_the_end(
    method: str, scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a rank is not in the interval that a sample suggests, the weights are gone over again."""
    for module in (groups, passes):
        monkeypatch.setattr(module, "FEW", 50)
    for name, value in [("SAMPLED", 2), ("RUN", 3), ("BINS", 4)]:
        monkeypatch.setattr(ranking, name, value)
    paths = [
        write_model(tmp_path / f"{seed}", {"w": random_tensors(seed)["model.embed_tokens.weight"].repeat(9, 9)})
        for seed in range(3)
    ]
    steps: list[Step] = []

    merge(Recipe(method, paths[0], tuple(paths[1:]), values={"scope": scope}), tmp_path / "out", steps.append)

    surveys = [step.stage for step in steps].count("Surveying")
    expected = steps[0].total
    assert surveys + 1 == steps[-1].total > expected
    assert [step.done for step in steps] == list(range(surveys + 2))
    assert [step.stage for step in steps] == ["Surveying"] * surveys + ["Merging", "Done"]
    assert steps[-1].bytes_done == steps[-1].bytes_total
    assert all(step.bytes_done < step.bytes_total for step in steps[:-1])


def test_a_piece_that_is_read_again_counts_once(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read in one call that fails is tried again part by part."""
    files = pytest.importorskip("merging.kernels.files")
    base, experts = family(2)
    steps: list[Step] = []
    monkeypatch.setattr(files, "squares", lambda *_: False)

    merge(Recipe("from", base, tuple(experts), values={"scope": "model"}), tmp_path / "out", steps.append)

    assert [step.done for step in steps] == list(range(9))
    assert {step.total for step in steps} == {8}


def test_a_survey_of_each_tensor_takes_turns_with_its_merge(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    steps: list[Step] = []

    merge(Recipe("from", base, tuple(experts)), tmp_path / "out", steps.append, workers=1)

    assert [step.stage for step in steps] == ["Surveying", "Merging"] * 4 + ["Done"]
    assert [step.name for step in steps[:4]] == ["model.embed_tokens.weight"] * 2 + [
        "model.layers.0.mlp.up_proj.weight"
    ] * 2


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_a_merge_stopped_before_a_tensor_is_finished_leaves_nothing(steps: int, family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    before = sorted(tmp_path.rglob("*"))
    listen, event = stop_after(steps)

    with pytest.raises(MergeStopped):
        merge(Recipe("ties", base, tuple(experts)), tmp_path / "new" / "deep" / "out", listen, event, workers=1)

    assert sorted(tmp_path.rglob("*")) == before


def test_a_merge_can_be_stopped_in_the_middle_of_a_tensor(
    family: Family, tmp_path: Path, small_chunks: Callable[..., None]
) -> None:
    base, experts = family(1)
    small_chunks(4)
    listen, event = stop_after(3)
    steps: list[Step] = []

    with pytest.raises(MergeStopped):
        merge(
            Recipe("linear", base, tuple(experts)),
            tmp_path / "out",
            lambda step: (steps.append(step), listen(step)),
            event,
            workers=1,
        )

    assert len(steps) == 3
    assert steps[-1].done == 0


def test_a_merge_is_stopped_while_it_copies(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", {"w": torch.ones(2), "ids": torch.arange(4)})
    event = threading.Event()
    event.set()

    with pytest.raises(MergeStopped) as caught:
        merge(Recipe("linear", base, (base,)), tmp_path / "out", stop=event)

    assert str(caught.value) == "Stopped. Nothing was written."
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_stopped_merge_leaves_an_empty_target_as_it_was(family: Family, tmp_path: Path) -> None:
    base, experts = family(1)
    (tmp_path / "out").mkdir()
    listen, event = stop_after(2)

    with pytest.raises(MergeStopped):
        merge(Recipe("linear", base, tuple(experts)), tmp_path / "out", listen, event)

    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_target_is_filled(family: Family, tmp_path: Path) -> None:
    base, experts = family(1)
    (tmp_path / "out").mkdir()

    merge(Recipe("linear", base, tuple(experts)), tmp_path / "out")

    assert open_checkpoint(tmp_path / "out").parameters == open_checkpoint(base).parameters


def test_nothing_is_at_the_target_before_all_of_it_is(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    seen: list[bool] = []

    merge(Recipe("ties", base, tuple(experts)), tmp_path / "out", lambda step: seen.append((tmp_path / "out").exists()))

    assert seen == [False] * 13
    assert (tmp_path / "out").exists()


def test_a_result_waits_for_the_disk_unless_told_not_to(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family(1)
    settled = list[tuple[int, int]]()
    monkeypatch.setattr(os, "fsync", lambda number: settled.append((os.fstat(number).st_ino, os.fstat(number).st_size)))
    recipe = Recipe("linear", base, tuple(experts))

    out = merge(recipe, tmp_path / "out").out
    waited = settled.copy()
    settled.clear()
    merge(recipe, tmp_path / "other", fsync=False)

    files = {(file.stat().st_ino, file.stat().st_size) for file in out.iterdir()}
    assert files < {*waited}  # each as it is now
    assert {out.stat().st_ino, tmp_path.stat().st_ino} <= {number for number, _ in waited}
    assert not {(file.stat().st_ino, file.stat().st_size) for file in (tmp_path / "other").iterdir()} & {*settled}


@pytest.mark.parametrize("target", ["base", "expert-1", "notes.txt", "full"])
def test_nothing_is_ever_overwritten(target: str, family: Family, tmp_path: Path) -> None:
    base, experts = family(1)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    with pytest.raises(MergeError) as caught:
        merge(Recipe("linear", base, tuple(experts)), tmp_path / target)

    message = f"{tmp_path / target} is there already, and nothing is ever overwritten. Choose another output folder."
    assert str(caught.value) == message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_another_wrote_in_the_meantime_is_left_alone(family: Family, tmp_path: Path) -> None:
    base, experts = family(1)

    def interfere(step: Step) -> None:
        if step.done == 2:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").write_text("theirs")

    with pytest.raises(MergeError, match="could not be written"):
        merge(Recipe("linear", base, tuple(experts)), tmp_path / "out", interfere)

    assert files_of(tmp_path / "out") == {"theirs": b"theirs"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.part", "base", "expert-1", "out"]  # to go on from


def test_a_target_below_a_file_is_refused(family: Family, tmp_path: Path) -> None:
    base, experts = family(1)
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(MergeError) as caught:
        merge(Recipe("linear", base, tuple(experts)), tmp_path / "notes.txt" / "out")

    assert str(caught.value) == f"{tmp_path}/notes.txt is a file. Choose another output folder."


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("free", "words"),
    [(0, "0 bytes free and the merge needs 462 bytes"), (336, "336 bytes free and the merge needs 462 bytes")],
)
def test_a_full_disk_is_found_before_anything_is_written(
    free: int, words: str, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family(1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free, 0, free))

    with pytest.raises(MergeError) as caught:
        merge(Recipe("linear", base, tuple(experts)), tmp_path / "new" / "out")

    assert str(caught.value) == f"{tmp_path} has {words}. Make room or choose another folder."
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("size", "words"), [(999, "999 bytes"), (12_345, "12.3 kB"), (5_000_000, "5 MB"), (14_960_000_000, "15.0 GB")]
)
def test_sizes_are_told_in_their_own_unit(
    size: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0))

    with pytest.raises(MergeError, match=f"0 bytes free and the merge needs {words}"):
        target(tmp_path / "out", size)


def test_everything_that_headers_tell_is_checked_before_a_weight_is_read(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family(1)
    other = write_model(tmp_path / "other", {"w": torch.ones(1)})
    monkeypatch.setattr(Checkpoint, "read", lambda *_: pytest.fail("a weight was read"))

    with pytest.raises(MergeError, match="another architecture"):
        merge(Recipe("ties", base, (*experts, other)), tmp_path / "out")
    with pytest.raises(MergeError, match="is there already"):
        merge(Recipe("ties", base, tuple(experts)), base)
    with pytest.raises(MergeError, match="must be between"):
        merge(Recipe("ties", base, tuple(experts), values={"density": 7}), tmp_path / "out")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("method", "model"),
    [("linear", "expert-2"), *product(["task_arithmetic", "ties", "from", "pcb"], ["base", "expert-2"])],
)
def test_a_number_that_is_not_finite_is_named(
    number: float, model: str, method: str, family: Family, tmp_path: Path, both_paths: str
) -> None:
    base, experts = family(2)
    tensors = load_file(tmp_path / model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][5, 3] = number
    write_model(tmp_path / model, tensors)

    with pytest.raises(MergeError) as caught:
        merge(Recipe(method, base, tuple(experts)), tmp_path / "out")

    assert str(caught.value) == (
        f"`model.layers.1.mlp.up_proj.weight` of {model} holds NaN or infinity. "
        "A merge would spread it; choose another model."
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "expert-1", "expert-2"]


@pytest.mark.parametrize(("dtype", "large"), [(torch.float16, 40000.0), (torch.bfloat16, 2e38), (torch.float32, 2e38)])
def test_a_result_too_large_for_its_dtype_is_refused(dtype: torch.dtype, large: float, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", {"w": torch.zeros(2, dtype=dtype)})
    expert = write_model(tmp_path / "expert", {"w": torch.tensor([1.0, large], dtype=dtype)})

    with pytest.raises(MergeError) as caught:
        merge(Recipe("task_arithmetic", base, (expert,), values={"lambda": 2}), tmp_path / "out")

    assert (
        str(caught.value)
        == f"The merged `w` is too large for {STORED_AS[str(dtype).removeprefix('torch.')]}. Lower the scaling."
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "expert"]


def test_a_disk_that_fails_on_the_way_leaves_nothing(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family(1)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Output, "place", fail)

    with pytest.raises(MergeError) as caught:
        merge(Recipe("linear", base, tuple(experts)), tmp_path / "out")

    assert str(caught.value) == (
        f"{tmp_path}/out could not be written ([Errno 28] No space left on device). "
        "Make room or choose another output folder."
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "expert-1"]


def test_our_own_bug_keeps_its_traceback_and_leaves_nothing(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family(1)
    monkeypatch.setattr(Output, "place", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        merge(Recipe("linear", base, tuple(experts)), tmp_path / "out")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "expert-1"]


def test_two_merges_at_once_do_not_disturb_each_other(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    merge(Recipe("ties", base, tuple(experts)), tmp_path / "alone")
    inner: list[Path] = []

    def another(step: Step) -> None:
        if step.done == 3:
            thread = threading.Thread(
                target=lambda: inner.append(merge(Recipe("pcb", base, tuple(experts)), tmp_path / "second").out)
            )
            thread.start()
            thread.join()

    merge(Recipe("ties", base, tuple(experts)), tmp_path / "first", another)

    assert inner == [tmp_path / "second"]
    assert files_of(tmp_path / "first") == files_of(tmp_path / "alone")


def test_a_merge_into_a_link_to_an_empty_folder_fills_that_folder(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    report = merge(Recipe("from", base, tuple(experts)), tmp_path / "link")

    assert report.out == tmp_path / "real"
    assert (tmp_path / "link" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x", "x" * 300, "a\0b"])
def test_a_folder_that_cannot_be_is_refused_in_words(name: str) -> None:
    with pytest.raises(MergeError, match="cannot be an output folder"):
        target(name, 1)


def test_weights_without_an_average_are_refused_before_anything_is_made(family: Family, tmp_path: Path) -> None:
    base, experts = family()

    with pytest.raises(MergeError, match="The weights add up to 0"):
        merge(Recipe("linear", base, tuple(experts), (1.0, -1.0)), tmp_path / "deep" / "out")

    assert not (tmp_path / "deep").exists()


def test_other_tensors_can_have_the_plain_mean_in_from(family: Family, tmp_path: Path) -> None:
    base, experts = family()

    merge(Recipe("from", base, tuple(experts), values={"k": 4.0, "others": "mean"}), tmp_path / "out")

    merged, start = (open_checkpoint(path).tensor("model.norm.weight") for path in (tmp_path / "out", base))
    ends = [open_checkpoint(path).tensor("model.norm.weight") for path in experts]
    torch.testing.assert_close(merged, start + sum(end - start for end in ends) / len(ends))
