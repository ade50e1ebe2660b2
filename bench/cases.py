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

    @property
    def memory(self) -> str:
        """What the merge may work in: more where tensors may have to be there as a whole."""
        return "8GB" if METHODS[self.method].whole else "1GB"


KNOWN = [
    Case("linear", "linear", peer="linear", reads_base=False),
    Case("task arithmetic", "task_arithmetic", {"lambda": 1.0}, 0.3, "task_arithmetic"),
    Case("FroM", "from"),
    Case("TIES, whole model", "ties", {"density": 0.2, "scope": "model"}, peer="ties"),
    Case("TIES, per tensor", "ties", {"density": 0.2, "scope": "tensor"}, peer="ties"),
    Case("PCB, whole model", "pcb", {"ratio": 0.1, "scope": "model"}, peer="ties"),
]
ENTRYWISE = [
    Case("MagMax", "magmax"),
    Case("DARE, by chance", "dare_linear", {"density": 0.5}),
    Case("DARE, by L1", "dare_linear", {"density": 0.5, "rescale": "l1"}),
    Case("DARE-TIES, by chance", "dare_ties", {"density": 0.5}),
    Case("DELLA, by chance", "della", {"density": 0.5}),
    Case("DELLA, linear, by L1", "della_linear", {"density": 0.5, "rescale": "l1"}),
    Case("Breadcrumbs", "breadcrumbs", {"density": 0.9, "gamma": 0.01}),
    Case("Breadcrumbs-TIES", "breadcrumbs_ties", {"density": 0.9, "gamma": 0.01}),
    Case("Consensus TA", "consensus_ta"),
    Case("EMR", "emr"),
    Case("SCE, all entries", "sce"),
    Case("SCE, a tenth of them", "sce", {"select_topk": 0.1}),
    Case("RAM", "ram"),
    Case("NearSwap, one expert", "nearswap"),
    Case("Arcee Fusion, one expert", "arcee_fusion"),
]
VARIANTS = [
    Case("Model Stock, by rows", "model_stock", {"filter_wise": True}),
    Case("NuSLERP, by lines", "nuslerp", {"nuslerp_flatten": False}),
    Case("TSV-Merge, randomised", "tsv_m", {"svd": "randomised"}),
    Case("Iso-CTS, randomised", "iso_cts", {"svd": "randomised"}),
    Case("WUDI, closed form", "wudi", {"variant": "closed_form"}),
]
NAMED = {case.method for case in (*KNOWN, *ENTRYWISE)}
REST = [method for name, method in METHODS.items() if name not in NAMED]
OTHERS = [Case(method.title, method.name) for method in REST if not method.collects]  # which needs a text besides
CASES = [*KNOWN, *ENTRYWISE, *OTHERS, *VARIANTS]


def models(family: Path, experts: int) -> list[Path]:
    """The base and that many experts."""
    return [family / "base", *(family / f"expert-{number}" for number in range(1, experts + 1))]


def write_recipe(case: Case, family: Path, experts: int, file: Path) -> Path:
    """The case as a recipe of ours; JSON is YAML."""
    takes = METHODS[case.method].taking(experts)
    base, *others = (str(model.resolve()) for model in models(family, takes))
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
