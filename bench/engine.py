"""Every method beside the floor and beside mergekit, in one table: python bench/engine.py --family DIR --peer DIR

Merge alone: `merge()` in a process of its own that has everything imported and warm, without waiting for the disk;
what fsync adds, and what reading all of the result again takes (verify), stand beside it. The floor reads the inputs
once and writes the output; it is measured in turn with the merges. Whole process: `python -m merging merge --no-fsync`
from start to end, in turn with mergekit, which does not wait for the disk either; the peaks are of these. PCB is
compared with mergekit's TIES, since mergekit has no PCB. All times are medians of seconds, with the extremes, and the
page cache is warm. Every result is verified.

examples:
  python bench/peer.py ~/peer
  python bench/engine.py --family ~/family --size 0.5b --peer ~/peer --markdown table.md --json table.json
  python bench/engine.py --family ~/family --methods ties pcb --repeat 5
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import peer
from cases import CASES, Case
from family import family
from measure import Bench, Measured, measure
from processes import Run, median, seconds, spread
from shapes import SIZES
from tables import machine, table


def row(case: Case, runs: Measured) -> dict[str, str]:
    """One line of the table."""
    merge, whole, other = median(runs["merge"]), median(runs["whole"]), runs["peer"]
    return {
        "method": case.label,
        "merge": spread(runs["merge"]),
        "CPU": seconds(median(runs["merge"], "cpu")),
        "floor": spread(runs["floor"]),
        "÷ floor": f"{merge / median(runs['floor']):.2f}",
        "+ fsync": seconds(max(median(runs["fsync"]) - merge, 0)),
        "+ verify": seconds(median(runs["verify"])),
        "process": spread(runs["whole"]),
        "process CPU": seconds(median(runs["whole"], "cpu")),
        "peak MB": f"{median(runs['whole'], 'peak') / 1e6:.0f}",
        "mergekit": spread(other) if other else "–",
        "its CPU": seconds(median(other, "cpu")) if other else "–",
        "its peak MB": f"{median(other, 'peak') / 1e6:.0f}" if other else "–",
        "times faster": f"{median(other) / whole:.1f}" if other else "–",
    }


def chosen(words: list[str]) -> list[Case]:
    """The cases of these methods; SystemExit names a word that is none."""
    if unknown := set(words) - {case.method for case in CASES}:
        raise SystemExit(f"There is no method {unknown.pop()}. Known are {', '.join({c.method: 0 for c in CASES})}.")
    return [case for case in CASES if not words or case.method in words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", type=Path, required=True, help="its folder, written when it is not there")
    parser.add_argument("--size", choices=SIZES, help="of a family that is to be written (0.5b)")
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--peer", type=Path, help="an environment that has mergekit")
    parser.add_argument("--repeat", type=int, default=3, help="of whole processes")
    parser.add_argument("--often", type=int, default=6, help="merges alone for each whole process (6)")
    parser.add_argument("--methods", nargs="+", default=[], help="only these, by their names in recipes")
    parser.add_argument("--markdown", type=Path, help="write the table here, too")
    parser.add_argument("--json", type=Path, help="write every run here")
    options = parser.parse_args()
    cases = chosen(options.methods)
    if options.peer:
        peer.program(options.peer)
    family(options.family, options.size, options.experts)
    known: dict[str, list[Run]] = {}
    runs: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.family) as work:
        bench = Bench(options.family, options.experts, options.repeat, Path(work))
        for case in cases:
            print(f"{case.label} …", file=sys.stderr, flush=True)
            runs[case.label] = measure(bench, case, options.often, options.peer, known)
            _write(options, cases, runs)
    print(f"{_table(cases, runs)}\n\n{machine()}")


def _table(cases: list[Case], runs: dict[str, Measured]) -> str:
    return table([row(case, runs[case.label]) for case in cases if case.label in runs])


def _write(options: argparse.Namespace, cases: list[Case], runs: dict[str, Measured]) -> None:
    """The files that were asked for, with what has been measured so far."""
    if options.markdown:
        options.markdown.write_text(f"{_table(cases, runs)}\n\n{machine()}\n", encoding="utf-8")
    if options.json:
        content = {
            label: {what: [asdict(run) for run in each] for what, each in m.items()} for label, m in runs.items()
        }
        options.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
