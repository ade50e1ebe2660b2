"""Files of weights in the Hub's cache: what came of one is kept, and the next download goes on within it.

The Hub's client begins a file anew each time. It links to what it finds finished in its cache, so that is where this
puts them; `<hash>.incomplete` holds the first bytes of a file and nothing else, as earlier clients had it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from merging.crew import breathe
from merging.errors import MergeError
from merging.hub.ahead import AT_ONCE, Ahead
from merging.hub.asking import asking
from merging.hub.names import HubName
from merging.hub.ranges import Ranged
from merging.hub.remote import PATIENCE

SHA256 = re.compile(r"[0-9a-f]{64}")
STEP = 1 << 20  # bytes that are written at a time
LARGEST = 8 << 20  # bytes of one request: the Hub counts requests, and whoever stops loses those beyond the first
ROOM = 6 * LARGEST  # bytes of memory, of which half is for what comes next: three requests at once
OFTEN = 0.2  # seconds between two looks at whether somebody else's download of the same file is over

OnHere = Callable[[int], None]  # told how many bytes of all these files are here


@dataclass(frozen=True)
class Blob:
    """A file of weights of a model at a commit: its size in bytes, and where the cache has what it holds."""

    file: str
    size: int
    place: Path  # which is called by the SHA-256 of the file

    @property
    def part(self) -> Path:
        """What has come of it so far."""
        return self.place.with_name(f"{self.place.name}.incomplete")

    @property
    def here(self) -> int:
        """Bytes of it that are here."""
        for file in (self.place, self.part):
            with suppress(FileNotFoundError):
                return min(file.stat().st_size, self.size)
        return 0


def blobs_of(name: HubName, sizes: dict[str, int]) -> list[Blob]:
    """Those of the files whose SHA-256 the Hub tells; none on a system that could not link to them."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import are_symlinks_supported, repo_folder_name

    home = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name.repo, repo_type="model")
    if not are_symlinks_supported(constants.HF_HUB_CACHE):
        return []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tags = pool.map(lambda file: _tag(name, file), sizes)
        told = zip(sizes.items(), tags, strict=True)
        return [Blob(file, size, home / "blobs" / tag) for (file, size), tag in told if SHA256.fullmatch(tag)]


def _tag(name: HubName, file: str) -> str:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with asking(name):
        url = hf_hub_url(name.repo, file, revision=name.revision)
        return get_hf_file_metadata(url, timeout=PATIENCE, retry_on_errors=True).etag or ""


def download(name: HubName, blobs: list[Blob], on_here: OnHere) -> None:
    """Bring all of these files here, one after the other; blocking.

    MergeError where the Hub does not give them, or others; MergeStopped when asked to stop. What came is kept.
    """
    before = 0
    for blob in blobs:
        tell = partial(_tell, on_here, before)
        with _alone(blob, tell):
            if not blob.place.exists():
                _download(name, blob, tell)
        before += blob.size
        on_here(before)


def _tell(on_here: OnHere, before: int, here: int) -> None:
    on_here(before + here)


@contextmanager
def _alone(blob: Blob, on_here: OnHere) -> Iterator[None]:
    """Within, nobody else downloads that file, also in no other program."""
    locks = blob.place.parents[2] / ".locks" / blob.place.parents[1].name
    for folder in (locks, blob.place.parent):
        folder.mkdir(parents=True, exist_ok=True)
    lock: BaseFileLock = FileLock(locks / f"{blob.place.name}.lock", mode=0o664)  # as the client has it
    while not lock.is_locked:
        breathe()
        try:
            lock.acquire(timeout=OFTEN)
        except Timeout:
            on_here(blob.here)
        except NotImplementedError:  # of a disk that cannot lock files
            lock = SoftFileLock(lock.lock_file)
    try:
        yield
    finally:
        lock.release()


def _download(name: HubName, blob: Blob, on_here: OnHere) -> None:
    digest = hashlib.sha256()
    with blob.part.open("a+b") as out:
        if out.tell() > blob.size:
            out.truncate(0)
        out.seek(0)
        while part := out.read(STEP):
            breathe()
            digest.update(part)
        key = Path(blob.file)
        with closing(Ahead({key: Ranged(name, blob.file, blob.size)}, ROOM, 1, largest=LARGEST)) as ahead:
            ahead.expect([[(key, out.tell(), blob.size)]])
            while (here := out.tell()) < blob.size:
                came = ahead.read(key, here, min(here + STEP, blob.size))
                out.write(came)
                digest.update(came)
                on_here(out.tell())
    if digest.hexdigest() != blob.place.name:
        blob.part.unlink()
        words = f"{blob.file} of `{name.repo}` did not come as the Hub has it (its SHA-256 is another)"
        raise MergeError(f"{words}, and was deleted. Download it again.")
    os.replace(blob.part, blob.place)
