"""Builds the folder of a Space, to be uploaded as it is: python docs/space.py"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # as a script it sees its own folder only

from merging import space  # noqa: E402 - only now can it be found

FOLDER = ROOT / "build" / "space"
FILES = ("app.py", "LICENSE")
TREES = ("merging", "ui", "zoo")
LEFT_OUT = ("__pycache__", "*.pyc", "*.pyi", "build")  # the last of which made the models
LARGEST = 10_000_000  # bytes of a file that the Hub takes without LFS
MORE = ("spaces>=0.40,<1",)  # lends a GPU, where the Space is on ZeroGPU
ATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
README = """\
# Mergescope

See what merging fine-tuned language models will do, tensor by tensor, and then do it.

A small family of models is embedded to begin with. Of the Hub, name any public model with safetensors that is not too
large; what is too large, gated or private can be merged on a machine of your own, with a clone of this Space:

```sh
python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
.venv/bin/python app.py
```

There it takes models from your disk, and of the Hub whatever you may read. Merges made here are kept for %d hours at
most: download them, or sign in before you merge, and publish them under your own name.
"""


def front() -> dict[str, Any]:
    """What Hugging Face reads of the README."""
    return {
        "title": "Mergescope",
        "emoji": "🔬",
        "colorFrom": "indigo",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": gradio(),
        "python_version": "3.12",  # a version that ZeroGPU has, too
        "app_file": "app.py",
        "short_description": "See what merging fine-tuned models does, and do it",
        "license": "apache-2.0",
        "tags": ["model-merging", "mergekit", "lora", "interpretability"],
        "suggested_hardware": "cpu-basic",
        "hf_oauth": True,
        "hf_oauth_scopes": ["write-repos", "manage-repos"],  # to make a model's repository, and to fill it
    }


def gradio() -> str:
    """The release of Gradio that the requirements begin with, in full."""
    found = re.search(r"^gradio>=(\d+)\.(\d+)(?:\.(\d+))?,", _required(), re.MULTILINE)
    assert found, "requirements.txt asks for no release of Gradio"
    return ".".join(part or "0" for part in found.groups())


def requirements() -> str:
    """What the Space installs: what every user does, and what only a Space needs."""
    lines = [line for line in _required().splitlines() if line and not line.startswith("#")]
    lines = [line.replace("gradio>=", "gradio[oauth]>=") for line in lines]
    return "\n".join([*lines, *MORE]) + "\n"


def _required() -> str:
    return (ROOT / "requirements.txt").read_text(encoding="utf-8")


def build(folder: Path = FOLDER) -> Path:
    """Make the folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    for name in TREES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    top = yaml.safe_dump(front(), sort_keys=False, allow_unicode=True)
    (folder / "README.md").write_text(f"---\n{top}---\n\n{README % (space.KEPT // 3600)}", encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(), encoding="utf-8")
    (folder / ".gitattributes").write_text(ATTRIBUTES, encoding="utf-8")
    large = [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size > LARGEST]
    if large:
        sys.exit(f"{large[0]} is larger than the Hub takes. Let visitors name it on the Hub instead.")
    return folder


if __name__ == "__main__":
    print(f"The Space is in {build().relative_to(ROOT)}; docs/space.md says how to publish it.")
