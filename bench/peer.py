"""mergekit, which others use, in an environment of its own: python bench/peer.py DIR

Installs the pinned versions into DIR; it is never a dependency of ours. An environment that is there already, in DIR or
in DIR/venv, is used as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import venv
from pathlib import Path

from cases import models

TORCH = "torch==2.13.0"
PINNED = (
    "mergekit==0.1.5",
    "numpy==2.4.6",
    "transformers==5.23.0",
    "tokenizers==0.23.3",
    "safetensors==0.8.0",
    "accelerate==1.15.0",
    "pydantic==2.14.3",
    "click==8.5.1",
    "immutables==0.21",
    "peft==0.21.2",
)
PARAMETERS = {"linear": {"weight": 1.0}, "task_arithmetic": {"weight": 0.3}, "ties": {"weight": 1.0, "density": 0.2}}
# The fastest flags on two cores. It computes in float32, as we do; its own default, bfloat16, is about as fast.
FLAGS = ("-j", str(os.cpu_count()), "--async-write", "--no-write-model-card", "--quiet")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def program(environment: Path) -> Path:
    """mergekit's program in that environment; FileNotFoundError when it is not there."""
    for folder in (environment, environment / "venv"):
        if (found := folder / "bin" / "mergekit-yaml").is_file():
            return found.absolute()
    raise FileNotFoundError(f"{environment} has no mergekit. Install it with: python bench/peer.py {environment}")


def set_up(environment: Path) -> Path:
    """Make the environment unless it is there, and give mergekit's program."""
    try:
        return program(environment)
    except FileNotFoundError:
        venv.create(environment, with_pip=True)
        install = [environment / "bin" / "python", "-m", "pip", "install", "-q"]
        subprocess.run([*install, TORCH], check=True)  # first, or a build for NVIDIA's cards comes with it
        subprocess.run([*install, TORCH, *PINNED], check=True)
        return program(environment)


def command(environment: Path, method: str, family: Path, experts: int, out: Path) -> list[str]:
    """The command that merges a family; its config is written beside the output."""
    base, *others = (str(model.resolve()) for model in models(family, experts))
    config = {
        "merge_method": method,
        "models": [{"model": model, "parameters": PARAMETERS[method]} for model in others],
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    if method != "linear":
        config["base_model"] = base
    file = out.with_suffix(".mergekit.yaml")
    file.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return [str(program(environment)), str(file), str(out), *FLAGS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", type=Path)
    print(set_up(parser.parse_args().environment))


if __name__ == "__main__":
    main()
