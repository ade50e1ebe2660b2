"""Tables in Markdown that can be read in a terminal, too, and the machine that they were made on."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def table(rows: list[dict[str, str]]) -> str:
    """The rows under the keys of the first one, numbers to the right."""
    heads = list(rows[0])
    widths = {head: max(len(head), *(len(row[head]) for row in rows)) for head in heads}

    def line(cells: dict[str, str]) -> str:
        first = f"{cells[heads[0]]:<{widths[heads[0]]}}"
        return " | ".join([f"| {first}", *(f"{cells[head]:>{widths[head]}}" for head in heads[1:])]) + " |"

    rule = {head: "-" * (widths[head] - (head != heads[0])) + (":" if head != heads[0] else "") for head in heads}
    return "\n".join([line(dict(zip(heads, heads, strict=True))), line(rule), *map(line, rows)])


def machine() -> str:
    """One sentence: processor, cores, memory, and versions of what the speed depends on."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = processor[1] if processor else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}, {_versions()}"


def _versions() -> str:
    found = []
    for package in ("torch", "numba", "numpy"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)
