"""Names of models on the Hub: `owner/name`, or `owner/name@revision`; and the addresses of their pages."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from merging.errors import MergeError

HOST = r"((www\.)?huggingface\.co|hf\.co)/"
PATTERN = re.compile(  # no more than the Hub's client takes, and nothing that is an address or a file of weights
    rf"(?P<repo>(?!{HOST})"
    r"(?!.*(\.safetensors|--|\.\.))(?![^@]*\.git(@|$))[A-Za-z0-9]([\w.-]*\w)?/[A-Za-z0-9]([\w.-]*\w)?)"
    r"(?:@(?P<revision>[\w][\w./-]{0,199}))?",
    re.ASCII,
)
ADDRESS = re.compile(rf"(https?:/+)?{HOST}(?P<rest>[^?#]*)([?#].*)?", re.ASCII | re.IGNORECASE)  # a Path has one slash
PAGE = re.compile(r"(?P<name>[^/]+/[^/]+)(/(tree/(?P<tree>[^/]+)|(blob|resolve)/(?P<blob>[^/]+)/[^/]+))?/*")
ELSE = {"datasets": "a data set", "spaces": "a Space"}
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


def told_by_name(told: str) -> str:
    """The name of the model whose page on the Hub a text is the address of; every other text as it is.

    MergeError where it is the address of something else there. What is here by that path goes first.
    """
    found = ADDRESS.fullmatch(told)
    if not found or os.path.exists(told):
        return told
    told = re.sub(":/+", "://", told, count=1)
    kind = ELSE.get(found["rest"].partition("/")[0])
    if kind:
        raise MergeError(f"`{told}` is {kind}, which cannot be merged. Name a model of the Hub: `owner/name`.")
    if page := PAGE.fullmatch(found["rest"]):
        revision = unquote(page["tree"] or page["blob"] or "main")
        if hub_name(name := page["name"] if revision == "main" else f"{page['name']}@{revision}"):
            return name
    raise MergeError(f"`{told}` is not the address of a model. Write it as `owner/name`, or `owner/name@revision`.")
