"""What is measured: each merge method with the settings that are compared, and its counterpart in mergekit."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from merging import METHODS  # noqa: E402 - found only now


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    label: str
    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    peer: str = ""  # the method of mergekit that it is compared with
    reads_base: bool = True


KNOWN = [
    Case("linear", "linear", peer="linear", reads_base=False),
    Case("task arithmetic", "task_arithmetic", {"lambda": 1.0}, 0.3, "task_arithmetic"),
    Case("FroM", "from"),
    Case("TIES, whole model", "ties", {"density": 0.2, "scope": "model"}, peer="ties"),
    Case("TIES, per tensor", "ties", {"density": 0.2, "scope": "tensor"}, peer="ties"),
    Case("PCB, whole model", "pcb", {"ratio": 0.1, "scope": "model"}, peer="ties"),
]
OTHERS = [Case(method.title, name) for name, method in METHODS.items() if name not in {case.method for case in KNOWN}]
CASES = [*KNOWN, *OTHERS]


def models(family: Path, experts: int) -> list[Path]:
    """The base and that many experts."""
    return [family / "base", *(family / f"expert-{number}" for number in range(1, experts + 1))]


def write_recipe(case: Case, family: Path, experts: int, file: Path) -> Path:
    """The case as a recipe of ours; JSON is YAML."""
    base, *others = (str(model.resolve()) for model in models(family, experts))
    own = {"parameters": {"weight": case.weight}} if "weight" in METHODS[case.method].params else {}
    content = {
        "mergescope": 1,
        "merge_method": case.method,
        "base_model": base,
        "models": [{"model": model, **own} for model in others],
        "parameters": case.parameters,
    }
    file.write_text(json.dumps(content, indent=1))
    return file
