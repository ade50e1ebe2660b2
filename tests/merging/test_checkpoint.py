"""Opening and writing checkpoints: good ones come back as safetensors reads them, broken ones are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from merging import header
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.header import Entry, read_header
from merging.output import Output, lay_out, shards
from tests.conftest import random_tensors, write_model

KINDS = {
    "double": torch.tensor([1.0, -2.0], dtype=torch.float64),
    "single": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([0.5, 65504.0], dtype=torch.float16),
    "brain": torch.tensor([[1.5], [3e38]], dtype=torch.bfloat16),
    "scalar": torch.tensor(4.25),
    "one": torch.tensor([7.0]),
    "empty": torch.empty(0, 3),
    "position_ids": torch.arange(5),
    "small": torch.tensor([-1, 2], dtype=torch.int8),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "mask": torch.tensor([True, False, True]),
    "i16": torch.tensor([-300], dtype=torch.int16),
    "i32": torch.tensor([[-70000]], dtype=torch.int32),
    "u16": torch.tensor([65535], dtype=torch.uint16),
    "u32": torch.tensor([2**32 - 1], dtype=torch.uint32),
    "u64": torch.tensor([2**63], dtype=torch.uint64),
    "nothing": torch.empty(0, dtype=torch.int64),
}


def raw(file: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    """Write a file with any header at all, and with any length before it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def told(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def file_of(header: Any, data: bytes = bytes(8), **more: Any) -> Callable[[Path], None]:
    return lambda folder: raw(folder / "model.safetensors", header, data, **more)


def cut(by: int) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        file = write_model(folder, {"w": torch.arange(4.0)}) / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-by])

    return build


def kept(bytes_kept: int) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        file = write_model(folder, {"w": torch.arange(4.0)}) / "model.safetensors"
        file.write_bytes(file.read_bytes()[:bytes_kept])

    return build


def indexed(index: Any) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        write_model(folder, random_tensors(0), shards=2)
        text = index if isinstance(index, str) else json.dumps(index)
        (folder / "model.safetensors.index.json").write_text(text)
        (folder / "model-00002-of-00002.safetensors").unlink()  # or the shards would be complete without an index

    return build


