"""Any bytes of a file of weights on the Hub at a commit, checked to be those; what breaks off is gone on with."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from merging.errors import MergeError
from merging.hub.asking import asking
from merging.hub.names import HubName
from merging.hub.remote import PATIENCE

if TYPE_CHECKING:
    from httpx2 import Response
    from huggingface_hub.errors import HfHubHTTPError

TRIES = 8  # for the next bytes, when none came
FIRST, LONGEST = 0.25, 300.0  # seconds between two tries: the first, and the most that the Hub may ask for
PASSING = (408, 429, 500, 502, 503, 504)  # answers that may be another one soon
BEYOND = 416  # the end of a file, which is shorter than it was
CONTENT = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass
class Ranged:
    """A file of a model at a commit, whose size is known; `tag` names what it holds, as soon as an answer tells."""

    name: HubName
    file: str
    size: int
    tag: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def fill(self, start: int, out: memoryview, came: Callable[[int], None], over: threading.Event) -> None:
        """Put the bytes from `start` on into `out`, telling of all that come, unless it is `over` before.

        MergeError where the Hub does not give them, or others.
        """
        from httpx2 import TransportError
        from huggingface_hub.errors import HfHubHTTPError

        done, tries = 0, 0
        with asking(self.name):
            while done < len(out) and not over.is_set():
                before, wanted = done, 0.0
                failed: Exception = self._other()  # when the answer ends too early
                try:
                    with closing(self._parts(start + done, start + len(out))) as parts:
                        for part in parts:
                            if done + len(part) > len(out):
                                raise failed
                            out[done : done + len(part)] = part
                            done += len(part)
                            came(len(part))
                            if over.is_set():
                                return
                except TransportError as error:
                    failed = error
                except HfHubHTTPError as error:
                    failed, wanted = error, self._pause(error)
                tries = 0 if done > before else tries + 1
                if tries == TRIES:
                    raise failed
                if done < len(out):
                    over.wait(min(max(FIRST * 2**tries, wanted), LONGEST))

    def _pause(self, error: HfHubHTTPError) -> float:
        """The seconds after which the Hub wants to be asked again; raises what asking again does not help against."""
        if error.response.status_code == BEYOND:
            raise self._other() from error
        if error.response.status_code not in PASSING:
            raise error
        told = error.response.headers.get("Retry-After", "")
        return float(told) if told.isdecimal() else 0.0

    def _parts(self, start: int, stop: int) -> Generator[bytes]:
        """The bytes from `start` to `stop` as they come, perhaps not all of them."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        url = hf_hub_url(self.name.repo, self.file, revision=self.name.revision)
        with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=PATIENCE) as answer:
            hf_raise_for_status(answer)
            self._check(answer, start, stop)
            yield from answer.iter_raw()

    def _check(self, answer: Response, start: int, stop: int) -> None:
        """MergeError where what is about to come is not what was asked for."""
        if answer.status_code != 206 or answer.headers.get("Content-Encoding", "identity") != "identity":
            words = f"The Hub sends {self.file} of `{self.name.repo}` as a whole only, and parts of it are needed"
            raise MergeError(f"{words}. Fetch it with `hf download {self.name.repo}`, and choose that folder.")
        told = CONTENT.fullmatch(answer.headers.get("Content-Range", ""))
        first = [*answer.history, answer][0].headers  # the Hub's own; what it leads to knows nothing of commits
        length = int(answer.headers.get("Content-Length", stop - start))
        tag = first.get("X-Linked-ETag") or first.get("ETag") or ""
        with self.lock:
            self.tag = self.tag or tag
            alike = tag == self.tag and first.get("X-Repo-Commit", self.name.revision) == self.name.revision
        if (
            not told
            or [*map(int, told.groups())] != [start, stop - 1, self.size]
            or length != stop - start
            or not alike
        ):
            raise self._other()

    def _other(self) -> MergeError:
        words = f"The Hub sent other bytes of {self.file} of `{self.name.repo}` than it has at this commit"
        return MergeError(f"{words}, so nothing was made of them. Try again in a while.")
