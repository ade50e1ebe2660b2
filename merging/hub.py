"""Models of the Hugging Face Hub that were downloaded before, by their names; nothing is fetched here."""

from __future__ import annotations

import re
from pathlib import Path

HUB_NAME = re.compile(r"(?!.*\.safetensors$)[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def downloaded(name: str) -> Path | None:
    """The folder in the Hub's cache that holds the model's main revision; None where there is none."""
    if not HUB_NAME.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def name_in_cache(folder: Path) -> str:
    """The name of the model of the Hub whose main revision this folder in the cache is; empty for any other folder."""
    parts = folder.absolute().parts
    name = parts[-3].removeprefix("models--").replace("--", "/") if parts[-2:-1] == ("snapshots",) else ""
    there = downloaded(name) if name else None
    return name if there and there.resolve() == folder.resolve() else ""
