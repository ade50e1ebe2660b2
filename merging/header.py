"""The headers of safetensors files, checked against the file before anything they say is believed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from merging.caches import PREVIEW, previews
from merging.errors import MergeError
from merging.formats import disguise
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
STORED_AS = {name: key for key, name in FLOATS.items()}
FP8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
POWERS = {"F8_E8M0": "float8_e8m0fnu"}  # of two, as scales of fp8 weights
OTHERS = {
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
}
SIZES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
    "F8_E8M0": 1,
    # Known only so that the file can be refused by what it is.
    **{"C64": 8, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1},
}
HEADER_LIMIT = 100 << 20
JSON_LIMIT = 256 << 20  # bytes of any other JSON file; the largest tokenizers are a tenth of it
MOST_VALUES = 2 << 20  # in a header, which is some 200,000 tensors; in other JSON four times as many
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint: its dtype in safetensors' words, its shape, and where its bytes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int  # in bytes from the start of the file

    @cached_property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """The number of entries along the last axis."""
        return self.shape[-1] if self.shape else 1

    @property
    def bytes(self) -> int:
        return self.size * SIZES[self.dtype]

    @property
    def floating(self) -> bool:
        return self.dtype in FLOATS

    @property
    def here(self) -> bool:
        """Whether its bytes are in that file on this machine."""
        return True

    def read(self, start: int, stop: int) -> Tensor:
        """Entries `start` to `stop` of what is stored, as a flat tensor of its own."""
        size = SIZES[self.dtype]
        data = bytearray(size * (stop - start))
        view = memoryview(data)
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.offset + start * size)
                while view and (count := file.readinto(view)):
                    view = view[count:]
        except OSError as error:
            raise MergeError(f"{self.file} could not be read ({error.strerror}). Check the file.") from error
        if view:
            raise ended(self.file, self.name)
        return torch.frombuffer(data, dtype=dtype_of(self)) if data else torch.empty(0, dtype=dtype_of(self))


def dtype_of(entry: Entry) -> torch.dtype:
    """The torch dtype of an entry."""
    dtype: torch.dtype = getattr(torch, (FLOATS | FP8 | POWERS | OTHERS)[entry.dtype])
    return dtype


def read_header(file: Path) -> list[Entry]:
    """The tensors that a safetensors file says it holds, checked against the file's size and each other."""
    text, size = header_bytes(file)
    header = _parsed(file, text)
    header.pop("__metadata__", None)
    entries = [_entry(file, name, told, 8 + len(text), size) for name, told in header.items()]
    _apart(file, entries)
    return entries


def metadata(file: Path) -> dict[str, str]:
    """What is written beside the tensors in the header of a safetensors file."""
    told = _parsed(file, header_bytes(file)[0]).get("__metadata__")
    return {key: value for key, value in told.items() if isinstance(value, str)} if isinstance(told, dict) else {}


def header_bytes(file: Path) -> tuple[bytes, int]:
    """The header of a safetensors file as it is stored, and the size of the file."""
    try:
        check_file(file)
        size = size_on_the_hub(file) or file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                what = disguise(start) or "is cut short or is no safetensors file. Download it again."
                raise MergeError(f"{file} {what}")
            return stream.read(length), size
    except OSError as error:
        raise MergeError(f"{file} could not be read ({error.strerror}). Check the file.") from error


def check_file(file: Path) -> None:
    """MergeError where there is neither a file nor a folder: to read a pipe or a device may never end."""
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise MergeError(f"{file} is a pipe or a device, which is not read. Put a file there.")


def ended(file: Path, name: str) -> MergeError:
    """What is wrong where a file has ended before its tensor, which it has if it is a preview's."""
    if size_on_the_hub(file):
        return only_headers(file.parent)
    return MergeError(f"{file} ended while `{name}` was read. Check that nothing is changing the file.")


def only_headers(preview: Path) -> MergeError:
    """What is wrong where the weights of a model are to be read of which only a preview is here."""
    model = preview.parent.name.replace("--", "/", 1)
    return MergeError(f"Only the headers of `{model}` are here, and its weights are on the Hub. Download it first.")


def size_on_the_hub(file: Path) -> int:
    """The size of the file that a preview's stands for; 0 for every other file."""
    told = file.parent / PREVIEW
    if file.parent.parent.parent != previews() or not told.is_file():
        return 0
    size = read_json(told).get(file.name)
    return size if isinstance(size, int) else 0


def _parsed(file: Path, text: bytes) -> dict[str, Any]:
    if _values(text) > MOST_VALUES:
        raise MergeError(f"The header of {file} names more tensors than any model has. Download it again.")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MergeError(f"The header of {file} is damaged ({error}). Download it again.") from error
    if not isinstance(header, dict):
        raise MergeError(f"The header of {file} is not a JSON object. Download it again.")
    return header


def _values(text: bytes) -> int:
    """The most values that a JSON text can hold, each of which takes far more memory than its letters."""
    return sum(text.count(mark) for mark in b",[{")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name stands there twice")
    "".join(content).encode()  # half a surrogate pair is valid JSON, and a name that nobody can write
    return content


def _entry(file: Path, name: str, told: Any, start: int, size: int) -> Entry:
    damaged = f"The header of {file} says impossible things of `{name}`. Download the file again."
    if not isinstance(told, dict):
        raise MergeError(damaged)
    dtype, shape, offsets = told.get("dtype"), told.get("shape"), told.get("data_offsets")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or not isinstance(dtype, str):
        raise MergeError(damaged)
    begin, end = offsets
    if dtype not in SIZES:
        raise MergeError(f"`{name}` in {file} has dtype {dtype}, which cannot be merged. Choose an unquantised model.")
    entry = Entry(name, dtype, tuple(shape), file, start + begin)
    if end - begin != entry.bytes:
        raise MergeError(damaged)
    if start + end > size:
        raise MergeError(f"{file} is cut short: `{name}` ends beyond it. Download it again.")
    return entry


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _apart(file: Path, entries: list[Entry]) -> None:
    end = 0
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.bytes)):
        if entry.offset < end:
            raise MergeError(f"`{entry.name}` overlaps another tensor in {file}. Download the file again.")
        end = max(end, entry.offset + entry.bytes)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        check_file(path)
        with path.open("rb") as stream:
            text = stream.read(JSON_LIMIT + 1)
        if len(text) > JSON_LIMIT or _values(text) > 4 * MOST_VALUES:
            raise ValueError("it is too large")
        content = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise MergeError(f"{path} could not be read as JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise MergeError(f"{path} is not a JSON object. Download it again.")
    return content
