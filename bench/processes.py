"""Runs a command and tells what it took: wall and CPU seconds, and the memory at its peak."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """What one run took. A list of them is summed up by its median and its extremes."""

    wall: float
    cpu: float
    peak: float = 0.0  # bytes


def process(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Run:
    """Run a command to its end, what it says going to the log; SystemExit with its last words when it fails.

    A process is never counted as smaller than the one that started it, so this one must stay small.
    """
    began = time.perf_counter()
    with log.open("w") as stream:
        child = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, **(environment or {})})
        _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss)


def median(runs: list[Run], what: str = "wall") -> float:
    return statistics.median(getattr(run, what) for run in runs)


def spread(runs: list[Run]) -> str:
    """The median wall time, and the extremes where there are several."""
    walls = [run.wall for run in runs]
    middle = seconds(statistics.median(walls))
    return middle if len(walls) == 1 else f"{middle} ({seconds(min(walls))}–{seconds(max(walls))})"


def seconds(number: float) -> str:
    """A time with as many digits as mean something."""
    return f"{number:.{3 if number < 1 else 2 if number < 10 else 1}f}"
