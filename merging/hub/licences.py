"""The licence of a model as its card tells it, and of a merge: the strictest of those of its models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

NAME = re.compile(r"[\w .+-]{1,100}")
LINK = re.compile(r"https?://[\w.~:/?#@!$&*+,;=%-]{1,400}", re.ASCII)  # nothing that would end a link in Markdown
FILE = re.compile(r"\w[\w.-]{0,99}", re.ASCII)  # beside the card

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


@dataclass(frozen=True)
class Licence:
    """A licence by the Hub's identifier, or one of somebody's own, which has a name and often a link to its text."""

    name: str = ""  # empty where none is told
    own: bool = False
    link: str = ""

    @property
    def front(self) -> dict[str, str]:
        """How a card tells it to the Hub, which takes no other words as `license` than its own."""
        if not self.own:
            return {"license": self.name}
        return {"license": "other", "license_name": self.name} | ({"license_link": self.link} if self.link else {})

    @property
    def words(self) -> str:
        """How a card tells it to people."""
        return f"[{self.name}]({self.link})" if self.link else self.name


NOT_TOLD = Licence()


def licence_in(front: Mapping[str, Any], home: str = "") -> Licence:
    """The licence that the top of a card tells; `home` is where on the Hub the files beside the card are."""
    own = front.get("license") == "other"
    name = front.get("license_name" if own else "license")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return NOT_TOLD
    return Licence(name, own, _link(front.get("license_link"), home) if own else "")


def _link(told: object, home: str) -> str:
    if not isinstance(told, str):
        return ""
    if home and FILE.fullmatch(told):
        return f"{home}/{told}"
    return told if LINK.fullmatch(told) else ""


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
