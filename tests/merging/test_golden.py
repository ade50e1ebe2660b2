"""Every method against results that we did not compute; tests/golden/README.md says who did."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merging.engine import merge_groups
from merging.method import METHODS, Group

GOLDEN = Path(__file__).parent.parent / "golden"
LISTED = json.loads((GOLDEN / "cases.json").read_text())
EVERY, COUNTS = LISTED["cases"], LISTED["counts"]
CASES = [case for case in EVERY if not case["method"].startswith("peft.")]  # these are in methods/test_peft.py
SCOPES = {"global": "model", "tensor": "tensor"}


def settings(case: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The case's parameters in our words."""
    params = case["params"]
    match case["method"]:
        case "ties":
            values = {"density": params["K"] / 100, "merge": params["merge"], "sign": params["sign"]}
        case "pcb":
            values = {"ratio": params["r"], "variant": params["variant"]}
        case "from":
            values = {"k": params["k"]}
        case "consensus_ta" | "emr_unified" as name:
            own = {key: value for key, value in params.items() if key != "lam"}
            return name.removesuffix("_unified"), {**own, "scaling": params["lam"]}
        case "tsv_m" | "iso_c" | "iso_cts" | "star" as name:
            return name, {key: value for key, value in params.items() if key != "lam"} | {"scaling": params["lam"]}
        case mergekit:
            extra = dict(params.get("global", {}))
            extra["scaling"] = extra.pop("lambda", 1.0)
            if "scaling" not in METHODS[mergekit.removeprefix("mergekit.")].params:
                del extra["scaling"]
            if mergekit == "mergekit.ties":
                extra["merge"] = "mean" if extra.pop("normalize", True) else "sum"
                extra |= {"variant": "mergekit", "scope": "tensor"}
            return mergekit.removeprefix("mergekit."), {**extra, **params.get("per_model", {})}
    if isinstance(params["lam"], list):
        values |= {"weight": params["lam"]}
    else:
        values |= {"scaling": params["lam"]}
    return case["method"], {**values, "scope": SCOPES[params["scope"]]}


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_the_authors_result_is_ours(case: dict[str, Any], both_paths: str) -> None:
    tensors = load_file(GOLDEN / case["file"])
    names = [name.removeprefix("base.") for name in tensors if name.startswith("base.")]
    groups = [
        Group(
            name,
            tensors[f"base.{name}"] if case["params"].get("use_base", True) else None,
            torch.stack([tensors[f"expert{i}.{name}"] for i in range(case["num_experts"])]),
        )
        for name in names
    ]
    method, values = settings(case)

    merged = dict(merge_groups(METHODS[method], groups, **values))

    dtype = getattr(torch, case["expected_dtype"])
    for name in names:
        expected = tensors[f"merged.{name}"].float()
        ours = merged[name].to(dtype).float()
        torch.testing.assert_close(ours, expected, rtol=case["rtol"], atol=case["atol"])


def test_every_case_is_here() -> None:
    assert len({case["id"] for case in EVERY}) == 95
    assert Counter(case["method"] for case in EVERY) == COUNTS
    assert [COUNTS[method] for method in ("ties", "pcb", "from")] == [24, 23, 6]  # as many as were handed over
    assert len(CASES) == 95 - sum(count for method, count in COUNTS.items() if method.startswith("peft."))
    assert {case["file"] for case in EVERY} == {path.name for path in GOLDEN.glob("*.safetensors")}
