"""The safetensors files of a result: laid out first, header and all, then filled in any order."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from merging.errors import MergeError
from merging.groups import TILE, Bits
from merging.header import INDEX, SIZES, Entry, read_header

SHARD = 5 << 30  # bytes of one file, as Hugging Face writes them


def shards(entries: list[Entry], limit: int) -> Iterator[list[Entry]]:
    """The entries in files of at most `limit` bytes, a larger tensor in a file of its own."""
    shard: list[Entry] = []
    filled = 0
    for entry in entries:
        if shard and filled + entry.bytes > limit:
            yield shard
            shard, filled = [], 0
        shard.append(entry)
        filled += entry.bytes
    yield shard


def lay_out(
    folder: Path,
    entries: list[Entry],
    limit: int,
    metadata: dict[str, str],
    again: bool = False,
    stem: str = "model",
) -> dict[str, Entry]:
    """Create the safetensors files that will hold these tensors, with headers and no data; and where each goes.

    `again` takes files that are there already for those of an earlier run of the same plan, and keeps what they hold.
    The files are named by `stem`.
    """
    files = list(shards(entries, limit))
    placed: dict[str, Entry] = {}
    for number, shard in enumerate(files, 1):
        name = f"{stem}.safetensors" if len(files) == 1 else f"{stem}-{number:05}-of-{len(files):05}.safetensors"
        placed |= _lay_out_file(folder / name, shard, metadata, again)
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(entry.bytes for entry in entries)},
            "weight_map": {entry.name: entry.file.name for entry in placed.values()},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return placed


def _lay_out_file(file: Path, entries: list[Entry], metadata: dict[str, str], again: bool) -> dict[str, Entry]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for entry in sorted(entries, key=lambda entry: -SIZES[entry.dtype]):  # so that every number is aligned
        end = offset + entry.bytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("r+b" if again and file.exists() else "xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        _reserve(stream.fileno(), 8 + len(text) + offset)
    return {entry.name: entry for entry in read_header(file)}


def _reserve(number: int, size: int) -> None:
    """Give a file its length, and its place on the disk where the system can: what is full says so now."""
    os.truncate(number, size)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(number, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot
                raise


class Sink(Protocol):
    """Where the tensors of a result go, piece by piece, from any thread."""

    placed: dict[str, Entry]

    def place(self, entry: Entry, start: int) -> tuple[int, int] | None:
        """The open file, and the offset in it, of a tensor's entry number `start`; None where there is no file."""

    def note(self, entry: Entry, start: int, values: Any) -> None:
        """Learn of tiles that were put at their place in the file."""

    def write(self, entry: Entry, start: int, tile: Any) -> None:
        """Put a tile of a tensor, laid flat, at its place, from entry number `start` on."""

    def complete(self, name: str, entries: int) -> bool:
        """Note that so many entries of a tensor were written; whether that was the last of it."""

    def checksum(self, name: str) -> str:
        """Of a tensor that is complete; empty where none is taken."""


class Output:
    """The tensors of a result as they are filled, by any thread, with a checksum of each."""

    def __init__(self, placed: dict[str, Entry]) -> None:
        self.placed = placed
        self.left = {name: entry.size for name, entry in placed.items()}
        self.digests = {name: np.zeros(tiles(entry.size), np.uint64) for name, entry in placed.items()}
        self.numbers = {file: os.open(file, os.O_RDWR | getattr(os, "O_BINARY", 0)) for file in _files(placed)}
        self.ragged: set[str] = set()  # tensors of other tiles, as whole rows: their digests are taken from the file
        self.lock = threading.Lock()

    def place(self, entry: Entry, start: int) -> tuple[int, int]:
        """The open file, and the offset in it, of a tensor's entry number `start`."""
        return self.numbers[entry.file], entry.offset + start * SIZES[entry.dtype]

    def note(self, entry: Entry, start: int, values: Any) -> None:
        """Take the digests of tiles that were put at their place, the first of them from entry number `start` on."""
        for at in range(0, len(values), TILE):
            self.digests[entry.name][(start + at) // TILE] = xxhash.xxh3_64_intdigest(values[at : at + TILE])

    def write(self, entry: Entry, start: int, tile: Any) -> None:
        """Put a tile of a tensor, laid flat, at its place, from entry number `start` on."""
        number, offset = self.place(entry, start)
        if hasattr(os, "pwrite"):
            done = os.pwrite(number, tile, offset)
            while done < tile.nbytes:
                done += os.pwrite(number, tile.data.cast("B")[done:], offset + done)
        else:
            self._seek_and_write(number, tile, offset)
        if start % TILE or tile.nbytes > TILE * SIZES[entry.dtype]:
            self.ragged.add(entry.name)
        else:
            self.digests[entry.name][start // TILE] = xxhash.xxh3_64_intdigest(tile)

    def _seek_and_write(self, number: int, tile: Any, offset: int) -> None:
        with self.lock:
            os.lseek(number, offset, os.SEEK_SET)
            view = tile.data.cast("B")
            while view:
                view = view[os.write(number, view) :]

    def complete(self, name: str, entries: int) -> bool:
        """Note that so many entries of a tensor were written; whether that was the last of it."""
        with self.lock:
            self.left[name] -= entries
            return self.left[name] == 0

    def checksum(self, name: str) -> str:
        entry = self.placed[name]
        return stored_checksum(entry) if name in self.ragged else checksum(self.digests[name], entry)

    def close(self) -> None:
        for number in self.numbers.values():
            os.close(number)


def _files(placed: dict[str, Entry]) -> list[Path]:
    return sorted({entry.file for entry in placed.values()})


def tiles(size: int) -> int:
    """The number of runs of entries that have a digest of their own."""
    return -(-size // TILE)


def checksum(digests: Bits, entry: Entry) -> str:
    """A tensor's checksum: XXH3 of its dtype and shape, and of the XXH3 of each of its tiles of 2^17 entries.

    The tiles may be taken in any order.
    """
    shape = "x".join(map(str, entry.shape))
    return f"xxh3:{xxhash.xxh3_64_hexdigest(f'{entry.dtype} {shape} '.encode() + digests.astype('<u8').tobytes())}"


def stored_checksum(entry: Entry) -> str:
    """The checksum of what a file holds now."""
    size, digests = SIZES[entry.dtype], np.zeros(tiles(entry.size), np.uint64)
    try:
        with entry.file.open("rb", buffering=0) as stream:
            stream.seek(entry.offset)
            for start in range(0, entry.size, TILE):
                data = stream.read(min(TILE, entry.size - start) * size)
                digests[start // TILE] = xxhash.xxh3_64_intdigest(data)
    except OSError as error:
        raise MergeError(f"{entry.file} could not be read ({error.strerror}). Check the disk.") from error
    return checksum(digests, entry)


def examine(placed: dict[str, Entry]) -> None:
    """Read the headers of what was written again; MergeError where they do not say what was planned."""
    for file in _files(placed):
        found = {entry.name: entry for entry in read_header(file)}
        if found != {name: entry for name, entry in placed.items() if entry.file == file}:
            raise MergeError(f"{file} does not hold what was written to it. Check the disk and merge again.")
