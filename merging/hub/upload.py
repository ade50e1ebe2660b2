"""Publishing a merge on the Hub: under a name that is free, private at first, and without touching what is there."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging import space
from merging.errors import MergeError, MergeStopped
from merging.hub.asking import asking, sign_in
from merging.hub.card import LONGEST, PICTURE, front_of
from merging.hub.fetch import OnBytes
from merging.hub.names import HubName, hub_name

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

BEGUN = ".gitattributes"  # what the Hub itself puts into a new repository
MESSAGE = "A merge, and how it was made"
LEFT_OUT = ("journal.jsonl",)


@dataclass(frozen=True)
class Upload:
    """What is published: a merge's folder, its card, and its picture; under a name, with the token of who asks."""

    folder: Path
    name: str
    card: str
    picture: bytes | None = None
    private: bool = True
    token: str | None = None  # None for the one on this machine


def account(token: str | None = None) -> str:
    """The name of whoever is signed in, in a Space with a token of their own; MergeError says how to."""
    from huggingface_hub import HfApi, get_token

    if not (token or (get_token() and not space.here())):
        raise MergeError(f"Nobody is signed in to the Hub: {sign_in()}, and try again.")
    with asking():
        return str(HfApi(token=token).whoami()["name"])


def free(name: str, token: str | None = None) -> HubName:
    """The name, where nothing is published under it yet; MergeError where there is, or where it is no name."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    found = hub_name(name.strip())
    if not found or found.revision:
        raise MergeError(f"`{name.strip()}` is no name for a model. Write it as `owner/name`.")
    try:
        with asking(found):
            info = HfApi(token=token).model_info(found.repo)
    except MergeError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            return found
        raise
    _refuse_filled(found, info)
    return found  # empty: made by a try that failed


def _refuse_filled(name: HubName, info: ModelInfo) -> None:
    if {one.rfilename for one in info.siblings or ()} - {BEGUN}:
        raise MergeError(f"There is a model `{name}` already, and nothing is ever overwritten. Choose another name.")


def publish(upload: Upload, on_bytes: OnBytes | None = None, stopped: Callable[[], bool] | None = None) -> str:
    """Upload the folder and its card in one commit; the address of the model.

    What was uploaded before a failure is not uploaded again. MergeError where the Hub does not take it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if len(upload.card) > LONGEST or not front_of(upload.card):
        raise MergeError("The card has no readable `---` part at its top, which the Hub wants. Begin it anew.")
    name, api = free(upload.name, upload.token), HfApi(token=upload.token)
    files = _files(upload.folder)
    total = 2 * sum(file.stat().st_size for file in files)  # each is read for its hash, and again to be sent
    counter = _Counter(total, on_bytes or (lambda done, total: None), stopped or (lambda: False))
    beside: dict[str, bytes] = {"README.md": upload.card.encode()}
    beside |= {PICTURE: upload.picture} if upload.picture else {}
    with asking(name):
        made = api.create_repo(name.repo, private=upload.private, exist_ok=True)
        small = [CommitOperationAdd(file, content) for file, content in beside.items()]
        large = []
        for file in files:
            told = file.relative_to(upload.folder).as_posix()
            if told not in beside:
                with _Counted(file, counter) as stream:
                    operation = CommitOperationAdd(told, stream)
                    api.preupload_lfs_files(name.repo, [operation], free_memory=False)
                    operation.path_or_fileobj = str(file)
                large.append(operation)
        counter.stop()
        begun = api.model_info(name.repo)
        _refuse_filled(name, begun)  # by somebody else, while this was sent
        api.create_commit(name.repo, [*small, *large], commit_message=MESSAGE, parent_commit=begun.sha)
    return str(made)


def _files(folder: Path) -> list[Path]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name not in LEFT_OUT]
    for file in files:
        if file.is_symlink() or not file.resolve().is_relative_to(folder.resolve()):
            raise MergeError(f"{file} is a link, which is not followed to publish a merge. Take it out.")
    if not any(file.suffix == ".safetensors" for file in files):
        raise MergeError(f"{folder} holds no weights any more, so there is nothing to publish.")
    return files


class _Counter:
    """Counts what is read of all files, and stops it."""

    def __init__(self, total: int, on_bytes: OnBytes, stopped: Callable[[], bool]) -> None:
        self.total, self.on_bytes, self.stopped, self.done = total, on_bytes, stopped, 0

    def stop(self) -> None:
        if self.stopped():
            raise MergeStopped("Stopped. What was uploaded is kept, and nothing is published.")

    def add(self, count: int) -> None:
        self.stop()
        self.done += count
        self.on_bytes(min(self.done, self.total), self.total)


class _Counted(io.BufferedReader):
    """A file that tells of what is read of it."""

    def __init__(self, file: Path, counter: _Counter) -> None:
        super().__init__(io.FileIO(file))
        self.counter = counter

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(-1 if size is None else size)
        self.counter.add(len(content))
        return content

    def __iter__(self) -> Any:
        while content := self.read(1 << 20):
            yield content
