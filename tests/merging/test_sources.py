"""Finding a model's files: indices that are wrong, shards of any naming, caches of links, and names of all kinds."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from merging.checkpoint import Checkpoint, open_checkpoint
from merging.collected import beside
from merging.errors import MergeError
from tests.conftest import random_tensors, write_model

INDEX = "model.safetensors.index.json"


def same(opened: Checkpoint, tensors: dict[str, torch.Tensor]) -> bool:
    return set(opened.entries) == set(tensors) and all(
        torch.equal(opened.tensor(name), tensors[name]) for name in tensors
    )


def sharded(folder: Path, index: Any = None, shards: int = 2) -> dict[str, torch.Tensor]:
    """A model in shards, with any index at all."""
    tensors = random_tensors(0)
    write_model(folder, tensors, shards=shards)
    if index is not None:
        (folder / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))
    return tensors


USELESS = {
    "no JSON": "{",
    "a list": [],
    "no map": {},
    "an empty map": {"weight_map": {}},
    "numbers": {"weight_map": {"w": 1}},
    "outside the folder": {"weight_map": {"w": "../evil.safetensors"}},
    "another file": {"weight_map": {"w": "config.json"}},
    "shards that are not there": {"weight_map": {"w": "model-00001-of-00009.safetensors"}},
}


@pytest.mark.parametrize("index", USELESS.values(), ids=list(USELESS))
def test_complete_shards_are_read_without_a_useless_index(index: Any, tmp_path: Path) -> None:
    tensors = sharded(tmp_path, index)

    opened = open_checkpoint(tmp_path)

    assert same(opened, tensors)
    note = f"{INDEX} is damaged or names other files, so it was not used: the shards are complete without it."
    assert opened.notes == (note,)


def test_an_unfinished_download_is_not_replaced_by_older_shards(tmp_path: Path) -> None:
    sharded(tmp_path, shards=2)
    sharded(tmp_path, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()

    with pytest.raises(MergeError) as caught:
        open_checkpoint(tmp_path)

    message = f"Shard model-00002-of-00003.safetensors of {tmp_path} is missing. Download it and try again."
    assert str(caught.value) == message


def test_an_index_that_lists_some_of_the_shards_does_not_hide_the_others(tmp_path: Path) -> None:
    tensors = sharded(tmp_path)
    told = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    first = {name: file for name, file in told.items() if file.startswith("model-00001")}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": first}))

    opened = open_checkpoint(tmp_path)

    assert same(opened, tensors)
    assert opened.notes[0] == f"{INDEX} lists 1 of 2 shards; all of them were read."


def test_tensors_in_other_shards_than_the_index_says_are_found(tmp_path: Path) -> None:
    tensors = sharded(tmp_path)
    told = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    files = sorted(set(told.values()))
    swapped = {name: files[1 - files.index(file)] for name, file in told.items()}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": swapped}))

    opened = open_checkpoint(tmp_path)

    assert same(opened, tensors)
    (note,) = opened.notes
    assert "is in another shard than the index says, and so it is with 3 more; the shards were believed." in note


def test_tensors_that_the_index_forgot_are_there(tmp_path: Path) -> None:
    tensors = sharded(tmp_path)
    told = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    del told["model.norm.weight"]
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": told}))

    opened = open_checkpoint(tmp_path)

    assert same(opened, tensors)
    assert opened.notes == ("`model.norm.weight` is in the shards and not in the index; the shards were believed.",)


@pytest.mark.parametrize("tied", [True, False])
def test_only_a_tied_head_may_be_listed_and_not_stored(tied: bool, tmp_path: Path) -> None:
    sharded(tmp_path)
    told = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    told["lm_head.weight"] = "model-00002-of-00002.safetensors"
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": told}))
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))

    if tied:
        assert "lm_head.weight" not in open_checkpoint(tmp_path).entries
    else:
        with pytest.raises(MergeError, match=r"`lm_head\.weight` is not in model-00002-of-00002\.safetensors, where"):
            open_checkpoint(tmp_path)


NAMINGS = [
    ("model-{}-of-2.safetensors", 1),
    ("model_{:03}_of_002.safetensors", 1),
    ("pytorch_model-{:05}-of-00002.safetensors", 1),
    ("diffusion_pytorch_model-{:05}-of-00002.safetensors", 1),
    ("model-{:05}-of-00002.safetensors", 0),
    ("a model+b@c é-{:05}-of-00002.safetensors", 1),
]


@pytest.mark.parametrize(("naming", "first"), NAMINGS)
def test_shards_of_any_naming_are_one_model_when_they_are_complete(naming: str, first: int, tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / naming.format(first))
    save_file({"v": torch.zeros(3)}, tmp_path / naming.format(first + 1))

    assert same(open_checkpoint(tmp_path), {"w": torch.ones(2), "v": torch.zeros(3)})


@pytest.mark.parametrize(("naming", "first"), [naming for naming in NAMINGS if naming[1] == 1])
def test_a_missing_shard_is_named_as_its_neighbours_are(naming: str, first: int, tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / naming.format(2))

    with pytest.raises(MergeError) as caught:
        open_checkpoint(tmp_path)

    assert str(caught.value) == f"Shard {naming.format(1)} of {tmp_path} is missing. Download it and try again."


def test_one_shard_is_not_taken_for_the_model(tmp_path: Path) -> None:
    sharded(tmp_path, shards=3)

    with pytest.raises(MergeError) as caught:
        open_checkpoint(tmp_path / "model-00002-of-00003.safetensors")

    message = "model-00002-of-00003.safetensors is one shard of 3. Choose the folder that holds them all."
    assert str(caught.value) == message


def test_an_index_stands_for_its_folder(tmp_path: Path) -> None:
    tensors = sharded(tmp_path / "llama")

    opened = open_checkpoint(tmp_path / "llama" / INDEX)

    assert same(opened, tensors)
    assert (opened.name, opened.path) == ("llama", tmp_path / "llama")


@pytest.mark.parametrize("shards", [1, 2])
def test_the_copy_for_other_code_is_not_read_twice(shards: int, tmp_path: Path) -> None:
    tensors = sharded(tmp_path, shards=shards)
    save_file(tensors, tmp_path / "consolidated.safetensors")

    opened = open_checkpoint(tmp_path)

    assert same(opened, tensors)
    assert opened.notes == ("consolidated.safetensors stands beside the model and is not read.",)


def test_consolidated_shards_stand_back_behind_the_usual_ones(tmp_path: Path) -> None:
    tensors = sharded(tmp_path)
    (tmp_path / INDEX).unlink()
    for number in (1, 2, 3):
        save_file({"other": torch.ones(1)}, tmp_path / f"consolidated-{number:05}-of-00003.safetensors")

    opened = open_checkpoint(tmp_path)

    assert same(opened, tensors)
    assert opened.notes == (
        "consolidated-00001-of-00003.safetensors and 2 more stand beside the model and are not read.",
    )


@pytest.mark.parametrize("name", ["consolidated", "adapter_model", "diffusion_pytorch_model", "a b+c@d é", "x.fp16"])
def test_a_lone_file_of_any_name_is_the_model_of_its_folder(name: str, tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / f"{name}.safetensors")

    assert same(open_checkpoint(tmp_path), {"w": torch.ones(2)})
    assert open_checkpoint(tmp_path / f"{name}.safetensors").name == name


def test_what_was_collected_of_a_lone_file_is_no_second_model(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "mine.safetensors")
    save_file({"fisher.w": torch.ones(2)}, beside(tmp_path / "mine.safetensors"))

    opened = open_checkpoint(tmp_path)

    assert same(opened, {"w": torch.ones(2)})
    assert opened.notes == ()


def test_folders_below_are_never_read(tmp_path: Path) -> None:
    tensors = sharded(tmp_path, shards=1)
    write_model(tmp_path / "original", {"other": torch.ones(1)})

    assert same(open_checkpoint(tmp_path), tensors)


def test_weights_in_a_folder_below_are_pointed_at(tmp_path: Path) -> None:
    write_model(tmp_path / "unet", {"w": torch.ones(1)})

    with pytest.raises(MergeError) as caught:
        open_checkpoint(tmp_path)

    message = f"{tmp_path} has no weights of its own, only its folder `unet` has. Choose that folder."
    assert str(caught.value) == message


def cached(folder: Path, shards: int) -> tuple[Path, dict[str, torch.Tensor]]:
    """A model as the Hub's client keeps it: links in a snapshot, to files that are named by their hashes."""
    tensors = sharded(folder / "real", shards=shards)
    snapshot = folder / "models--some--model" / "snapshots" / ("0123456789" * 4)
    blobs = folder / "models--some--model" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted((folder / "real").iterdir())):
        file.rename(blobs / f"{number:064}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{number:064}")
    return snapshot, tensors


