"""How cost and memory grow with parameters and with experts: python bench/scaling.py FAMILIES --json scaling.json

FAMILIES is a folder of families by size, FAMILIES/0.5b and so on; those that are not there are written. Prints tables
in Markdown and draws the picture. Each cell has the seconds of the merge alone and the peak memory of the process, both
medians. Points that the JSON file has already are not measured again, so a run that was cut short goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cases import KNOWN, ROOT, Case
from engine import chosen
from family import family
from measure import Bench
from picture import draw
from processes import median, seconds
from shapes import SIZES, parameters
from tables import machine, table

EXPERTS = 3  # where the size varies


@dataclass
class Points:
    """Seconds and bytes by case, size and number of experts, kept in a file."""

    families: Path
    repeat: int
    file: Path | None
    known: dict[str, list[float]]

    def point(self, case: Case, size: str, experts: int) -> list[float]:
        key = f"{case.label} | {size} | {experts}"
        if key not in self.known:
            print(f"{key} …", file=sys.stderr, flush=True)
            self.known[key] = self._measured(case, size, experts)
            if self.file:
                self.file.write_text(json.dumps(self.known, indent=1))
        return self.known[key]

    def _measured(self, case: Case, size: str, experts: int) -> list[float]:
        place = family(self.families / size, size, experts)
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=place) as work:
            bench = Bench(place, experts, self.repeat, Path(work))
            alone = median(bench.alone(case, self.repeat)["merge"])
            return [alone, median([bench.whole(case) for _ in range(self.repeat)], "peak")]


def cell(point: list[float]) -> str:
    return f"{seconds(point[0])} s, {point[1] / 1e6:.0f} MB"


def size_in_words(size: str) -> str:
    millions = parameters(SIZES[size]) / 1e6
    return f"{millions:,.{1 if millions < 100 else 0}f} M"


def by_size(points: Points, cases: list[Case], sizes: list[str]) -> str:
    """One row per case, one column per size."""
    rows = [{size_in_words(size): cell(points.point(case, size, EXPERTS)) for size in sizes} for case in cases]
    return table([{"method": case.label, **row} for case, row in zip(cases, rows, strict=True)])


def by_experts(points: Points, cases: list[Case], size: str, experts: list[int]) -> str:
    """One row per case, one column per number of experts."""
    rows = [{f"{n} experts": cell(points.point(case, size, n)) for n in experts} for case in cases]
    return table([{"method": case.label, **row} for case, row in zip(cases, rows, strict=True)])


def panels(points: Points, cases: list[Case], sizes: list[str], size: str, experts: list[int]) -> dict[str, dict]:
    """What is drawn: for each axis its values, and for each case the points on it."""
    return {
        f"Parameters ({EXPERTS} experts)": {
            "x": [parameters(SIZES[each]) for each in sizes],
            "lines": {case.label: [points.point(case, each, EXPERTS) for each in sizes] for case in cases},
        },
        f"Experts ({size_in_words(size)} parameters)": {
            "x": experts,
            "lines": {case.label: [points.point(case, size, n) for n in experts] for case in cases},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", type=Path)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "0.5b", "1.5b"])
    parser.add_argument("--expert-sizes", nargs="+", choices=SIZES, default=["tiny", "0.5b"])
    parser.add_argument("--experts", nargs="+", type=int, default=list(range(2, 9)))
    parser.add_argument("--methods", nargs="+", default=[], help="only these, by their names in recipes")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where points are kept, and found again")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "pictures" / "scaling.svg")
    options = parser.parse_args()
    cases = chosen(options.methods) if options.methods else KNOWN
    known = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    points = Points(options.families, options.repeat, options.json, known)
    print(f"By parameters, {EXPERTS} experts:\n\n{by_size(points, cases, options.sizes)}\n")
    for size in options.expert_sizes:
        print(f"{size_in_words(size)} parameters:\n\n{by_experts(points, cases, size, options.experts)}\n")
    print(machine())
    draw(panels(points, cases, options.sizes, options.expert_sizes[-1], options.experts), options.picture)


if __name__ == "__main__":
    main()
