"""Models of the Hub that this machine has by their names: downloaded, or their previews. Nothing is fetched here."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from merging.caches import PREVIEW, previews
from merging.errors import MergeError
from merging.header import read_json
from merging.hub.names import COMMIT, HubName, hub_name
from merging.sources import ADAPTER, source_of

WEIGHTS = ".safetensors"
TOKENIZERS = ("tokenizer.*", "vocab.*", "*.model")  # what a tokenizer is read from, of which each has one


def kept(told: str | Path) -> Path | None:
    """The folder that a name of the Hub opens: the download, or else the preview; None without both, or for a path."""
    return None if os.path.exists(told) else downloaded(told) or previewed(told)


def downloaded(told: str | Path | HubName) -> Path | None:
    """The folder in the Hub's cache that holds the model of this name, all of it; None where there is none."""
    name = told if isinstance(told, HubName) else hub_name(told)
    if not name:
        return None
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / f"models--{name.repo.replace('/', '--')}"
    for ref in (home / "refs" / (name.revision or "main"), ref_of(name)):
        folder = home / "snapshots" / (_text(ref) or name.revision)
        if COMMIT.fullmatch(folder.name) and folder.is_dir() and _whole(folder, home_of(name) / folder.name):
            return folder
    return None


def _whole(folder: Path, preview: Path) -> bool:
    """Whether a snapshot is all of its model, and not only files of it that other programs fetched singly.

    It has weights, and all that its preview says. Without a preview it has a config, and a tokenizer, too, unless the
    Hub may not be asked whether there is one. An adapter has its own config, and needs no tokenizer.
    """
    try:
        if not source_of(folder).files:
            return False
        if preview.is_dir():
            return all((folder / file).is_file() for file in files_of(preview))
    except MergeError:  # a part of it is no model yet
        return False
    from huggingface_hub import constants

    if (folder / ADAPTER).is_file():
        return True
    tokenizer = constants.HF_HUB_OFFLINE or any(any(folder.glob(name)) for name in TOKENIZERS)
    return tokenizer and (folder / "config.json").is_file()


@lru_cache(maxsize=64)  # a preview is of one commit, and never changes
def files_of(folder: Path) -> dict[str, int]:
    """The files that a model's preview stands for, with their sizes in bytes: what there is to download of it."""
    wanted = {file.name for file in source_of(folder).files}

    def counts(name: str) -> bool:
        return name in wanted if name.endswith(WEIGHTS) else (folder / name).is_file()

    return {name: size for name, size in read_json(folder / PREVIEW).items() if counts(name)}


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def previewed(told: str | Path) -> Path | None:
    """The folder of the preview of that name, as it was when the Hub was last asked; None where there is none."""
    name = hub_name(told)
    if not name:
        return None
    folder = home_of(name) / (_text(ref_of(name)) or name.revision)
    return folder if COMMIT.fullmatch(folder.name) and folder.is_dir() else None


def home_of(name: HubName) -> Path:
    """Where previews of a model are, each in a folder that is called by its commit."""
    return previews() / name.repo.replace("/", "--")


def ref_of(name: HubName) -> Path:
    """The file that says which commit a revision was when the Hub was last asked."""
    return home_of(name) / f"{(name.revision or 'main').replace('/', '--')}.commit"


def commit_of(folder: Path) -> HubName | None:
    """The name, with the commit, of the model that a folder of the Hub's cache or a preview is of; None for others."""
    *_, first, second, third = ("", "", *folder.absolute().parts)
    if second == "snapshots" and first.startswith("models--"):
        return _exactly(first.removeprefix("models--"), third)
    return _exactly(second, third) if folder.absolute().parent.parent == previews().absolute() else None


def name_of(path: Path) -> HubName | None:
    """The name of a model of the Hub, with its commit where it is here, at least in part; None for any other path."""
    known = commit_of(kept(path) or path)
    return known or (None if os.path.exists(path) else hub_name(path))


def _exactly(folder: str, commit: str) -> HubName | None:
    name = hub_name(folder.replace("--", "/", 1))
    return name.at(commit) if name and COMMIT.fullmatch(commit) else None


def name_in_cache(folder: Path) -> str:
    """The name of the model of the Hub whose main revision this folder in the cache is; empty for any other folder."""
    name = commit_of(folder)
    there = downloaded(name.repo) if name else None
    return name.repo if name and there and there.resolve() == folder.resolve() else ""