def without(*names: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        write_model(folder, random_tensors(0), shards=2)
        for name in names:
            (folder / name).unlink()

    return build


def files(*names: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        for name in names:
            save_file({"w": torch.ones(1)}, folder / name)

    return build


def config(text: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        write_model(folder, {"w": torch.ones(1)})
        (folder / "config.json").write_text(text)

    return build


def repeated(folder: Path) -> None:
    write_model(folder, random_tensors(0), shards=2)
    save_file(random_tensors(0), folder / "model-00002-of-00002.safetensors")


def misplaced(folder: Path) -> None:
    write_model(folder, random_tensors(0), shards=2)
    save_file({"other": torch.ones(1)}, folder / "model-00001-of-00002.safetensors")


def nothing(folder: Path) -> None:
    pass


MODEL = "{path}/model.safetensors"
INDEX = "{path}/model.safetensors.index.json"
IMPOSSIBLE = f"The header of {MODEL} says impossible things of `w`. Download the file again."
BEYOND = f"{MODEL} is cut short: `w` ends beyond it. Download it again."
SHORT = f"{MODEL} is cut short or is no safetensors file. Download it again."

BROKEN = {
    "cut in its data": (cut(1), BEYOND),
    "cut in its header": (kept(20), SHORT),
    "cut in its length": (kept(5), SHORT),
    "empty file": (kept(0), SHORT),
    "length beyond the file": (file_of({"w": told()}, length=1000), SHORT),
    "enormous length": (file_of({"w": told()}, length=2**63), SHORT),
    "length too small": (
        file_of({"w": told()}, length=5),
        f"The header of {MODEL} is damaged (Expecting value: line 1 column 6 (char 5)). Download it again.",
    ),
    "no text": (
        file_of(b""),
        f"The header of {MODEL} is damaged (Expecting value: line 1 column 1 (char 0)). Download it again.",
    ),
    "header is a list": (file_of([]), f"The header of {MODEL} is not a JSON object. Download it again."),
    "name twice": (
        file_of(b'{"w": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}, "w": {}}'),
        f"The header of {MODEL} is damaged (a name stands there twice). Download it again.",
    ),
    "overlap": (
        file_of({"w": told(), "v": told(offsets=(4, 12))}, bytes(12)),
        f"`v` overlaps another tensor in {MODEL}. Download the file again.",
    ),
    "negative offset": (file_of({"w": told(offsets=(-8, 0))}), IMPOSSIBLE),
    "huge offsets": (file_of({"w": told(offsets=(2**62, 2**62 + 8))}), BEYOND),
    "offsets beyond 64 bits": (file_of({"w": told(offsets=(2**80, 2**80 + 8))}), IMPOSSIBLE),
    "offsets backwards": (file_of({"w": told(offsets=(8, 0))}), IMPOSSIBLE),
    "three offsets": (file_of({"w": told(offsets=(0, 8, 8))}), IMPOSSIBLE),
    "fractional offset": (file_of({"w": told(offsets=(0, 8.0))}), IMPOSSIBLE),
    "shape and bytes disagree": (file_of({"w": told(shape=(3,))}), IMPOSSIBLE),
    "negative shape": (file_of({"w": told(shape=(-2, -1))}), IMPOSSIBLE),
    "shape of truth": (file_of({"w": told(shape=(True, 2))}), IMPOSSIBLE),
    "no shape": (file_of({"w": {"dtype": "F32", "data_offsets": [0, 8]}}), IMPOSSIBLE),
    "entry is a number": (file_of({"w": 3}), IMPOSSIBLE),
    "dtype is a number": (file_of({"w": told(dtype=3)}), IMPOSSIBLE),  # type: ignore[arg-type]
    "unknown dtype": (
        file_of({"w": told(dtype="Q4", shape=(8,))}),
        f"`w` in {MODEL} has dtype Q4, which cannot be merged. Choose an unquantised model.",
    ),
    "complex": (
        file_of({"w": told(dtype="C64", shape=(1,))}),
        f"`w` in {MODEL} has dtype C64, which cannot be merged. Choose an unquantised model.",
    ),
    "another fp8": (
        file_of({"w": told(dtype="F8_E8M0", shape=(8,))}),
        f"`w` in {MODEL} has dtype F8_E8M0, which cannot be merged. Choose an unquantised model.",
    ),
    "no tensors": (file_of({"__metadata__": {"format": "pt"}}, b""), "{path} holds no tensors. Choose another model."),
    "missing shard": (
        without("model-00002-of-00002.safetensors"),
        "Shard model-00002-of-00002.safetensors of {path} is missing. Download it and try again.",
    ),
    "missing shard and no index": (
        without("model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        "Shard model-00001-of-00002.safetensors of {path} is missing. Download it and try again.",
    ),
    "index leads out of the folder": (
        indexed({"weight_map": {"w": "../evil.safetensors"}}),
        f"{INDEX} names `../evil.safetensors`, which is not a shard in its folder. Download it again.",
    ),
    "index names no safetensors file": (
        indexed({"weight_map": {"w": "config.json"}}),
        f"{INDEX} names `config.json`, which is not a shard in its folder. Download it again.",
    ),
    "index without a map": (indexed({}), f"{INDEX} has no usable weight_map. Download it again."),
    "index of numbers": (
        indexed({"weight_map": {"w": 1}}),
        f"{INDEX} has no usable weight_map. Download it again.",
    ),
    "index is no JSON": (
        indexed("{"),
        f"{INDEX} could not be read as JSON (Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1)). Download it again.",
    ),
    "index is a list": (indexed([]), f"{INDEX} is not a JSON object. Download it again."),
    "shard lacks what the index says": (
        misplaced,
        "`model.embed_tokens.weight` is not in model-00001-of-00002.safetensors, where the index says it is, nor in "
        "another shard of {path}. Download the model again.",
    ),
    "tensor in two shards": (
        repeated,
        "`model.embed_tokens.weight` is in both model-00001-of-00002.safetensors and "
        "model-00002-of-00002.safetensors of {path}. Remove the file that does not belong.",
    ),
    "config is no JSON": (
        config("{]"),
        "{path}/config.json could not be read as JSON (Expecting property name enclosed in double quotes: line 1 "
        "column 2 (char 1)). Download it again.",
    ),
    "config is a text": (config('"llama"'), "{path}/config.json is not a JSON object. Download it again."),
    "several models": (
        files("a.safetensors", "b.safetensors"),
        "{path} has several models (a.safetensors, b.safetensors). Choose one of these files.",
    ),
    "several models that begin alike": (
        files("model-a.safetensors", "model-b.safetensors"),
        "{path} has several models (model-a.safetensors, model-b.safetensors). Choose one of these files.",
    ),
    "empty folder": (
        nothing,
        "{path} has no .safetensors file. Save the model as safetensors and choose that folder.",
    ),
}


@pytest.mark.parametrize(("build", "message"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_checkpoint_is_refused_with_the_reason(
    build: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    build(tmp_path)

    with pytest.raises(MergeError) as caught:
        open_checkpoint(tmp_path)

    assert str(caught.value) == message.format(path=tmp_path)


def test_a_name_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    raw(tmp_path / "model.safetensors", b'{"\\ud800": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8))

    with pytest.raises(MergeError, match="is damaged"):
        open_checkpoint(tmp_path)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    raw(tmp_path / "model.safetensors", b'{"w":' + b"[" * 100_000)

    with pytest.raises(MergeError, match="is damaged"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("path", ["missing/model.safetensors", "x" * 5000, "~nobody-of-that-name/model"])
def test_a_path_that_leads_nowhere_is_named(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(MergeError) as caught:
        open_checkpoint(path)

    assert str(caught.value) == f"There is no file or folder `{path}`. Check the path."


def test_a_file_of_another_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_bytes(b"weights")

    with pytest.raises(MergeError) as caught:
        open_checkpoint(tmp_path / "model.txt")

    known = "a .safetensors file or PyTorch's .bin, .pt or .pth"
    assert str(caught.value) == f"model.txt is not {known}. Only these can be opened."


def test_a_shard_that_shrinks_after_opening_is_named(tmp_path: Path) -> None:
    opened = open_checkpoint(write_model(tmp_path, {"w": torch.arange(4.0)}))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])

    with pytest.raises(MergeError) as caught:
        opened.tensor("w")

    assert str(caught.value) == f"{file} ended while `w` was read. Check that nothing is changing the file."


def test_a_shard_that_vanishes_after_opening_is_named(tmp_path: Path) -> None:
    opened = open_checkpoint(write_model(tmp_path, {"w": torch.arange(4.0)}))
    (tmp_path / "model.safetensors").unlink()

    with pytest.raises(MergeError) as caught:
        opened.tensor("w")

    message = f"{tmp_path}/model.safetensors could not be read (No such file or directory). Check the file."
    assert str(caught.value) == message


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_every_dtype_and_shape_comes_back(shards: int, tmp_path: Path) -> None:
    opened = open_checkpoint(write_model(tmp_path, KINDS, shards=shards))

    assert set(opened.entries) == set(KINDS)
    for name, tensor in KINDS.items():
        assert opened.tensor(name).dtype == tensor.dtype
        assert torch.equal(opened.tensor(name), tensor)


def test_shards_without_an_index_make_one_model(tmp_path: Path) -> None:
    tensors = random_tensors(0)
    write_model(tmp_path, tensors, shards=3)
    (tmp_path / "model.safetensors.index.json").unlink()

    opened = open_checkpoint(tmp_path)

    assert {name: opened.tensor(name).tolist() for name in opened.entries} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


def test_one_file_is_preferred_to_an_index_that_was_left_behind(tmp_path: Path) -> None:
    write_model(tmp_path, {"w": torch.zeros(2), "v": torch.zeros(2)}, shards=2)
    write_model(tmp_path, {"w": torch.ones(2)})

    opened = open_checkpoint(tmp_path)

    assert list(opened.entries) == ["w"]
    assert opened.tensor("w").tolist() == [1.0, 1.0]


def test_a_lone_file_of_any_name_opens_without_a_config(tmp_path: Path) -> None:
    write_model(tmp_path, {"w": torch.ones(2)})
    save_file({"v": torch.zeros(3)}, tmp_path / "soup.safetensors")

    opened = open_checkpoint(tmp_path / "soup.safetensors")

    assert (opened.name, list(opened.entries), opened.config) == ("soup", ["v"], {})


def test_a_lone_file_of_the_usual_name_has_the_config_beside_it(tmp_path: Path) -> None:
    write_model(tmp_path / "llama", {"w": torch.ones(2)}, config={"model_type": "llama"})

    opened = open_checkpoint(tmp_path / "llama" / "model.safetensors")

    assert opened.config == {"model_type": "llama"}
    assert opened.folder == tmp_path / "llama"


def test_a_folder_with_one_file_of_any_name_opens(tmp_path: Path) -> None:
    save_file({"v": torch.zeros(3)}, tmp_path / "pytorch.safetensors")

    assert list(open_checkpoint(str(tmp_path)).entries) == ["v"]


def test_part_of_a_tensor_is_read_on_its_own(tmp_path: Path) -> None:
    opened = open_checkpoint(write_model(tmp_path, {"w": torch.arange(6.0).reshape(2, 3)}))

    assert opened.read("w", 1, 4).tolist() == [1.0, 2.0, 3.0]
    assert opened.read("w", 5).tolist() == [5.0]
    assert opened.read("w", 6).tolist() == []


def test_a_checkpoint_sums_itself_up(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(2), "ids": torch.arange(4)}
    opened = open_checkpoint(
        write_model(tmp_path / "tiny", tensors, {"model_type": "gpt2", "tie_word_embeddings": True})
    )

    assert (opened.name, opened.parameters, opened.bytes) == ("tiny", 5, 6 + 8 + 32)
    assert opened.dtypes == ["bfloat16", "float32"]
    assert (opened.architecture, opened.tied) == ("gpt2", True)


@pytest.mark.parametrize(
    ("config", "architecture"),
    [({}, ""), ({"architectures": ["A", "B"]}, "A"), ({"architectures": []}, ""), ({"model_type": 3}, "")],
)
def test_the_architecture_is_what_the_config_says(config: dict[str, Any], architecture: str, tmp_path: Path) -> None:
    opened = open_checkpoint(write_model(tmp_path, {"w": torch.ones(1)}, config))

    assert opened.architecture == architecture


def entries_of(folder: Path) -> list[Entry]:
    return list(open_checkpoint(folder).entries.values())


@pytest.mark.parametrize("limit", [1 << 30, 40, 1])
def test_what_is_written_is_what_safetensors_reads(limit: int, tmp_path: Path) -> None:
    source = open_checkpoint(write_model(tmp_path / "source", KINDS))
    (tmp_path / "out").mkdir()

    placed = lay_out(tmp_path / "out", list(source.entries.values()), limit, {"made": "by a test"})
    output = Output(placed)
    for name, entry in placed.items():
        for start in range(0, entry.size, 2):
            values = source.read(name, start, min(start + 2, entry.size))
            output.write(entry, start, values.view(torch.uint8).numpy())
    output.close()

    found = {}
    for file in sorted((tmp_path / "out").glob("*.safetensors")):
        found |= load_file(file)
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt", "made": "by a test"}
    assert set(found) == set(KINDS)
    assert all(torch.equal(found[name], KINDS[name]) and found[name].dtype == KINDS[name].dtype for name in KINDS)
    assert set(open_checkpoint(tmp_path / "out").entries) == set(KINDS)


def test_a_model_in_several_files_has_an_index(tmp_path: Path) -> None:
    entries = entries_of(write_model(tmp_path / "source", random_tensors(0)))
    (tmp_path / "out").mkdir()

    lay_out(tmp_path / "out", entries, 200, {})

    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(entry.bytes for entry in entries)
    assert set(index["weight_map"]) == {entry.name for entry in entries}
    assert sorted(set(index["weight_map"].values())) == [
        f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)
    ]


def test_a_header_is_padded_so_that_data_is_aligned(tmp_path: Path) -> None:
    entries = entries_of(write_model(tmp_path / "source", {"wé": torch.ones(2)}))
    (tmp_path / "out").mkdir()

    placed = lay_out(tmp_path / "out", entries, 1 << 30, {"recipe": "λ: 1"})

    assert placed["wé"].offset % 8 == 0


def test_shards_are_as_full_as_the_limit_allows() -> None:
    entries = [Entry(str(size), "U8", (size,), Path(), 0) for size in (4, 4, 3, 9, 1)]

    sizes = [[entry.size for entry in shard] for shard in shards(entries, 8)]

    assert sizes == [[4, 4], [3], [9], [1]]


def test_a_header_that_leaves_room_between_tensors_is_accepted(tmp_path: Path) -> None:
    raw(tmp_path / "w.safetensors", {"w": told(offsets=(4, 12)), "e": told(shape=(0,), offsets=(16, 16))}, bytes(16))

    assert [entry.name for entry in read_header(tmp_path / "w.safetensors")] == ["w", "e"]


def test_no_existing_file_is_overwritten(tmp_path: Path) -> None:
    entries = entries_of(write_model(tmp_path, {"w": torch.ones(2)}))

    with pytest.raises(FileExistsError):
        lay_out(tmp_path, entries, header.HEADER_LIMIT, {})
