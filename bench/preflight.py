"""What it takes to look at models on the Hub before anything is downloaded: python bench/preflight.py --size 70b

A base and two experts are put on a stand-in of the Hub on this machine, in shards that have headers and no weights, so
that models of any size take no disk. `python -m merging check` is run with an empty cache, and each answer of the Hub
takes a while, as those of the real one do.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from blocks import created
from cases import ROOT
from processes import seconds
from shapes import SIZES, Shapes, parameters, shapes, write_sides
from tables import machine, table

from tests.hub import environment, known_as, standing_in

SHARD = 5_000_000_000  # bytes, as most models on the Hub have them
MODELS = ("base", "expert-1", "expert-2")


def write_shards(folder: Path, size: str) -> None:
    """A model's files, with holes where its weights would be."""
    folder.mkdir(parents=True)
    write_sides(folder, SIZES[size])
    parts, filled = [Shapes()], 0
    for name, shape in shapes(SIZES[size]).items():
        taken = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        if filled and filled + taken > SHARD:
            parts.append(Shapes())
            filled = 0
        parts[-1][name], filled = shape, filled + taken
    files = {f"model-{number:05}-of-{len(parts):05}.safetensors": part for number, part in enumerate(parts, 1)}
    for file, part in files.items():
        with created(folder / file, part):
            known_as(folder / file, secrets.token_hex(32))  # nobody is to read 140 GB of nothing for it
    index = {name: file for file, part in files.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def row(size: str, wait: float, work: Path) -> dict[str, str]:
    """One line of the table."""
    for model in MODELS:
        write_shards(work / "hub" / "bench" / model, size)
    base, *experts = (f"bench/{model}" for model in MODELS)
    models = [{"model": expert} for expert in experts]
    recipe = json.dumps({"mergescope": 1, "merge_method": "ties", "base_model": base, "models": models})
    (work / "recipe.yaml").write_text(recipe)
    command = [sys.executable, "-m", "merging", "check", work / "recipe.yaml", work / "out", "--json"]
    with standing_in(work / "hub") as hub:
        hub.wait = wait
        known = environment(hub, work / "hf") | {"MERGESCOPE_CACHE": str(work / "known"), "PYTHONPATH": str(ROOT)}
        began = time.perf_counter()
        done = subprocess.run(command, env=known, capture_output=True, text=True)
        taken = time.perf_counter() - began
    told = json.loads(done.stdout or "{}")  # the only problem may be that there is no room for what would be written
    if "bytes_to_download" not in told:
        raise SystemExit(f"The check failed:\n{done.stderr}{told}")
    kept = sum(file.stat().st_size for file in (work / "known").rglob("*") if file.is_file())
    return {
        "models": f"3 x {size}",
        "parameters M": f"{parameters(SIZES[size]) / 1e6:,.0f}",
        "to download GB": f"{told['bytes_to_download'] / 1e9:,.1f}",
        "requests": str(len(hub.asked)),
        "kept MB": f"{kept / 1e6:.2f}",
        "seconds": seconds(taken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, nargs="+", default=["0.5b", "70b"])
    parser.add_argument("--wait", type=float, default=0.1, help="seconds that each answer of the Hub takes (0.1)")
    options = parser.parse_args()
    rows = []
    for size in options.size:
        with tempfile.TemporaryDirectory() as work:
            rows.append(row(size, options.wait, Path(work)))
    print(f"{table(rows)}\n\nEach answer took {options.wait} s. {machine()}")


if __name__ == "__main__":
    main()
