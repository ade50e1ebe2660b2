"""Every method against results that we did not compute; tests/golden/README.md says who did."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merging.engine import merge_groups
from merging.method import METHODS, Group

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())["cases"]
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
        case mergekit:
            extra = dict(params.get("global", {}))
            extra["scaling"] = extra.pop("lambda", 1.0)
            if mergekit == "mergekit.linear":
                del extra["scaling"]
            if mergekit == "mergekit.ties":
                extra["merge"] = "mean" if extra.pop("normalize", True) else "sum"
                extra |= {"variant": "mergekit", "scope": "tensor"}
            return mergekit.removeprefix("mergekit."), {**extra, **params["per_model"]}
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
            tensors[f"base.{name}"],
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


def test_every_case_of_the_five_methods_is_here() -> None:
    counts = {"ties": 24, "pcb": 23, "from": 6, "mergekit.linear": 2, "mergekit.task_arithmetic": 3, "mergekit.ties": 3}

    assert {m: sum(case["method"] == m for case in CASES) for m in counts} == counts
