"""Statistics on disk, by what they follow from: the same models are not read again, wherever they are by then."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from merging import kernels
from merging.caches import cache
from merging.checkpoint import BESIDE, Checkpoint
from merging.errors import MergeError
from merging.groups import Bits
from merging.header import metadata, read_header
from merging.lazy import torch
from merging.provenance import our_code
from merging.statistics.probe import amount
from merging.statistics.tables import Tables, kinds

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 2 << 30  # bytes of all files; those that were used longest ago are removed
BLOCKS, BLOCK = 64, 4 << 10  # what is read of a large file to know it again
NAME = re.compile(r"\.?[0-9a-f]{64}\.safetensors(\.[0-9a-f]+)?")  # of our files, finished or not
LEFT = 24 * 3600  # seconds after which an unfinished file is nobody's


def folder() -> Path:
    """Where statistics are kept."""
    return cache("statistics")


def key(models: Sequence[Checkpoint], wanted: int) -> str:
    """What statistics of these models, the base first, follow from, in 64 letters: files, samples' size, and our code.

    Of a large file it is the size, the time of its last change, and some blocks; so a copy that keeps its time is
    known, and whatever changes a file is noticed. MergeError where one cannot be read.
    """
    told = [[_print(file) for file in _files(model)] for model in models]
    text = json.dumps([our_code(), wanted, kernels.usable(), told])
    return hashlib.sha256(text.encode()).hexdigest()


def _files(model: Checkpoint) -> list[Path]:
    beside = {model.folder / name for name in BESIDE}
    return sorted(file for file in model.files | beside if file.is_file())


def _print(file: Path) -> list[Any]:
    """What tells a file from others of its name."""
    digest = hashlib.sha256()
    try:
        told = file.stat()
        with file.open("rb") as stream:
            if told.st_size <= BLOCKS * BLOCK:
                digest.update(stream.read())
                return [file.name, told.st_size, digest.hexdigest()]
            for number in range(BLOCKS):
                stream.seek((told.st_size - BLOCK) * number // (BLOCKS - 1))
                digest.update(stream.read(BLOCK))
    except OSError as error:
        raise MergeError(f"{file} could not be read ({error.strerror}). Check the file.") from error
    return [file.name, told.st_size, told.st_mtime_ns, digest.hexdigest()]


def fill(found: Tables, known: str) -> bool:
    """Fill the tables and samples with what is kept under a key; whether there was such, whole and of these shapes."""
    file = folder() / f"{known}.safetensors"
    try:
        if not file.is_file():
            return False
        entries = {entry.name: entry for entry in read_header(file)}
        if {name: entry.shape for name, entry in entries.items()} != _shapes(found):
            return False
        kept = {name: entry.read(0, entry.size).reshape(entry.shape) for name, entry in entries.items()}
        if metadata(file).get("checksum") != _checksum(kept) or not _take(found, kept):
            return False
        os.utime(file)
    except (MergeError, OSError, ValueError):  # damaged, or not ours: as if it were not there
        return False
    return True


def _shapes(found: Tables) -> dict[str, tuple[int, ...]]:
    samples = {kind: (sum(models * size for models, size in _sizes(found, kind)),) for kind in kinds(found.rate)}
    return {name: tuple(table.shape) for name, table in found.tables.items()} | samples


def _sizes(found: Tables, kind: str) -> list[tuple[int, int]]:
    """For each tensor, the number of models that have it, and of the entries that are sampled of each."""
    entries, rows = found.work.base.entries, kinds(found.rate)[kind]
    return [
        (1 + len(which), amount(entries[name].size, entries[name].row, found.rate, rows))
        for name, which in found.work.merged.items()
    ]


def _take(found: Tables, kept: dict[str, Tensor]) -> bool:
    """Put what was read into the tables; whether it is of the right types."""
    samples = kinds(found.rate)
    if any(kept[name].dtype != table.dtype for name, table in found.tables.items()):
        return False
    if any(kept[kind].dtype not in (torch.int16, torch.int32) for kind in samples):
        return False
    for name, table in found.tables.items():
        table.copy_(kept[name])
    for kind in samples:
        bits, start = _widened(kept[kind]), 0
        for tensor, (models, size) in zip(found.kept, _sizes(found, kind), strict=True):
            tensor[kind] = bits[start : start + models * size].reshape(models, size)
            start += models * size
    return True


def keep(found: Tables, known: str) -> None:
    """Keep finished tables and samples under a key, as far as the disk allows it: nothing depends on it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    place = folder()
    unfinished = place / f".{known}.safetensors.{uuid.uuid4().hex}"  # two may be at the same one
    samples = {
        kind: _narrowed(np.concatenate([tensor[kind].ravel() for tensor in found.kept])) for kind in kinds(found.rate)
    }
    tensors = {name: table.contiguous() for name, table in found.tables.items()} | samples
    try:
        place.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, unfinished, {"checksum": _checksum(tensors)})
            os.replace(unfinished, place / f"{known}.safetensors")
        finally:
            unfinished.unlink(missing_ok=True)
        _make_room(place)
    except (OSError, SafetensorError):  # no space, or no right to write there
        return


def _make_room(place: Path) -> None:
    """Remove the files that were used longest ago, until the others fit, and those that nobody finishes."""
    ours = [(file.stat(), file) for file in place.iterdir() if NAME.fullmatch(file.name)]
    total = 0
    for told, file in sorted(ours, key=lambda one: -one[0].st_mtime_ns):
        unfinished = file.name.startswith(".")
        total += 0 if unfinished else told.st_size
        if (time.time() - told.st_mtime > LEFT) if unfinished else total > LIMIT:
            file.unlink(missing_ok=True)


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _narrowed(bits: Bits) -> Tensor:
    """Bits of float32 as they are, or of bfloat16 where that loses nothing."""
    if (bits & 0xFFFF).any():
        return torch.from_numpy(bits.view(np.int32))
    return torch.from_numpy((bits >> 16).astype(np.uint16).view(np.int16))


def _widened(kept: Tensor) -> Bits:
    if kept.dtype == torch.int32:
        return kept.numpy().view(np.uint32)
    return kept.numpy().view(np.uint16).astype(np.uint32) << np.uint32(16)
