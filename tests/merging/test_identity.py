"""What is kept of a merge's inputs changes when they do."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from merging.adapter import open_expert
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.header import metadata
from merging.identity import full_hash, identity
from tests.conftest import random_tensors, write_model

ZOO = Path(__file__).parents[2] / "zoo"


def test_a_model_is_known_by_its_headers_and_config(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny", random_tensors(0), shards=2)

    found = identity(open_checkpoint(folder))

    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert (found["name"], sorted(found["files"])) == ("tiny", ["config.json", *names])
    for name in names:
        content = (folder / name).read_bytes()
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        assert found["files"][name] == {"size": len(content), "header": hashlib.sha256(header).hexdigest()}
    assert json.loads(json.dumps(found)) == found


def test_other_shapes_give_another_identity_and_other_values_another_hash(tmp_path: Path) -> None:
    one = write_model(tmp_path / "m", {"w": torch.zeros(2, 3)})
    first, whole = identity(open_checkpoint(one)), full_hash(one / "model.safetensors")
    write_model(one, {"w": torch.ones(2, 3)})
    assert identity(open_checkpoint(one)) == first
    assert full_hash(one / "model.safetensors") != whole
    write_model(one, {"w": torch.ones(3, 2)})
    assert identity(open_checkpoint(one)) != first


@pytest.mark.parametrize("size", [1, 1 << 16])
def test_a_pickle_is_known_by_its_ends(size: int, tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(size)}, file)

    told = identity(open_checkpoint(tmp_path))["files"]["pytorch_model.bin"]

    content = file.read_bytes()
    known = content if len(content) <= 128 << 10 else content[: 64 << 10] + content[-(64 << 10) :]
    assert told == {"size": len(content), "header": hashlib.sha256(known).hexdigest()}


def test_a_download_has_its_name_and_commit(tmp_path: Path) -> None:
    commit = "0123456789" * 4
    folder = write_model(tmp_path / "models--some--tiny-model" / "snapshots" / commit, {"w": torch.ones(1)})

    found = identity(open_checkpoint(folder))

    assert (found["repo"], found["commit"]) == ("some/tiny-model", commit)


def test_an_adapter_is_known_by_its_own_files(tmp_path: Path) -> None:
    shutil.copytree(ZOO / "python-lora", tmp_path / "lora")

    found = identity(open_expert(tmp_path / "lora", open_checkpoint(ZOO / "base")))

    assert found["name"] == "lora"
    assert sorted(found["files"]) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_whole_file_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 5000)

    assert full_hash(tmp_path / "file") == hashlib.sha256(bytes(range(256)) * 5000).hexdigest()
    with pytest.raises(MergeError, match="could not be read"):
        full_hash(tmp_path / "missing")


def test_what_stands_beside_the_tensors_is_read(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", {"recipe": "λ: 1\n", "format": "pt"})
    save_file({"w": torch.ones(1)}, tmp_path / "b.safetensors")

    assert metadata(tmp_path / "a.safetensors") == {"recipe": "λ: 1\n", "format": "pt"}
    assert metadata(tmp_path / "b.safetensors") == {}


@pytest.mark.parametrize("told", [[], "text", 3, {"recipe": 3, "format": ["pt"]}])
def test_odd_metadata_is_none(told: object, tmp_path: Path) -> None:
    text = json.dumps({"__metadata__": told}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)

    assert metadata(tmp_path / "w.safetensors") == {}
