"""The models a visitor can pick from the list: the embedded family, and those in a folder of the user's."""

from __future__ import annotations

from pathlib import Path

from merging.sources import LEFT, NUMBERED, PICKLES

ZOO = Path(__file__).parent.parent / "zoo"
BASE = ZOO / "base"
EXPERTS = tuple(ZOO / name for name in ("shakespeare", "bible", "python"))
ADAPTERS = tuple(path.with_name(f"{path.name}-lora") for path in EXPERTS)


def choices(folder: Path | None = None) -> list[tuple[str, str]]:
    """Labels and paths for the dropdowns; `folder` holds further models, in folders or single files, or is one."""
    listed = [(f"{path.name} (embedded)", str(path)) for path in (BASE, *EXPERTS, *ADAPTERS)]
    return listed + [(path.name, str(path)) for path in _models(folder)] if folder else listed


def _models(folder: Path) -> list[Path]:
    """The models in a folder; the folder itself stands for shards that lie right in it."""
    inside = [path for path in _seen(folder) if path.is_dir() or _weights(path)]
    below = [path for path in inside if path.is_dir() and any(map(_weights, _seen(path)))]
    files = [path for path in inside if path.is_file()]
    lone = [path for path in files if not _shard(path)]
    return ([folder] if len(lone) < len(files) else []) + sorted(lone + below)


def _shard(path: Path) -> bool:
    name = NUMBERED.fullmatch(path.stem)
    return name is not None and int(name["total"]) > 1


def _seen(folder: Path) -> list[Path]:
    """What is in a folder, without what is hidden, as a merge at work is; nothing where it may not be read."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return []


def _weights(path: Path) -> bool:
    return path.suffix in (".safetensors", *PICKLES) and not LEFT.fullmatch(path.stem) and path.is_file()
