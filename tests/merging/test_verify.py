"""What a merged folder tells of itself: that it is whole, and how to make it again."""

import hashlib
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from merging.checkpoint import open_checkpoint
from merging.engine import Step, merge
from merging.errors import MergeError, MergeStopped
from merging.provenance import our_version
from merging.recipe import Recipe, load_recipe
from merging.verify import verify
from tests.conftest import Family, random_tensors, write_model

NAMES = list(random_tensors(0))


@pytest.fixture
def merged(family: Family, tmp_path: Path) -> Path:
    """A merge in three shards."""
    base, experts = family(2)
    recipe = Recipe("task_arithmetic", base, tuple(experts), (1.0, -0.5), {"lambda": 0.7})
    return merge(recipe, tmp_path / "out", shard_size=200).out


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(folder: Path, name: str, at: int, bit: int) -> None:
    """Change one bit of a tensor."""
    entry = open_checkpoint(folder).entries[name]
    content = bytearray(entry.file.read_bytes())
    content[entry.offset + at] ^= 1 << bit
    entry.file.write_bytes(content)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_merge_is_whole_after_it_was_written(workers: int, merged: Path) -> None:
    steps: list[Step] = []

    found = verify(merged, steps.append, workers=workers)

    assert (found.tensors, found.bytes, found.problems) == (4, open_checkpoint(merged).bytes, [])
    assert [step.done for step in steps] == [1, 2, 3, 4]
    assert steps[-1].bytes_done == steps[-1].bytes_total == found.bytes
    assert {step.total for step in steps} == {4}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("at", "bit"), [(0, 0), (5, 7), (-1, 3)])
def test_one_bit_that_changed_is_found(name: str, at: int, bit: int, merged: Path) -> None:
    last = open_checkpoint(merged).entries[name].bytes - 1

    flip(merged, name, last if at < 0 else at, bit)

    assert verify(merged).problems == [f"`{name}` has changed since it was written."]


