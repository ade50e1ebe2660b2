"""Where this machine keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path

PREVIEW = "preview.json"  # in a preview's folder: the sizes of a model's files on the Hub, by name


def cache(kind: str) -> Path:
    """The folder for that kind of things: in `MERGESCOPE_CACHE`, or where this user's caches are."""
    if told := os.environ.get("MERGESCOPE_CACHE"):
        return Path(told).expanduser() / kind
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "mergescope" / kind


def previews() -> Path:
    """Where previews of models on the Hub are, `owner--name/commit/`; see `merging.hub.preview`."""
    return cache("previews")
