"""Names of models on the Hub: `owner/name`, or `owner/name@revision`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PATTERN = re.compile(  # no more than the Hub's client takes, and nothing that is a file of weights
    r"(?P<repo>(?!.*(\.safetensors|--|\.\.))(?![^@]*\.git(@|$))[A-Za-z0-9]([\w.-]*\w)?/[A-Za-z0-9]([\w.-]*\w)?)"
    r"(?:@(?P<revision>[\w][\w./-]{0,199}))?",
    re.ASCII,
)
COMMIT = re.compile(r"[0-9a-f]{40}")
LONGEST = 96  # letters of owner and name each, as the Hub allows them


@dataclass(frozen=True)
class HubName:
    """A model on the Hub; without a revision it is what its main branch holds."""

    repo: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo

    def at(self, commit: str) -> HubName:
        """The same model as it was at a commit."""
        return HubName(self.repo, commit)


def hub_name(told: str | Path) -> HubName | None:
    """The name that a text is; None where it can be none."""
    return _name(str(told))


@lru_cache(maxsize=1024)
def _name(text: str) -> HubName | None:
    found = PATTERN.fullmatch(text)
    if not found or any(len(part) > LONGEST for part in found["repo"].split("/")):
        return None
    revision = found["revision"] or ""
    return None if ".." in revision else HubName(found["repo"], revision)
