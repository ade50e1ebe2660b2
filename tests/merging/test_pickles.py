"""Pickled weights: read as torch reads them, in parts, from several threads; and never executed."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from safetensors.torch import load_file

from merging import Recipe, merge, pickles
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from tests.conftest import Family, random_tensors, write_model

GRID = torch.arange(24.0).reshape(2, 3, 4)
KINDS = {
    "double": torch.tensor([1.0, -2.0], dtype=torch.float64),
    "half": torch.tensor([0.5, 65504.0], dtype=torch.float16),
    "brain": torch.tensor([[1.5], [3e38]], dtype=torch.bfloat16),
    "scalar": torch.tensor(4.25),
    "empty": torch.empty(0, 3),
    "ids": torch.arange(5),
    "mask": torch.tensor([True, False, True]),
    "whole": GRID,
    "shared": GRID[1],
    "turned": GRID.permute(2, 0, 1),
    "stepped": GRID[:, ::2, 1::2],
    "repeated": GRID[0, 0].expand(3, 4),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "adapter_model.bin"])
@pytest.mark.parametrize(
    "wrapped", [lambda t: t, lambda t: OrderedDict(state_dict=t, epoch=3), lambda t: {"model": {"module": t}}]
)
def test_every_tensor_comes_back(name: str, wrapped: Any, tmp_path: Path) -> None:
    torch.save(wrapped(KINDS), tmp_path / name)

    for path in (tmp_path, tmp_path / name):
        opened = open_checkpoint(path)
        assert list(opened.entries) == list(KINDS)
        for key, tensor in KINDS.items():
            assert opened.tensor(key).dtype == tensor.dtype
            assert torch.equal(opened.tensor(key), tensor)


@pytest.mark.parametrize("on_meta", [True, False] if pickles.ON_META else [False])
def test_any_run_is_that_part_of_the_whole(on_meta: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "ON_META", on_meta)
    torch.save(KINDS, tmp_path / "pytorch_model.bin")
    opened = open_checkpoint(tmp_path)

    for name, tensor in KINDS.items():
        flat = tensor.detach().flatten()
        for start in range(len(flat) + 1):
            for stop in range(start, len(flat) + 1):
                assert torch.equal(opened.read(name, start, stop), flat[start:stop])


def test_what_is_read_is_the_readers_own(tmp_path: Path) -> None:
    torch.save(KINDS, tmp_path / "pytorch_model.bin")
    opened = open_checkpoint(tmp_path)

    for name in ("whole", "shared", "turned", "repeated"):
        opened.read(name).fill_(-1)

    assert torch.equal(opened.tensor("whole"), GRID)
    assert torch.equal(torch.load(tmp_path / "pytorch_model.bin")["whole"], GRID)


def test_threads_read_at_once(tmp_path: Path) -> None:
    large = torch.randn(300, 400)
    torch.save({"w": large, "t": large.t()}, tmp_path / "pytorch_model.bin")
    opened = open_checkpoint(tmp_path)
    flat = {"w": large.flatten(), "t": large.t().flatten()}

    def right(start: int) -> bool:
        return all(torch.equal(opened.read(name, start, start + 777), flat[name][start : start + 777]) for name in flat)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(right, range(0, 119_000, 777)))


def test_a_run_of_a_large_tensor_takes_no_memory_for_the_rest(
    tmp_path: Path, fsync: Callable[[BinaryIO], None]
) -> None:
    resource = pytest.importorskip("resource")
    torch.save({"w": torch.zeros(64 << 20, dtype=torch.uint8)}, tmp_path / "pytorch_model.bin")
    with (tmp_path / "pytorch_model.bin").open("r+b") as file:
        fsync(file)
    opened = open_checkpoint(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for start in range(0, 1 << 20, 1 << 16):
        opened.read("w", start, start + (1 << 16))

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # of 65,536 kB


def in_shards(folder: Path, naming: str = "pytorch_model-{:05}-of-00002.bin") -> dict[str, torch.Tensor]:
    tensors = random_tensors(0)
    placed = {}
    for number, names in ((1, list(tensors)[:2]), (2, list(tensors)[2:])):
        torch.save({name: tensors[name] for name in names}, folder / naming.format(number))
        placed |= dict.fromkeys(names, naming.format(number))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    return tensors


@pytest.mark.parametrize("index", [True, False])
def test_pickled_shards_make_one_model(index: bool, tmp_path: Path) -> None:
    tensors = in_shards(tmp_path)
    if not index:
        (tmp_path / "pytorch_model.bin.index.json").unlink()

    opened = open_checkpoint(tmp_path)

    assert set(opened.entries) == set(tensors)
    assert all(torch.equal(opened.tensor(name), tensors[name]) for name in tensors)
    assert opened.notes == ()
    assert len(opened.files) == 2


def test_a_missing_pickled_shard_is_named(tmp_path: Path) -> None:
    in_shards(tmp_path)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()

    with pytest.raises(MergeError, match=r"Shard pytorch_model-00002-of-00002\.bin of .* is missing"):
        open_checkpoint(tmp_path)


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    write_model(tmp_path, {"w": torch.ones(2)})
    torch.save({"w": torch.zeros(2)}, tmp_path / "pytorch_model.bin")

    opened = open_checkpoint(tmp_path)

    assert opened.tensor("w").tolist() == [1.0, 1.0]
    assert opened.notes == ("pytorch_model.bin stands beside the model and is not read.",)


def test_what_a_trainer_leaves_is_no_model(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "soup.bin")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        torch.save(argparse.Namespace(lr=1), tmp_path / name)

    opened = open_checkpoint(tmp_path)

    assert (list(opened.entries), opened.notes) == (["w"], ())


def test_what_is_no_tensor_is_told(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "step": 3, "names": ["a"]}, tmp_path / "model.pt")

    assert open_checkpoint(tmp_path).notes == ("`step` and 1 more in model.pt are not tensors and are left out.",)


def saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def repacked(data: bytes, compression: int = zipfile.ZIP_DEFLATED, **extra: bytes) -> bytes:
    """The same archive, packed, with other records."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, extra.get(record.filename.rpartition("/")[2], old.read(record)))
    return stream.getvalue()


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


