"""The headers of safetensors files, checked against the file before anything they say is believed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from merging.errors import MergeError
from merging.lazy import torch

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
OTHERS = {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
HEADER_LIMIT = 100 << 20
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint: its dtype in safetensors' words, its shape, and where its bytes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int  # in bytes from the start of the file

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * SIZES[self.dtype]

    @property
    def floating(self) -> bool:
        return self.dtype in FLOATS


def dtype_of(entry: Entry) -> torch.dtype:
    """The torch dtype of an entry."""
    dtype: torch.dtype = getattr(torch, (FLOATS | OTHERS)[entry.dtype])
    return dtype


def read_header(file: Path) -> list[Entry]:
    """The tensors that a safetensors file says it holds, checked against the file's size and each other."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                raise MergeError(f"{file} is cut short or is no safetensors file. Download it again.")
            text = stream.read(length)
    except OSError as error:
        raise MergeError(f"{file} could not be read ({error.strerror}). Check the file.") from error
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MergeError(f"The header of {file} is damaged ({error}). Download it again.") from error
    if not isinstance(header, dict):
        raise MergeError(f"The header of {file} is not a JSON object. Download it again.")
    header.pop("__metadata__", None)
    entries = [_entry(file, name, told, 8 + length, size) for name, told in header.items()]
    _apart(file, entries)
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name stands there twice")
    "".join(content).encode()  # half a surrogate pair is valid JSON, and a name that nobody can write
    return content


def _entry(file: Path, name: str, told: Any, start: int, size: int) -> Entry:
    damaged = MergeError(f"The header of {file} says impossible things of `{name}`. Download the file again.")
    if not isinstance(told, dict):
        raise damaged
    dtype, shape, offsets = told.get("dtype"), told.get("shape"), told.get("data_offsets")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or not isinstance(dtype, str):
        raise damaged
    begin, end = offsets
    if dtype not in SIZES:
        raise MergeError(f"`{name}` in {file} has dtype {dtype}, which cannot be merged. Choose an unquantised model.")
    entry = Entry(name, dtype, tuple(shape), file, start + begin)
    if end - begin != entry.bytes:
        raise damaged
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise MergeError(f"{path} could not be read as JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise MergeError(f"{path} is not a JSON object. Download it again.")
    return content