@pytest.mark.parametrize("shards", [1, 2])
def test_a_cache_of_links_opens(shards: int, tmp_path: Path) -> None:
    snapshot, tensors = cached(tmp_path, shards)

    opened = open_checkpoint(snapshot)

    assert same(opened, tensors)
    assert opened.config["model_type"] == "llama"


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    snapshot, _ = cached(tmp_path, 1)
    (snapshot / "model.safetensors").resolve().unlink()

    with pytest.raises(MergeError) as caught:
        open_checkpoint(snapshot)

    file = snapshot / "model.safetensors"
    assert str(caught.value) == f"{file} could not be read (No such file or directory). Check the file."


def test_a_link_in_circles_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "model.safetensors")

    with pytest.raises(MergeError, match="could not be read"):
        open_checkpoint(tmp_path)


def test_nothing_is_written_where_a_model_is_read(tmp_path: Path) -> None:
    tensors = sharded(tmp_path / "m")
    for file in (tmp_path / "m").iterdir():
        file.chmod(0o444)
    (tmp_path / "m").chmod(0o555)
    before = (tmp_path / "m").stat().st_mtime_ns

    opened = open_checkpoint(tmp_path / "m")

    assert same(opened, tensors)
    assert (tmp_path / "m").stat().st_mtime_ns == before
    (tmp_path / "m").chmod(0o755)