class Program(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


GOOD = saved({"w": torch.arange(1000.0)})
BOMB = repacked(saved({"w": torch.zeros(100)}), **{"0": bytes(50 << 20)})
UNSAFE = {
    "cut in its end": (GOOD[:-30], "is cut short or is no PyTorch file"),
    "cut in its data": (GOOD[:2000], "is cut short or is no PyTorch file"),
    "empty": (b"", "is cut short or is no PyTorch file"),
    "text": (b"hello, this is text", "is cut short or is no PyTorch file"),
    "web page": (b"<!DOCTYPE html>", "is a web page"),
    "another archive": (b"PK\x05\x06" + bytes(18), "is cut short or is no PyTorch file"),
    "before 2020": (saved({"w": torch.ones(2)}, _use_new_zipfile_serialization=False), "format of before 2020"),
    "plain pickle": (pickle.dumps({"w": 1}), "format of before 2020"),
    "packed": (repacked(GOOD), "is compressed, as PyTorch never does it"),
    "bomb": (BOMB, "is compressed, as PyTorch never does it"),
    "another byte order": (repacked(GOOD, zipfile.ZIP_STORED, byteorder=b"big"), "was written on a machine of another"),
    "no byte order": (repacked(GOOD, zipfile.ZIP_STORED, byteorder=b"middle-endian"), "of another byte order"),
    "damaged pickle": (repacked(GOOD, zipfile.ZIP_STORED, **{"data.pkl": b"\x80\x02}("}), "is damaged"),
    "claims memory": (
        repacked(
            GOOD,
            zipfile.ZIP_STORED,
            **{"data.pkl": b"\x80\x02cbuiltins\nbytearray\n\x8a\x07" + b"\xff" * 6 + b"\x00\x85R."},
        ),
        "is damaged",
    ),
    "other objects": (
        saved({"w": torch.ones(2), "a": argparse.Namespace()}),
        r"more than tensors \(`argparse.Namespace`\)",
    ),
    "whole module": (saved(torch.nn.Linear(2, 2)), r"more than tensors \(`torch.nn.modules.linear.Linear`\)"),
    "a list": (saved([torch.ones(2)]), "holds no tensors by name"),
    "nothing": (saved({}), "holds no tensors by name"),
    "one number": (saved({"w": 3}), "holds no tensors by name"),
    "sparse": (saved({"w": torch.eye(3).to_sparse()}), "`w` in .* has a special kind of tensor"),
    "complex": (saved({"w": torch.ones(2, dtype=torch.complex64)}), "`w` in .* has dtype torch.complex64"),
}


@pytest.mark.filterwarnings("ignore:.*sparse:UserWarning")
@pytest.mark.parametrize(("data", "words"), UNSAFE.values(), ids=list(UNSAFE))
def test_what_is_not_plain_weights_is_refused_in_a_sentence(data: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(data)

    with pytest.raises(MergeError, match=words) as caught:
        open_checkpoint(tmp_path)

    message = str(caught.value)
    assert message.startswith(str(file)) or f"in {file} " in message
    assert "\n" not in message


def test_no_code_in_a_pickle_is_run(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "evil": Attack(tmp_path / "done")}, tmp_path / "pytorch_model.bin")

    with pytest.raises(
        MergeError, match=r"holds more than tensors \(`(posix|nt)\.system`\), and to load that could run code"
    ):
        open_checkpoint(tmp_path)

    assert not (tmp_path / "done").exists()


def test_a_storage_that_is_smaller_than_its_tensor_is_refused(tmp_path: Path) -> None:
    whole = saved({"w": torch.arange(1000.0)})
    pickled = zipfile.ZipFile(io.BytesIO(whole)).read("archive/data.pkl")
    small = pickled.replace(b"M\xe8\x03", b"M\xff\xff")  # 1000 entries, said to be 65535
    (tmp_path / "pytorch_model.bin").write_bytes(repacked(whole, zipfile.ZIP_STORED, **{"data.pkl": small}))

    with pytest.raises(MergeError, match="is damaged"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("on_meta", [True, False] if pickles.ON_META else [False])
def test_a_file_whose_tensors_lie_elsewhere_is_never_misread(
    on_meta: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "ON_META", on_meta)
    data = repacked(saved({"v": torch.arange(1000.0), "w": torch.zeros(1000)}), zipfile.ZIP_STORED)
    (tmp_path / "pytorch_model.bin").write_bytes(data)

    with pytest.raises(MergeError, match="is not laid out as PyTorch does it"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["whole", "turned", "stepped"])
def test_a_file_that_is_cut_off_is_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(KINDS, file)
    opened = open_checkpoint(tmp_path)

    os.truncate(file, 500)

    with pytest.raises(MergeError, match=f"{file} ended while `{name}` was read. Check that nothing is changing"):
        opened.read(name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_program_is_not_run(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(Program(), torch.ones(1)), tmp_path / "model.pt")

    with pytest.raises(MergeError, match="is a TorchScript program"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_of_pickles_is_the_merge_of_safetensors(dtype: torch.dtype, family: Family, tmp_path: Path) -> None:
    base, experts = family(dtype=dtype)
    merge(Recipe("task_arithmetic", base, tuple(experts)), tmp_path / "one")
    for folder in (base, *experts):
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    merge(Recipe("task_arithmetic", base, tuple(experts)), tmp_path / "other")

    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)
