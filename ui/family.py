"""The models a visitor can pick from the list: the embedded family, and those in a folder of the user's."""

from __future__ import annotations

from pathlib import Path

ZOO = Path(__file__).parent.parent / "zoo"
BASE = ZOO / "base"
EXPERTS = tuple(ZOO / name for name in ("shakespeare", "bible", "python"))
ADAPTERS = tuple(path.with_name(f"{path.name}-lora") for path in EXPERTS)


def choices(folder: Path | None = None) -> list[tuple[str, str]]:
    """Labels and paths for the dropdowns; `folder` holds further model folders or safetensors files."""
    listed = [(f"{path.name} (embedded)", str(path)) for path in (BASE, *EXPERTS, *ADAPTERS)]
    if folder:
        for path in sorted(folder.iterdir()):
            lone = path.suffix == ".safetensors"
            if lone or (path.is_dir() and any(path.glob("*.safetensors"))):
                listed.append((path.name, str(path)))
    return listed
