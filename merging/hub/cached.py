"""Models of the Hub that this machine has by their names: downloaded, or their previews. Nothing is fetched here."""

from __future__ import annotations

from pathlib import Path

from merging.caches import previews
from merging.errors import MergeError
from merging.hub.names import COMMIT, HubName, hub_name
from merging.sources import source_of


def downloaded(told: str | Path | HubName) -> Path | None:
    """The folder in the Hub's cache that holds the model of this name, all of it; None where there is none."""
    name = told if isinstance(told, HubName) else hub_name(told)
    if not name:
        return None
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / f"models--{name.repo.replace('/', '--')}"
    for ref in (home / "refs" / (name.revision or "main"), ref_of(name)):
        folder = home / "snapshots" / (_text(ref) or name.revision)
        if COMMIT.fullmatch(folder.name) and folder.is_dir() and _whole(folder):
            return folder
    return None


def _whole(folder: Path) -> bool:
    try:
        return bool(source_of(folder).files)
    except MergeError:  # a part of it is no model yet
        return False


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


def _exactly(folder: str, commit: str) -> HubName | None:
    name = hub_name(folder.replace("--", "/", 1))
    return name.at(commit) if name and COMMIT.fullmatch(commit) else None


def name_in_cache(folder: Path) -> str:
    """The name of the model of the Hub whose main revision this folder in the cache is; empty for any other folder."""
    name = commit_of(folder)
    there = downloaded(name.repo) if name else None
    return name.repo if name and there and there.resolve() == folder.resolve() else ""
