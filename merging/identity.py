"""What a merge was made from: enough of each file to tell later whether it is still the same one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import MergeError
from merging.header import header_bytes
from merging.hub.cached import commit_of

if TYPE_CHECKING:
    from merging.checkpoint import Checkpoint

EDGE = 64 << 10
BLOCK = 1 << 20
SNAPSHOT = re.compile(r"models--(?P<repo>.+)/snapshots/(?P<commit>[0-9a-f]{40})$")


def identity(model: Checkpoint) -> dict[str, Any]:
    """The files of a model, with size and a hash of the header; and the Hub's name and commit, for what is from there.

    A header says names, shapes and places of all tensors. A pickle has both its ends instead, a config all of it.
    """
    own = {file for file in model.files if file.parent == model.folder}  # an adapter reads its base's as well
    own |= {file for name in ("config.json", "adapter_config.json") if (file := model.folder / name).is_file()}
    if model.adapter:
        own |= {file for file in model.folder.glob("adapter_model.*") if file.is_file()}
    found: dict[str, Any] = {"name": model.name, "files": {file.name: _of(file) for file in sorted(own)}}
    if hub := SNAPSHOT.search(model.folder.absolute().as_posix()):
        found |= {"repo": hub["repo"].replace("--", "/"), "commit": hub["commit"]}
    elif name := commit_of(model.folder):
        found |= {"repo": name.repo, "commit": name.revision}
    return found


def full_hash(file: Path, listen: Callable[[], None] = lambda: None) -> str:
    """The SHA-256 of a whole file, read block by block; `listen` is called now and then, and may raise."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                listen()
                digest.update(block)
    except OSError as error:
        raise MergeError(f"{file} could not be read ({error.strerror}). Check the file.") from error
    return digest.hexdigest()


def _of(file: Path) -> dict[str, Any]:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise MergeError(f"{file} could not be read ({error.strerror}). Check the file.") from error
    if file.suffix == ".safetensors":
        header, size = header_bytes(file)
        return {"size": size, "header": hashlib.sha256(header).hexdigest()}
    return {"size": size, "header": full_hash(file) if size <= 2 * EDGE else _ends(file, size)}


def _ends(file: Path, size: int) -> str:
    with file.open("rb") as stream:
        first = stream.read(EDGE)
        stream.seek(size - EDGE)
        return hashlib.sha256(first + stream.read(EDGE)).hexdigest()
