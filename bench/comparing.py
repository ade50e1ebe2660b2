"""How long looking at models takes beside reading them: python bench/comparing.py FAMILY --experts 2

In one process, with everything compiled: reading all weights once on all cores, and the two passes that the screen's
statistics take, in turn; warm from the page cache, and cold after it was asked to let go of the files. The ratios are
of the medians. Nothing is kept on disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from cases import models
from floor import warm, weights

from merging.adapter import open_base, open_expert
from merging.compare import compare


def let_go(paths: list[Path]) -> None:
    """Ask the page cache to forget the weights of these models."""
    for file in (file for path in paths for file in weights(path)):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def told(name: str, reads: list[float], looks: list[float]) -> str:
    """One line: both medians with their extremes, and the ratio."""
    parts = [f"{statistics.median(each):.2f} s ({min(each):.2f}–{max(each):.2f})" for each in (reads, looks)]
    ratio = statistics.median(looks) / statistics.median(reads)
    return f"{name:4}  reading {parts[0]}  looking {parts[1]}  ratio {ratio:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path)
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="measure from the disk as well")
    options = parser.parse_args()
    paths = models(options.family, options.experts)
    base = open_base(paths[0])
    experts = [open_expert(path, base) for path in paths[1:]]
    warm(paths)
    compare(base, experts)  # compiles
    for name in ("warm", "cold") if options.cold else ("warm",):
        reads, looks = list[float](), list[float]()
        for _ in range(options.repeat):
            for found, work in ((reads, lambda: warm(paths)), (looks, lambda: compare(base, experts))):
                if name == "cold":
                    let_go(paths)
                found.append(seconds(work))
        print(told(name, reads, looks), flush=True)


if __name__ == "__main__":
    main()
