"""A merge that is broken off, in whatever way, leaves its target alone, and the next one goes on to the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from merging import provenance, publish, run, workplace
from merging.checkpoint import open_checkpoint
from merging.engine import Step, merge
from merging.errors import MergeError, MergeStopped
from merging.header import Entry
from merging.output import Output, stored_checksum
from merging.recipe import Recipe, load_recipe
from tests.conftest import write_model

LAYERS = 12
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("from", {}),
    ("ties", {}),
    ("ties", {"scope": "tensor"}),
    ("pcb", {}),
]


def tensors(seed: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    start, moved = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    made = {f"model.layers.{layer}.w": torch.randn(6, 4, generator=start) for layer in range(LAYERS)}
    if seed:
        made = {name: tensor + 0.1 * torch.randn(6, 4, generator=moved) for name, tensor in made.items()}
    return {"ids": torch.arange(5), **{name: tensor.to(dtype) for name, tensor in made.items()}}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A linear merge of two experts in two files each."""
    folders = [write_model(tmp_path / f"model-{seed}", tensors(seed), shards=2) for seed in range(3)]
    return Recipe("linear", folders[0], tuple(folders[1:]))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


part = publish.beside


def finished(out: Path) -> list[str]:
    """The tensors that are finished in the folder beside the target."""
    journal = part(out) / "journal.jsonl"
    lines = journal.read_text().splitlines()[1:] if journal.is_file() else []
    return [json.loads(line)["tensor"] for line in lines]


def stopped(recipe: Recipe, out: Path, tensors: int, **settings: Any) -> list[str]:
    """Merge until so many tensors are finished, and stop there; the names of these."""
    event, merging = threading.Event(), set()

    def listen(step: Step) -> None:
        if step.stage == "Merging":
            merging.add(step.name)
        if len(merging) > tensors:
            event.set()

    with pytest.raises(MergeStopped):
        merge(recipe, out, listen, event, workers=1, **settings)
    return finished(out)


def read_again(recipe: Recipe, out: Path, **settings: Any) -> list[str]:
    """Merge, and say which tensors were read to be merged."""
    steps: list[Step] = []
    merge(recipe, out, steps.append, **settings)
    assert (steps[-1].done, steps[-1].bytes_done) == (steps[-1].total, steps[-1].bytes_total)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    return list(dict.fromkeys(step.name for step in steps if step.stage == "Merging"))


@pytest.mark.parametrize(("method", "values"), SETTINGS)
@pytest.mark.parametrize("count", [1, 5, LAYERS - 1])
def test_the_next_merge_goes_on(
    method: str, values: dict[str, Any], count: int, recipe: Recipe, tmp_path: Path, small_chunks: Callable[..., None]
) -> None:
    recipe = replace(recipe, method=method, values=values)
    small_chunks(7)
    merge(recipe, tmp_path / "whole")

    done = stopped(recipe, tmp_path / "out", count)
    assert not (tmp_path / "out").exists()
    read = read_again(recipe, tmp_path / "out", workers=3)

    assert {"ids"} < set(done)
    assert sorted(read) == sorted({*tensors(0)} - {*done})
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(("values", "words"), [({}, "steps t = "), ({"filter_wise": True}, "takes steps t ")])
def test_what_was_odd_about_finished_tensors_is_still_told(
    values: dict[str, Any], words: str, recipe: Recipe, tmp_path: Path
) -> None:
    recipe = replace(recipe, method="model_stock", values=values, warnings=("odd",))
    whole = merge(recipe, tmp_path / "whole")

    done = stopped(recipe, tmp_path / "out", 8)
    resumed = merge(recipe, tmp_path / "out")

    assert resumed.warnings == whole.warnings
    assert (whole.kept, resumed.kept) == (0, len(done))
    assert whole.warnings[0] == "odd"
    first = whole.warnings[1].split("`")[1]
    assert whole.warnings[1].startswith(f"`{first}`: Model Stock {words}")
    assert first in done
    assert json.loads((tmp_path / "out" / "mergescope.json").read_text())["warnings"] == list(whole.warnings)


@pytest.mark.parametrize("existing", [False, True])
def test_nothing_is_left_beside_a_result(existing: bool, recipe: Recipe, tmp_path: Path) -> None:
    if existing:
        (tmp_path / "out").mkdir()
    before = {path.name for path in tmp_path.iterdir()}

    merge(recipe, tmp_path / "out")

    assert {path.name for path in tmp_path.iterdir()} == before | {"out"}
    written = {path.name for path in (tmp_path / "out").iterdir()}
    carried = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert written == {"model.safetensors", "mergescope.json", "mergescope.yaml", *carried}