@pytest.mark.parametrize("tile", [3, 1 << 17])
def test_a_bit_is_found_whatever_tile_it_is_in(
    tile: int, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merging import output, run, stream

    for module in (output, run, stream):
        monkeypatch.setattr(module, "TILE", tile)
    base, experts = family(1)
    merge(Recipe("linear", base, tuple(experts)), tmp_path / "out")
    assert verify(tmp_path / "out").problems == []

    for at in range(0, 96, 7):
        flip(tmp_path / "out", NAMES[1], at, 2)
        assert verify(tmp_path / "out").problems == [f"`{NAMES[1]}` has changed since it was written."]
        flip(tmp_path / "out", NAMES[1], at, 2)


def test_tensors_that_changed_places_are_found(merged: Path) -> None:
    one, two = (open_checkpoint(merged).entries[name] for name in NAMES[1:3])
    contents = {file: bytearray(file.read_bytes()) for file in (one.file, two.file)}
    first = bytes(contents[one.file][one.offset : one.offset + one.bytes])
    second = bytes(contents[two.file][two.offset : two.offset + two.bytes])
    contents[one.file][one.offset : one.offset + one.bytes] = second
    contents[two.file][two.offset : two.offset + two.bytes] = first
    for file, content in contents.items():
        file.write_bytes(content)

    assert verify(merged).problems == [f"`{name}` has changed since it was written." for name in NAMES[1:3]]


def rewritten(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    """One file with all tensors but for a change, as another program would write it."""
    tensors: dict[str, Any] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink()
    tensors = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_missing_tensor_and_a_foreign_one_are_found(merged: Path) -> None:
    rewritten(merged, {NAMES[2]: None, "mine": torch.ones(2)})

    found = verify(merged)

    assert found.problems == [f"`{NAMES[2]}` is missing.", "`mine` was not written by the merge."]


def test_another_dtype_is_a_change(merged: Path) -> None:
    rewritten(merged, {NAMES[0]: torch.ones(8, 4, dtype=torch.bfloat16)})

    assert verify(merged).problems == [f"`{NAMES[0]}` has changed since it was written."]


def test_other_files_for_the_same_tensors_are_no_change(merged: Path) -> None:
    rewritten(merged, {})

    assert verify(merged).problems == []


def test_a_missing_shard_is_found(merged: Path) -> None:
    lost = sorted(merged.glob("*.safetensors"))[1]
    lost.unlink()

    with pytest.raises(MergeError, match=lost.name):
        verify(merged)


def test_a_shard_that_was_cut_short_is_found(merged: Path) -> None:
    cut = sorted(merged.glob("*.safetensors"))[0]
    cut.write_bytes(cut.read_bytes()[:-1])

    with pytest.raises(MergeError, match=cut.name):
        verify(merged)


def test_a_folder_that_is_not_ours_is_refused(family: Family, tmp_path: Path) -> None:
    base, _ = family(1)

    with pytest.raises(MergeError) as caught:
        verify(base)

    assert str(caught.value) == (
        f"{base} has no mergescope.json, so it is no merge of Mergescope. Choose a merged folder."
    )


def test_a_folder_that_is_not_there_is_said_and_whether_a_merge_to_it_was_stopped(
    family: Family, tmp_path: Path
) -> None:
    base, experts = family(2)
    stop = threading.Event()

    def late(step: Step) -> None:
        if step.done == step.total - 1:
            stop.set()

    with pytest.raises(MergeStopped):
        merge(Recipe("linear", base, tuple(experts)), tmp_path / "out", on_step=late, stop=stop, workers=1)

    with pytest.raises(MergeError) as nowhere:
        verify(tmp_path / "nowhere")
    with pytest.raises(MergeError) as stopped:
        verify(tmp_path / "out")
    assert str(nowhere.value) == f"There is no folder {tmp_path / 'nowhere'}. Check the path."
    assert str(stopped.value) == (
        f"There is no folder {tmp_path / 'out'}: a merge to it was stopped. Merge again, which goes on from there."
    )


@pytest.mark.parametrize("text", ["", "[]", "{", '{"checksums": 3}', "{}", '{"checksums": ["a"]}', "\udcff"])
def test_a_damaged_list_of_checksums_is_said(text: str, merged: Path) -> None:
    (merged / "mergescope.json").write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(MergeError, match=r"mergescope\.json"):
        verify(merged)


def test_verifying_can_be_stopped(merged: Path) -> None:
    event = threading.Event()

    with pytest.raises(MergeStopped):
        verify(merged, lambda step: event.set(), event, workers=1)


def test_the_checksums_are_those_of_the_report_and_do_not_depend_on_shards(
    family: Family, tmp_path: Path, merged: Path
) -> None:
    recipe = load_recipe(merged)

    report = merge(recipe, tmp_path / "again")

    told = json.loads((merged / "mergescope.json").read_text())["checksums"]
    assert told == report.checksums
    assert all(checksum.startswith("xxh3:") and len(checksum) == 21 for checksum in told.values())


def test_a_folder_tells_what_it_was_made_of(merged: Path, tmp_path: Path) -> None:
    told = json.loads((merged / "mergescope.json").read_text())

    assert told["mergescope"] == our_version()
    assert told["recipe"] == (merged / "mergescope.yaml").read_text()
    assert [told["inputs"][key]["name"] for key in told["inputs"]] == ["base", "expert-1", "expert-2"]
    assert list(told["inputs"]) == ["base", "expert 1", "expert 2"]
    weights = tmp_path / "expert-2" / "model.safetensors"
    length = int.from_bytes(weights.read_bytes()[:8], "little")
    header = hashlib.sha256(weights.read_bytes()[8 : 8 + length]).hexdigest()
    known = told["inputs"]["expert 2"]["files"]["model.safetensors"]
    assert known == {"size": weights.stat().st_size, "header": header}
    assert "sha256" not in told["inputs"]["base"]
    assert told["fates"] == dict.fromkeys(NAMES, "merged")
    assert str(tmp_path) not in json.dumps(told)


def test_every_shard_tells_what_it_was_made_of(merged: Path) -> None:
    for file in merged.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        assert metadata["format"] == "pt"
        assert metadata["mergescope"] == our_version()
        assert metadata["recipe"] == (merged / "mergescope.yaml").read_text()
        assert json.loads(metadata["inputs"])["base"]["name"] == "base"


def test_full_hashes_are_there_on_request(merged: Path, tmp_path: Path) -> None:
    merge(load_recipe(merged), tmp_path / "hashed", hash_inputs=True)

    told = json.loads((tmp_path / "hashed" / "mergescope.json").read_text())
    for key, folder in [("base", "base"), ("expert 1", "expert-1"), ("expert 2", "expert-2")]:
        for name in ("model.safetensors", "config.json"):
            content = (tmp_path / folder / name).read_bytes()
            assert told["inputs"][key]["sha256"][name] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("source", ["folder", "yaml", "file", "text"])
def test_a_merged_model_is_its_own_recipe(source: str, merged: Path, tmp_path: Path) -> None:
    shard = sorted(merged.glob("*.safetensors"))[1]
    told: dict[str, Any] = {"folder": merged, "yaml": merged / "mergescope.yaml", "file": shard}
    if source == "text":  # whose paths start at the working directory
        told["text"] = (merged / "mergescope.yaml").read_text().replace("../", f"{tmp_path}/")

    recipe = load_recipe(told[source])
    merge(recipe, tmp_path / "again", shard_size=200)

    assert recipe.weights == (1.0, -0.5)
    assert files_of(tmp_path / "again") == files_of(merged)


def test_a_merged_model_that_was_moved_with_its_inputs_is_still_its_recipe(merged: Path, tmp_path: Path) -> None:
    content = files_of(merged)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("base", "expert-1", "expert-2", "out"):
        shutil.move(tmp_path / name, moved / name)

    merge(load_recipe(moved / "out"), moved / "again", shard_size=200)

    assert files_of(moved / "again") == content


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        ({"density": [0.2, 0.9], "scope": "tensor", "lambda": 1.5}, (0.5, [1.0, 2.0])),
        ({"density": [{"filter": "mlp", "value": 0.3}, {"value": 0.8}], "scope": "tensor"}, (1.0, 1.0)),
        (
            {"variant": "mergekit", "scope": "tensor", "merge": "sum"},
            ([{"filter": "norm", "value": 0}, {"value": 1}], 2.0),
        ),
    ],
)
def test_what_varies_is_made_again(
    values: dict[str, Any], weights: tuple[Any, ...], family: Family, tmp_path: Path
) -> None:
    base, experts = family(2, torch.bfloat16)
    recipe = Recipe("ties", base, tuple(experts), weights, values, ({"density": 0.6}, {}), 7, out_dtype="float16")
    merge(recipe, tmp_path / "one")

    merge(load_recipe(tmp_path / "one"), tmp_path / "two")

    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_merge_without_a_base_is_made_again(family: Family, tmp_path: Path) -> None:
    _, experts = family(2)
    merge(Recipe("linear", None, tuple(experts)), tmp_path / "one")

    recipe = load_recipe(tmp_path / "one")
    merge(recipe, tmp_path / "two")

    assert recipe.base is None
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_merge_can_be_merged_again(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    merge(Recipe("linear", base, tuple(experts)), tmp_path / "one")

    report = merge(Recipe("linear", base, (tmp_path / "one",)), tmp_path / "two")

    assert "one" in (report.out / "mergescope.yaml").read_text()
    assert load_file(report.out / "model.safetensors").keys() == random_tensors(0).keys()
    assert verify(report.out).problems == []


def test_lone_inputs_are_told_too(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", random_tensors(0))

    merge(Recipe("linear", base / "model.safetensors", (base / "model.safetensors",)), tmp_path / "out")

    told = json.loads((tmp_path / "out" / "mergescope.json").read_text())
    assert "model.safetensors" in told["inputs"]["expert 1"]["files"]


def test_files_beside_the_weights_are_held_against_what_was_written(merged: Path) -> None:
    (merged / "config.json").write_text("{}")
    (merged / "mergescope.yaml").unlink()
    (merged / "notes.txt").write_text("mine")  # which nobody wrote, and nobody misses

    assert verify(merged).problems == ["mergescope.yaml is missing.", "config.json has changed since it was written."]


def test_a_result_that_is_cut_is_no_download(merged: Path) -> None:
    shard = sorted(merged.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1])

    with pytest.raises(MergeError) as caught:
        verify(merged)

    assert str(caught.value).startswith(f"{shard} is cut short")
    assert str(caught.value).endswith(", so it is not as it was written.")
