"""Models on the Hub as folders that hold all but their weights: small files, and the headers of the weights' files.

All that is said before a merge follows from these. Reading a weight of a preview fails, as of a file that is cut short.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from merging import space
from merging.caches import PREVIEW
from merging.companions import OF_BASE, OF_TOKENIZER, SUFFIXES, TEMPLATES
from merging.errors import MergeError
from merging.header import HEADER_LIMIT
from merging.hub.asking import asking
from merging.hub.cached import WEIGHTS, home_of, ref_of
from merging.hub.names import HubName, hub_name
from merging.hub.remote import Remote, look, some_bytes
from merging.hub.room import room_for, touched, trim_previews
from merging.sizes import in_words
from merging.sources import ADAPTER, source_of
from merging.words import listed

SMALL = ("config.json", "generation_config.json", "adapter_config.json", "*.index.json", *OF_TOKENIZER, *OF_BASE)
LIMIT = 128 << 20  # bytes of all small files
FIRST = 256 << 10  # bytes that are asked for first; most headers fit
HEADERS = 256 << 20  # bytes of all headers of a model, and of all that is asked for first
AT_ONCE = 8


def preview(name: HubName) -> Path:
    """The folder of a preview of the model as it is on the Hub now, made where there is none of its commit yet."""
    remote = look(name)
    folder = home_of(name) / remote.name.revision
    touched(name)
    if not folder.is_dir():
        _make(remote, folder)
        if space.here():
            trim_previews()
    if name.revision != remote.name.revision:
        _written(ref_of(name), remote.name.revision)
    return folder


def commit_at(folder: Path) -> str:
    """The commit that a preview is of."""
    return folder.name


def _written(file: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as stream:
        stream.write(text)
    os.replace(stream.name, file)


def _make(remote: Remote, folder: Path) -> None:
    weights = [file for file in remote.files if file.endswith(WEIGHTS) and "/" not in file]
    if not weights:
        raise MergeError(_without(remote))
    small = [file for file in remote.files if _is_small(file)]
    beside = sum(remote.files[file] for file in small)
    if beside > LIMIT:
        raise MergeError(f"The files beside the weights of `{remote.name.repo}` are too large. Choose another model.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as work:
        made = Path(work) / "made"
        made.mkdir()
        with room_for(remote.name, beside), ThreadPoolExecutor(AT_ONCE) as pool:
            _copied(pool, remote, [file for file in small if _decides(file)], made)
            for file in weights:
                (made / file).touch()
            chosen = _chosen(remote, made)
            if words := space.too_large(remote.name.repo, sum(remote.files[file] for file in chosen)):
                raise MergeError(words)
            _copied(pool, remote, [file for file in small if not _decides(file)], made)
            _headers(pool, remote, chosen, made)
        (made / PREVIEW).write_text(json.dumps(remote.files), encoding="utf-8")
        try:
            os.replace(made, folder)
        except OSError:  # somebody else was quicker
            if not folder.is_dir():
                raise


def _chosen(remote: Remote, made: Path) -> list[str]:
    """The files of weights that hold the model."""
    try:
        return [file.name for file in source_of(made).files]
    except MergeError as error:  # names a folder that nobody knows
        raise MergeError(str(error).replace(str(made), f"`{remote.name.repo}`")) from error


def _is_small(file: str) -> bool:
    folder, _, name = file.rpartition("/")
    if folder:
        return folder == TEMPLATES and name.endswith(".jinja")
    return Path(name).suffix in SUFFIXES and any(fnmatchcase(name.lower(), known) for known in SMALL)


def _decides(file: str) -> bool:
    """Whether it takes that file to know which files hold the model."""
    return file == ADAPTER or file.lower().endswith(".index.json")


def _copied(pool: ThreadPoolExecutor, remote: Remote, files: list[str], to: Path) -> None:
    list(pool.map(lambda file: _copy(remote.name, file, to / file), files))


def _copy(name: HubName, file: str, to: Path) -> None:
    from huggingface_hub import hf_hub_download

    with asking(name):
        kept = hf_hub_download(name.repo, file, revision=name.revision)
    to.parent.mkdir(exist_ok=True)
    shutil.copyfile(kept, to)


def _headers(pool: ThreadPoolExecutor, remote: Remote, files: list[str], to: Path) -> None:
    """Write the headers of files of weights, and no more; MergeError before they take too much together."""
    large = f"The headers of `{remote.name.repo}` take more than {in_words(HEADERS)}. Choose another model."
    if len(files) * FIRST > HEADERS:
        raise MergeError(large)
    lengths = list(pool.map(lambda file: _start(remote, file, to / file), files))
    if sum(lengths) > HEADERS:
        raise MergeError(large)
    list(pool.map(lambda file, length: _rest(remote, file, length, to / file), files, lengths))


def _start(remote: Remote, file: str, to: Path) -> int:
    """Write the start of the header of a file of weights; where the header ends."""
    start = some_bytes(remote.name, file, 0, FIRST)
    length = 8 + int.from_bytes(start[:8], "little")
    if length > min(HEADER_LIMIT, remote.files[file]):
        raise MergeError(f"{file} of `{remote.name.repo}` is no safetensors file. Choose another model.")
    to.write_bytes(start[:length])
    return length


def _rest(remote: Remote, file: str, length: int, to: Path) -> None:
    if length > FIRST:
        with to.open("ab") as stream:
            stream.write(some_bytes(remote.name, file, FIRST, length))


def _without(remote: Remote) -> str:
    """Why a model without safetensors cannot be used."""
    name, told = remote.name.repo, remote.card.get("base_model")
    endings = {file.rpartition(".")[2] for file in remote.files}
    if "gguf" in endings:
        made_from = [str(one) for one in (told if isinstance(told, list) else [told]) if hub_name(str(one))]
        words = f"`{name}` holds GGUF files, which cannot be merged. Name the model they were made from"
        return f"{words}, by its card {listed([f'`{one}`' for one in made_from])}." if made_from else f"{words}."
    if endings & {"bin", "pt", "pth"}:
        words = f"`{name}` has its weights as PyTorch files only, which are not fetched from the Hub"
        return f"{words}. Choose a model with safetensors, or convert it first."
    return f"`{name}` has no weights in safetensors. Choose another model."
