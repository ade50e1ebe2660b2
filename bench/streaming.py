"""What a merge of models on the Hub takes, streamed or downloaded before: python bench/streaming.py FAMILY --experts 3

The family is put on a stand-in of the Hub on this machine, and merged from there by the command line, its cache empty.
Told are the bytes that the Hub sent, those that stay on the disk beside the result, and the peak of the process. Times
would be those of the stand-in.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from cases import CASES, ROOT, Case, models
from family import family
from processes import process
from shapes import SIZES
from tables import machine, table

from tests.hub import Asked, Hub, environment, standing_in

METHODS = ("task_arithmetic", "from")


def row(case: Case, experts: int, hub: Hub, work: Path, stream: bool) -> dict[str, str]:
    """One line of the table."""
    base, *others = (f"bench/{model.name}" for model in models(work, experts))
    content = {
        "mergescope": 1,
        "merge_method": case.method,
        "base_model": base,
        "models": [{"model": other} for other in others],
        "parameters": case.parameters,
    }
    (work / "recipe.yaml").write_text(json.dumps(content))
    known = environment(hub, work / "hf") | {"MERGESCOPE_CACHE": str(work / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "merging", "merge", str(work / "recipe.yaml"), str(work / "out"), "--quiet"]
    hub.asked.clear()
    run = process([*command, "--no-fsync", *(["--stream"] if stream else [])], work / "log.txt", known)
    kept = sum(file.stat().st_size for name in ("hf", "cache") for file in (work / name).rglob("*") if _own(file))
    return {
        "method": case.label,
        "models are": "streamed" if stream else "downloaded",
        "requests": str(len(hub.sent())),
        "fetched MB": f"{sum(size(hub, one) for one in hub.sent()) / 1e6:,.1f}",
        "kept MB": f"{kept / 1e6:,.1f}",
        "peak MB": f"{run.peak / 1e6:,.0f}",
    }


def _own(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()


def size(hub: Hub, one: Asked) -> int:
    """The bytes that were asked for."""
    owner, name, _, _, file = one.path[1:].split("/", 4)
    whole = (hub.folder / owner / name / file).stat().st_size
    start, _, last = one.bytes.removeprefix("bytes=").partition("-")
    return min(whole, int(last) + 1 if last else whole) - int(start or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path, help="its folder, written when it is not there")
    parser.add_argument("--size", choices=SIZES, help="of a family that is to be written (0.5b)")
    parser.add_argument("--experts", type=int, default=3)
    options = parser.parse_args()
    family(options.family, options.size, options.experts)
    rows = []
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.family) as place:
        (Path(place) / "hub").mkdir()
        (Path(place) / "hub" / "bench").symlink_to(options.family.resolve())
        with standing_in(Path(place) / "hub") as hub:
            for case in (next(case for case in CASES if case.method == method) for method in METHODS):
                for stream in (True, False):
                    with tempfile.TemporaryDirectory(dir=place) as work:
                        rows.append(row(case, options.experts, hub, Path(work), stream))
    print(f"{table(rows)}\n\n{machine()}")


if __name__ == "__main__":
    main()