def test_a_merge_can_be_broken_off_again_and_again(recipe: Recipe, tmp_path: Path) -> None:
    merge(recipe, tmp_path / "whole")
    known = []

    for _ in range(4):
        known.append(len(stopped(recipe, tmp_path / "out", 2)))
    merge(recipe, tmp_path / "out")

    assert known == [4, 7, 10, 13]  # `ids`, and each time the tensor, too, that was begun
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_stop_is_heard_while_what_is_finished_is_read_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, read, event = stopped(recipe, tmp_path / "out", 5), [], threading.Event()

    def look(entry: Entry) -> str:
        read.append(entry.name)
        event.set()
        return stored_checksum(entry)

    with monkeypatch.context() as patch:
        patch.setattr(run, "stored_checksum", look)
        with pytest.raises(MergeStopped):
            merge(recipe, tmp_path / "out", stop=event, workers=1)

    assert len(read) == 1
    assert finished(tmp_path / "out") == done
    assert not set(done) & set(read_again(recipe, tmp_path / "out"))


@contextmanager
def another(recipe: Recipe, out: Path, workers: int = 1) -> Iterator[subprocess.Popen[str]]:
    """A process that merges slowly, and has finished some of the tensors."""
    (out.parent / "recipe.yaml").write_text(recipe.to_yaml(out.parent))
    told = [str(out.parent / "recipe.yaml"), str(out), str(workers), "0.1"]
    command = [sys.executable, "-m", "tests.merging.broken_off", *told]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        try:
            while len(finished(out)) < 4 and process.poll() is None:
                time.sleep(0.01)
            assert process.poll() is None, process.stderr and process.stderr.read()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("sent", "workers"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGKILL, 2)])
def test_a_process_that_is_killed(sent: signal.Signals, workers: int, recipe: Recipe, tmp_path: Path) -> None:
    with another(recipe, tmp_path / "out", workers) as process:
        process.send_signal(sent)
        _, words = process.communicate(timeout=20)
    done = finished(tmp_path / "out")

    assert process.returncode == -sent
    assert ("KeyboardInterrupt" in words) == (sent == signal.SIGINT)
    assert 4 <= len(done) < LAYERS
    assert not (tmp_path / "out").exists()
    same = load_recipe(tmp_path / "recipe.yaml")
    merge(same, tmp_path / "whole")
    assert sorted(read_again(same, tmp_path / "out")) == sorted({*tensors(0)} - {*done})
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert not list(tmp_path.glob(".*"))


