"""What is compiled in the background is all that merges need."""

import subprocess
import sys
from pathlib import Path

import torch

from tests.conftest import write_model

PROGRAM = """
import importlib, pkgutil
from pathlib import Path

from merging import groups, kernels, merge, passes, ranking
from merging.method import METHODS
from merging.recipe import Recipe
from merging.warming import merge_a_little

modules = [importlib.import_module(f"merging.kernels.{each.name}") for each in pkgutil.iter_modules(kernels.__path__)]
kernels = {f"{m.__name__}.{k}": v for m in modules for k, v in vars(m).items() if hasattr(v, "signatures")}

def compiled():
    return {name: sorted(map(str, kernel.signatures)) for name, kernel in kernels.items()}

merge_a_little()
before = compiled()
for module in (groups, passes):
    module.FEW = 50  # so that ranks are found as in large models
for dtype in ("bfloat16", "float32"):
    for out_dtype in ("bfloat16", "float32"):
        for number, (name, method) in enumerate(METHODS.items()):
            base, *experts = [Path(f"{dtype}-{seed}") for seed in range(1 + method.taking(2))]
            for values in ({}, {"rescale": "l1"}, {"select_topk": 0.3}):
                if set(values) <= set(method.params) and not method.collects:
                    out = f"{dtype}-{out_dtype}-{number}-{len(values)}"
                    merge(Recipe(name, base, tuple(experts), values=values, out_dtype=out_dtype), out, fsync=False)
late = {name: sorted(set(found) - set(before[name])) for name, found in compiled().items()}
print({name: found for name, found in late.items() if found})
"""


def test_no_merge_has_to_compile_anything_after_that(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        for seed in range(3):
            values = torch.randn(70, 60, generator=torch.Generator().manual_seed(seed)).to(dtype)
            write_model(tmp_path / f"{str(dtype)[6:]}-{seed}", {"w": values, "b": values[0].clone()})

    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    assert told.stdout.strip() == "{}"
