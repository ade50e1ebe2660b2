"""What a model on the Hub consists of, and any bytes of its files, without downloading them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from merging import space
from merging.errors import MergeError
from merging.hub.asking import asking
from merging.hub.names import COMMIT, HubName

NAME = re.compile(r"(?:[^/\\\0.][^/\\\0]*/)?[^/\\\0.][^/\\\0]*")  # of files that matter: no path that leads elsewhere
PATIENCE = 20.0  # seconds that the Hub has for an answer


@dataclass(frozen=True)
class Remote:
    """A model on the Hub: its name with the commit, its files with their sizes in bytes, and what its card says."""

    name: HubName
    files: dict[str, int]
    card: dict[str, Any] = field(default_factory=dict)


def look(name: HubName) -> Remote:
    """What the Hub says of a model; MergeError where it does not know it, or cannot be asked."""
    from huggingface_hub import HfApi

    with asking(name):
        info = HfApi().model_info(name.repo, revision=name.revision or None, files_metadata=True, timeout=PATIENCE)
    if space.here() and (info.gated or info.private):
        raise MergeError(space.closed(str(name)))
    files = {one.rfilename: one.size or 0 for one in info.siblings or () if NAME.fullmatch(one.rfilename)}
    card: dict[str, Any] = info.card_data.to_dict() if info.card_data else {}  # type: ignore[no-untyped-call]
    if not info.sha or not COMMIT.fullmatch(info.sha):
        raise MergeError(f"The Hub does not say at which commit `{name}` is. Try again in a while.")
    return Remote(name.at(info.sha), files, card)


def some_bytes(name: HubName, file: str, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a file of a model at a commit, or as many as there are."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}"}
    with asking(name):
        answer = get_session().get(
            hf_hub_url(name.repo, file, revision=name.revision),
            headers=headers,
            follow_redirects=True,
            timeout=PATIENCE,
        )
        hf_raise_for_status(answer)
    if answer.status_code != 206 and len(answer.content) > stop - start:
        raise MergeError(
            f"The Hub does not send parts of {file} of `{name.repo}`. Download the model, and name its folder."
        )
    return bytes(answer.content)