def test_two_processes_on_one_target(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"

    with another(recipe, out, 2) as process:
        for _ in range(3):  # the first that is refused must not let the next one in
            with pytest.raises(MergeError) as caught:
                merge(recipe, out)
            assert str(caught.value) == f"Another merge is writing to {out}. Wait for it, or choose another folder."
        assert process.wait(20) == 0

    merge(recipe, tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")
    assert not list(tmp_path.glob(".*"))


def test_a_process_that_is_killed_at_the_very_end(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            merge(recipe, tmp_path / "out")

    assert read_again(recipe, tmp_path / "out") == []
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def spoil_tensor(folder: Path, name: str) -> None:
    entry = next(
        entry
        for file in folder.glob("*.safetensors")
        for entry in open_checkpoint(file).entries.values()
        if entry.name == name
    )
    with entry.file.open("r+b") as stream:
        stream.seek(entry.offset + 3)
        byte = stream.read(1)[0]
        stream.seek(entry.offset + 3)
        stream.write(bytes([byte ^ 16]))


def test_a_finished_tensor_that_was_damaged_is_made_again(recipe: Recipe, tmp_path: Path) -> None:
    merge(recipe, tmp_path / "whole")
    done = [name for name in stopped(recipe, tmp_path / "out", 5) if name != "ids"]

    spoil_tensor(part(tmp_path / "out"), done[2])
    spoil_tensor(part(tmp_path / "out"), "ids")

    assert sorted(read_again(recipe, tmp_path / "out")) == sorted({*tensors(0)} - {*done, "ids"} | {done[2]})
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: next(folder.glob("*-00001-*")).unlink(),
        lambda folder: os.truncate(next(folder.glob("*-00001-*")), 50),
        lambda folder: next(folder.glob("*-00001-*")).write_bytes(b"\xff" * 4000),
        lambda folder: (folder / "model.safetensors.index.json").write_text("{"),
        lambda folder: append(folder / "journal.jsonl", '{"tensor": "model.layers.9.w", "check'),
        lambda folder: append(folder / "journal.jsonl", '[]\n{"tensor": 3}\nnull\n'),
        lambda folder: (folder / "journal.jsonl").write_bytes(b"\xff\xfe\x00"),
        lambda folder: (folder / "journal.jsonl").write_bytes(b""),
    ],
    ids=["lost shard", "short shard", "rubbish", "index", "half a line", "other lines", "no text", "empty"],
)
def test_whatever_happened_to_the_folder_of_a_merge_the_next_one_ends_well(
    harm: Callable[[Path], Any], recipe: Recipe, tmp_path: Path
) -> None:
    merge(recipe, tmp_path / "whole", shard_size=150)
    stopped(recipe, tmp_path / "out", 5, shard_size=150)

    harm(part(tmp_path / "out"))
    merge(recipe, tmp_path / "out", shard_size=150)

    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("change", ["weights", "values", "input", "shards", "file"])
def test_another_merge_starts_anew(change: str, recipe: Recipe, tmp_path: Path) -> None:
    stopped(recipe, tmp_path / "out", 5, shard_size=150)
    settings = {"shard_size": 150}
    match change:
        case "weights":
            recipe = replace(recipe, weights=(0.5, 1.0))
        case "values":
            recipe = replace(recipe, values={"normalize": False})
        case "input":
            write_model(recipe.experts[0], tensors(7), shards=2)
        case "file":  # of the same size and content, and newer
            os.utime(next(recipe.experts[1].glob("*.safetensors")), (1, 1))
        case "shards":
            settings = {}
    merge(recipe, tmp_path / "whole", **settings)

    assert len(read_again(recipe, tmp_path / "out", **settings)) == LAYERS
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")  # and no shard of the earlier run


def test_a_folder_that_is_not_ours_is_not_touched(recipe: Recipe, tmp_path: Path) -> None:
    foreign = part(tmp_path / "out")
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")

    with pytest.raises(MergeError) as caught:
        merge(recipe, tmp_path / "out")

    assert str(caught.value) == (
        f"{foreign} is in the way and was not made by Mergescope. Move it or choose another name."
    )
    assert files_of(foreign) == {"letter.txt": b"dear"}
    assert not list(tmp_path.glob("*.lock")) + list(tmp_path.glob(".*.lock"))


@pytest.mark.parametrize("name", ["x" * 250, "名" * 83, "a b@c+d"])
def test_any_name_that_a_folder_can_have(name: str, recipe: Recipe, tmp_path: Path) -> None:
    merge(recipe, tmp_path / "whole")
    stopped(recipe, tmp_path / name, 5)

    merge(recipe, tmp_path / name)

    assert files_of(tmp_path / name) == files_of(tmp_path / "whole")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_input_that_is_cut_off_while_it_is_read(dtype: torch.dtype, recipe: Recipe, tmp_path: Path) -> None:
    files = []
    for seed in range(3):
        write_model(tmp_path / f"model-{seed}", tensors(seed, dtype), shards=2)
        files.append(next((tmp_path / f"model-{seed}").glob("*-00001-*")))
    content, times = files[1].read_bytes(), files[1].stat()

    def cut(step: Step) -> None:
        if step.name.endswith(".5.w"):
            os.truncate(files[1], len(content) // 2)

    with pytest.raises(MergeError) as caught:
        merge(recipe, tmp_path / "out", cut, workers=1)

    assert str(files[1]) in str(caught.value)
    assert not (tmp_path / "out").exists()
    files[1].write_bytes(content)
    os.utime(files[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert 0 < len(read_again(recipe, tmp_path / "out")) < LAYERS
    merge(recipe, tmp_path / "whole")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
@pytest.mark.parametrize("method", ["linear", "from", "ties", "pcb"])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_input_that_is_cut_off_under_any_method(method: str, ending: str, workers: int, tmp_path: Path) -> None:
    paths = []
    for seed in range(3):
        made = {name: tensor.repeat(40, 8) for name, tensor in tensors(seed).items() if name != "ids"}
        paths.append(tmp_path / f"{seed}{ending}")
        torch.save(made, paths[-1]) if ending == ".bin" else save_file(made, paths[-1])

    def cut(step: Step) -> None:
        if step.name.endswith(".5.w"):
            os.truncate(paths[1], paths[1].stat().st_size // 3)

    with pytest.raises(MergeError) as caught:
        merge(Recipe(method, paths[0], tuple(paths[1:])), tmp_path / "out", cut, workers=workers)

    words = str(caught.value)
    assert words.startswith(f"{paths[1]} ended while `model.layers.")
    assert words.endswith("was read. Check that nothing is changing the file.")
    assert not (tmp_path / "out").exists()


def test_what_another_version_left_is_not_gone_on_with(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stopped(recipe, tmp_path / "out", 5)

    monkeypatch.setattr(provenance, "our_code", lambda: "another")

    assert len(read_again(recipe, tmp_path / "out")) == LAYERS


def test_stop_is_heard_while_inputs_are_hashed(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    event = threading.Event()

    def heard(file: Path, listen: Callable[[], None]) -> str:
        hashed.append(file)
        event.set()
        return full_hash(file, listen)

    full_hash = provenance.full_hash
    monkeypatch.setattr(provenance, "full_hash", heard)

    with pytest.raises(MergeStopped):
        merge(recipe, tmp_path / "out", stop=event, hash_inputs=True)

    assert len(hashed) == 1
    assert not part(tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_input_that_vanishes(dtype: torch.dtype, tmp_path: Path) -> None:
    folders = []
    for seed in range(3):
        names = list(tensors(0))
        turns = [name for pair in zip(names[:7], [*names[7:], ""], strict=True) for name in pair if name]
        made = {name: tensors(seed, dtype)[name] for name in turns}  # the later layers in the second file
        folders.append(write_model(tmp_path / f"model-{seed}", made, shards=2))
    late = folders[2] / "model-00002-of-00002.safetensors"
    recipe = Recipe("linear", folders[0], tuple(folders[1:]))

    def vanish(step: Step) -> None:
        if step.name.endswith(".3.w"):
            late.rename(tmp_path / "away")

    with pytest.raises(MergeError) as caught:
        merge(recipe, tmp_path / "out", vanish, workers=1)

    assert str(caught.value) == f"{late} could not be read (No such file or directory). Check the file."
    assert not (tmp_path / "out").exists()
    (tmp_path / "away").rename(late)
    assert 0 < len(read_again(recipe, tmp_path / "out")) < LAYERS


def large_recipe(tmp_path: Path, entries: int) -> Recipe:
    folders = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        made = {f"w{number}": torch.randn(entries, generator=generator).bfloat16() for number in range(4)}
        folders.append(write_model(tmp_path / f"large-{seed}", made))
    return Recipe("task_arithmetic", folders[0], (folders[1],))


def test_a_disk_that_is_full_before_the_first_tensor(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = large_recipe(tmp_path, 40_000)  # 320 kB
    monkeypatch.setattr(publish.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9**9, 0, 9**9))

    with pytest.raises(MergeError) as caught:
        merge(recipe, small_disk / "out")

    assert str(caught.value) == (
        f"{small_disk}/out could not be written ([Errno 28] No space left on device). "
        "Make room or choose another output folder."
    )
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_is_full_at_the_end(small_disk: Path, tmp_path: Path) -> None:
    recipe = large_recipe(tmp_path, 20_000)  # 160 kB
    merge(recipe, tmp_path / "deep" / "whole")  # as deep as the other, so that the paths in its recipe are the same

    def fill(step: Step) -> None:
        if step.name == "w3":
            with (small_disk / "filler").open("wb", buffering=0) as stream:
                while True:
                    try:
                        stream.write(b"x" * 4096)
                    except OSError:
                        return

    with pytest.raises(MergeError, match="No space left on device"):
        merge(recipe, small_disk / "out", fill)
    assert not (small_disk / "out").exists()

    (small_disk / "filler").unlink()
    assert read_again(recipe, small_disk / "out") == []  # although twice its size would not fit
    assert files_of(small_disk / "out") == files_of(tmp_path / "deep" / "whole")


def test_a_disk_that_fails_in_the_middle(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge(recipe, tmp_path / "whole")
    place, count = Output.place, [0]

    def fail(*given: Any) -> Any:
        count[0] += 1
        if count[0] > 5:
            raise OSError(5, "Input/output error")
        return place(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "place", fail)
        with pytest.raises(MergeError, match="could not be written"):
            merge(recipe, tmp_path / "out", workers=1)

    assert len(read_again(recipe, tmp_path / "out")) == LAYERS - 4
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_the_next_merge_after_one_that_was_not_finite_starts_anew(recipe: Recipe, tmp_path: Path) -> None:
    spoiled = tensors(2)
    spoiled["model.layers.9.w"][3, 2] = torch.nan
    write_model(recipe.experts[1], spoiled, shards=2)

    with pytest.raises(MergeError, match=r"`model\.layers\.9\.w` of model-2 holds NaN or infinity"):
        merge(recipe, tmp_path / "out", workers=1)

    assert not part(tmp_path / "out").exists()


def test_a_target_that_fills_while_a_merge_runs_is_not_overwritten(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def occupy(step: Step) -> None:
        out.mkdir(exist_ok=True)
        (out / "letter.txt").write_text("dear")

    with pytest.raises(MergeError, match="could not be written"):
        merge(recipe, out, occupy)

    assert files_of(out) == {"letter.txt": b"dear"}
    assert [path.name for path in tmp_path.glob(".*")] == [".out.part"]  # for when the room is made


def test_the_lock_is_the_holders_alone(tmp_path: Path) -> None:
    with workplace.workplace(tmp_path / "out", "one") as place:
        for _ in range(3):
            with pytest.raises(MergeError, match="Another merge"), workplace.workplace(tmp_path / "out", "two"):
                pass
        place.spoiled = True
        with pytest.raises(MergeError, match="Another merge"), workplace.workplace(tmp_path / "out", "one"):
            pass