@pytest.mark.parametrize(
    "name", ["my model", "a@b", "c+d", "modèle-日本", "100%", "#1", "a,b;c", "-m", "[x]", "a'b", "{w}"]
)
def test_folders_of_any_name_open(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = sharded(tmp_path / name)
    monkeypatch.chdir(tmp_path)

    for path in (tmp_path / name, str(tmp_path / name), name, f"{tmp_path / name}{os.sep}"):
        opened = open_checkpoint(path)
        assert same(opened, tensors)
        assert opened.name == name


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
FOREIGN = {
    "model-Q4_K_M.gguf": (b"GGUF", "is a GGUF file"),
    "pytorch_model.bin": (b"GGUF\3\0\0\0", "is a GGUF file"),
    "model.safetensors": (b"GGUF\3\0\0\0", "is a GGUF file"),
    "tf_model.h5": (b"\x89HDF\r\n\x1a\n", "is a Keras file"),
    "flax_model.msgpack": (b"\x81", "is a Flax file"),
    "model.onnx": (b"\x08\x07", "is an ONNX file"),
    "llama.nemo": (b"PK\x03\x04", "is a NeMo archive"),
    "rust_model.ot": (b"", "is a rust-bert file"),
}


@pytest.mark.parametrize(("name", "content", "what"), [(name, *more) for name, more in FOREIGN.items()])
def test_other_formats_are_refused_by_name(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    for path in (tmp_path, tmp_path / name):
        with pytest.raises(MergeError, match=what) as caught:
            open_checkpoint(path)
        assert name in str(caught.value)
        assert "safetensors" in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model-00001-of-00001.safetensors"])
def test_a_pointer_in_place_of_the_weights_is_told_as_such(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(POINTER)

    with pytest.raises(MergeError) as caught:
        open_checkpoint(tmp_path)

    assert str(caught.value).endswith(
        f"{name} is only a pointer of Git LFS to the file. Run `git lfs pull` in its folder."
    )


def test_a_file_of_another_format_beside_the_weights_does_not_matter(tmp_path: Path) -> None:
    tensors = sharded(tmp_path, shards=1)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")

    assert same(open_checkpoint(tmp_path), tensors)
