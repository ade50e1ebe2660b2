"""The licence of a merge: the strictest of those of the models that it was made of."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

# From the freest to the strictest, by the identifiers of model cards; one that is in none is stricter than any that is.
RANKS = (
    ("cc0-1.0", "unlicense", "wtfpl", "pddl"),
    ("mit*", "apache-2.0", "bsd*", "isc", "zlib", "ecl-2.0", "ms-pl", "bsl-1.0", "afl-3.0", "cc-by-[234]*"),
    ("mpl-2.0", "lgpl*", "epl*", "eupl*", "cc-by-sa*", "osl-3.0", "cdla*"),
    ("gpl*", "agpl*"),
    ("*openrail*", "bigscience*", "bigcode*"),
    ("llama*", "gemma", "deepseek-license", "qwen", "tongyi-qianwen", "falcon*", "h-research"),
    ("cc-by-nd*", "cc-by-nc*", "*research*", "*non-commercial*"),
)  # fmt: skip


def rank(licence: str) -> int:
    """How strict a licence is, counted from 0; `len(RANKS)` for one that is not known."""
    for number, names in reversed([*enumerate(RANKS)]):
        if any(fnmatchcase(licence.lower(), name) for name in names):
            return number
    return len(RANKS)


def strictest(licences: Iterable[str]) -> list[str]:
    """Those that none of the others is stricter than, each once; empty where one model does not tell its own."""
    told = list(dict.fromkeys(licences))
    if not told or "" in told:
        return []
    most = max(map(rank, told))
    return [licence for licence in told if rank(licence) == most]
