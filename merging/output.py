"""The safetensors files of a result: laid out first, header and all, then filled in any order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.header import INDEX, SIZES, Entry, read_header
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def shards(entries: list[Entry], limit: int) -> Iterator[list[Entry]]:
    """The entries in files of at most `limit` bytes, a larger tensor in a file of its own."""
    shard: list[Entry] = []
    for entry in entries:
        if shard and sum(other.bytes for other in shard) + entry.bytes > limit:
            yield shard
            shard = []
        shard.append(entry)
    yield shard


def lay_out(folder: Path, entries: list[Entry], limit: int, metadata: dict[str, str]) -> dict[str, Entry]:
    """Create the safetensors files that will hold these tensors, with headers and no data; and where each goes."""
    files = list(shards(entries, limit))
    placed: dict[str, Entry] = {}
    for number, shard in enumerate(files, 1):
        name = "model.safetensors" if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        placed |= _lay_out_file(folder / name, shard, metadata)
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(entry.bytes for entry in entries)},
            "weight_map": {entry.name: entry.file.name for entry in placed.values()},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return placed


def _lay_out_file(file: Path, entries: list[Entry], metadata: dict[str, str]) -> dict[str, Entry]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for entry in sorted(entries, key=lambda entry: -SIZES[entry.dtype]):  # so that every number is aligned
        end = offset + entry.bytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + offset)
    return {entry.name: entry for entry in read_header(file)}


def write(entry: Entry, start: int, values: Tensor) -> None:
    """Put values of the entry's dtype, laid flat, at its entries from `start` on."""
    with entry.file.open("r+b", buffering=0) as stream:
        stream.seek(entry.offset + start * SIZES[entry.dtype])
        view = memoryview(values.contiguous().view(torch.uint8).numpy().data).cast("B")
        while view:
            view = view[stream.write(view) :]
