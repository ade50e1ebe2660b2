"""Measures one case on one family: the merge alone, the whole process, and mergekit in turn with it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import peer
from cases import ROOT, Case, models, write_recipe
from floor import warm
from processes import Run, process

Measured = dict[str, list[Run]]


@dataclass(frozen=True)
class Bench:
    """Where to measure, and how often."""

    family: Path
    experts: int
    repeat: int
    work: Path

    def alone(self, case: Case, repeat: int) -> dict[str, list[Run]]:
        """Merges in a warm process, and the floor in turn with them."""
        recipe = write_recipe(case, self.family, self.experts, self.work / "recipe.yaml")
        told = self.work / "alone.json"
        command = [sys.executable, str(ROOT / "bench" / "alone.py"), str(recipe), str(self.work / "out")]
        allowed = [f"--repeat={repeat}", f"--memory={case.memory}"]
        process([*command, *allowed, *([] if case.reads_base else ["--no-base"])], told)
        shutil.rmtree(self.work / "out")
        return {
            what: [Run(**run) for run in runs] for what, runs in json.loads(told.read_text().splitlines()[-1]).items()
        }

    def whole(self, case: Case) -> Run:
        """One merge from the command line."""
        recipe = write_recipe(case, self.family, self.experts, self.work / "recipe.yaml")
        cli, out, found = [sys.executable, "-m", "merging"], str(self.work / "out"), {"PYTHONPATH": str(ROOT)}
        run = self._run([*cli, "merge", str(recipe), out, "--quiet", "--no-fsync", f"--memory={case.memory}"], found)
        process([*cli, "verify", out], self.work / "log.txt", found)
        shutil.rmtree(out)
        return run

    def peer(self, environment: Path, method: str) -> Run:
        """One merge by mergekit."""
        out = self.work / "out"
        run = self._run(peer.command(environment, method, self.family, self.experts, out), peer.OFFLINE)
        shutil.rmtree(out)
        return run

    def _run(self, command: list[str], environment: dict[str, str]) -> Run:
        warm(models(self.family, self.experts))
        run = process(command, self.work / "log.txt", environment)
        assert list((self.work / "out").glob("*.safetensors")), "nothing was written"
        return run


def measure(bench: Bench, case: Case, often: int, environment: Path | None, known: dict[str, list[Run]]) -> Measured:
    """All runs of one case, with `often` merges in a warm process for each whole one.

    mergekit's are kept in `known`, since several cases are compared with the same.
    """
    runs = bench.alone(case, often * bench.repeat)
    runs["whole"], runs["peer"] = [], []
    compared = environment if case.peer and case.peer not in known else None
    for _ in range(bench.repeat):
        runs["whole"].append(bench.whole(case))
        if compared:
            runs["peer"].append(bench.peer(compared, case.peer))
    if compared:
        known[case.peer] = runs["peer"]
    runs["peer"] = known.get(case.peer, [])
    return runs
