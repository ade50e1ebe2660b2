"""The floor under any merge of a family: read every input once, write one output: python bench/floor.py DIR

Nothing is computed. All cores read and write blocks of 512 KiB, which stay in the processor's cache, from and to the
page cache. A linear merge does not read the base, so its floor does not either.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

BLOCK = 1 << 19


class Span(NamedTuple):
    """A block of an open file, to be read or to be written."""

    write: bool
    descriptor: int
    start: int
    size: int


def weights(model: Path) -> list[Path]:
    """The files that hold a model's tensors."""
    return sorted(model.glob("*.safetensors"))


def warm(models: Iterable[Path]) -> None:
    """Read all of these models, so that they are in the page cache."""
    with _reads(models) as spans:
        _do(spans)


def floor(inputs: Iterable[Path], size: int, folder: Path) -> float:
    """Seconds to read these models and write `size` bytes to a file in the folder, which is removed again."""
    output = folder / f".floor-{os.getpid()}"
    descriptor = os.open(output, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    began = time.perf_counter()
    try:
        os.posix_fallocate(descriptor, 0, size)
        with _reads(inputs) as reads:
            _do(_mixed(reads, list(_cut(True, descriptor, size))))
        return time.perf_counter() - began
    finally:
        os.close(descriptor)
        output.unlink()


@contextmanager
def _reads(models: Iterable[Path]) -> Iterator[list[Span]]:
    """All blocks of these models, whose files are open meanwhile."""
    sizes = {os.open(file, os.O_RDONLY): file.stat().st_size for model in models for file in weights(model)}
    try:
        yield [span for descriptor, size in sizes.items() for span in _cut(False, descriptor, size)]
    finally:
        for descriptor in sizes:
            os.close(descriptor)


def _cut(write: bool, descriptor: int, size: int) -> Iterator[Span]:
    for start in range(0, size, BLOCK):
        yield Span(write, descriptor, start, min(BLOCK, size - start))


def _mixed(reads: list[Span], writes: list[Span]) -> list[Span]:
    """The writes spread evenly among the reads, as in a merge."""
    marks = [(number / len(reads), span) for number, span in enumerate(reads)]
    marks += [(number / len(writes), span) for number, span in enumerate(writes)]
    return [span for _, span in sorted(marks, key=lambda mark: mark[0])]


def _do(spans: list[Span]) -> None:
    """Every core takes the next block until none is left."""
    left = iter(spans)
    failed: list[BaseException] = []

    def work() -> None:
        buffer = memoryview(bytearray(BLOCK))
        try:
            for write, descriptor, start, size in left:
                done = (os.pwritev if write else os.preadv)(descriptor, [buffer[:size]], start)
                assert done == size
        except BaseException as error:
            failed.append(error)

    crew = [threading.Thread(target=work) for _ in range(os.cpu_count() or 1)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    if failed:
        raise failed[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path)
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    base = options.family / "base"
    experts = [options.family / f"expert-{number}" for number in range(1, options.experts + 1)]
    size = sum(file.stat().st_size for file in weights(base))
    warm([base, *experts])
    for words, inputs in {"with the base": [base, *experts], "without it": experts}.items():
        seconds = [floor(inputs, size, options.family) for _ in range(options.repeat)]
        print(f"{words:14} {statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})")


if __name__ == "__main__":
    main()
