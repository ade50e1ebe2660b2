"""Publishing a merge on the Hub: under a name that is free, private at first, and without touching what is there."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging import space
from merging.errors import MergeError, MergeStopped
from merging.hub.asking import asking, sign_in
from merging.hub.card import LONGEST, PICTURE, front_of
from merging.hub.fetch import OnBytes
from merging.hub.names import HubName, hub_name
from merging.hub.remote import PATIENCE

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo

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


def free(name: str, token: str | None = None, private: bool | None = None) -> HubName:
    """The name, where nothing is published under it yet; MergeError where there is, or where it is no name.

    MergeError also where its repository is there, empty, and not as private as is asked.
    """
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
    _refuse(found, info, private)
    return found  # empty: made by a try that failed


def _refuse(name: HubName, info: ModelInfo, private: bool | None) -> None:
    """MergeError where a repository holds files, or where whom it is open for is not what is asked."""
    if {one.rfilename for one in info.siblings or ()} - {BEGUN}:
        raise MergeError(f"There is a model `{name}` already, and nothing is ever overwritten. Choose another name.")
    if private is None or private == bool(info.private):
        return
    is_there, wanted = ("private", "for everyone") if info.private else ("open for everyone", "private")
    raise MergeError(
        f"`{name}` is on the Hub already, empty and {is_there}, so the merge would not be {wanted}. "
        "Change that in its settings on the Hub, or choose another name."
    )


def publish(upload: Upload, on_bytes: OnBytes | None = None, stopped: Callable[[], bool] | None = None) -> str:
    """Upload the folder and its card in one commit; the address of the model.

    Files that had arrived whole before a failure are not sent again. MergeError where the Hub does not take it.
    """
    from huggingface_hub import HfApi

    _check_card(upload)
    name, api = free(upload.name, upload.token), HfApi(token=upload.token)
    files = _files(upload.folder)
    total = 2 * sum(file.stat().st_size for file in files)  # each is read for its hash, and again to be sent
    counter = _Counter(total, on_bytes or (lambda done, total: None), stopped or (lambda: False))
    counter.stop()
    with _writing(name):
        made = api.create_repo(name.repo, private=upload.private, exist_ok=True)
        begun = api.model_info(name.repo)
    _refuse(name, begun, upload.private)
    left = f"`{name}` is on the Hub, empty. Publish again to go on in it: files that arrived whole are not sent again."
    with _writing(name, left):
        additions = _additions(upload, files, name, api, counter)
        counter.stop()
        api.create_commit(name.repo, additions, commit_message=MESSAGE, parent_commit=begun.sha)
    return str(made)


def _additions(
    upload: Upload, files: list[Path], name: HubName, api: HfApi, counter: _Counter
) -> list[CommitOperationAdd]:
    """What the commit is to add, of which large files are sent here."""
    from huggingface_hub import CommitOperationAdd

    beside: dict[str, bytes] = {"README.md": upload.card.encode()}
    beside |= {PICTURE: upload.picture} if upload.picture else {}
    found = [CommitOperationAdd(file, content) for file, content in beside.items()]
    for file in files:
        told = file.relative_to(upload.folder).as_posix()
        if told not in beside:
            with _Counted(file, counter) as stream:
                operation = CommitOperationAdd(told, stream)
                _send(operation, name, api)
                operation.path_or_fileobj = str(file)
            found.append(operation)
    return found


def _send(operation: CommitOperationAdd, name: HubName, api: HfApi) -> None:
    try:
        api.preupload_lfs_files(name.repo, [operation], free_memory=False)
    except RuntimeError as error:  # in which the client wraps whatever has ended it, be it a stop
        raise error.__cause__ or error from error


def _check_card(upload: Upload) -> None:
    """MergeError where the Hub would not take the card, which it says before there is anything."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    if len(upload.card) > LONGEST or not front_of(upload.card):
        raise MergeError("The card has no readable `---` part at its top, which the Hub wants. Begin it anew.")
    with asking():
        answer = get_session().post(
            f"{constants.ENDPOINT}/api/validate-yaml",
            json={"content": upload.card, "repoType": "model"},
            headers=build_hf_headers(token=upload.token),
            timeout=PATIENCE,
        )
        if answer.status_code != 400:
            hf_raise_for_status(answer)
            return
    wrong = "; ".join(str(one.get("message", "")) for one in answer.json().get("errors", []))
    raise MergeError(f"The Hub does not take what stands at the top of the card: {wrong}. Change it there.")


@contextmanager
def _writing(name: HubName, left: str = "") -> Iterator[None]:
    """Turn what the Hub answers to whoever writes into MergeError, and say what is left there, also after a stop."""
    try:
        with asking(name):
            yield
    except MergeStopped as stopped:
        raise MergeStopped(f"{stopped} {left}".strip()) from stopped
    except ValueError as error:  # by which the client tells some of what the Hub answers
        words = " ".join(str(error).split())
        raise MergeError(f"The Hub does not take `{name}`: {words} {left}".strip()) from error
    except MergeError as error:
        from huggingface_hub.errors import HfHubHTTPError

        answer: Any = error.__cause__.response if isinstance(error.__cause__, HfHubHTTPError) else None
        status = answer.status_code if answer is not None else 0
        if status == 412:
            words = f"Somebody else has written into `{name}` meanwhile, and nothing is ever overwritten"
            raise MergeError(f"{words}. Choose another name.") from error
        words = _forbidden(name, answer.headers.get("X-Error-Message", "")) if status == 403 else str(error)
        raise MergeError(f"{words} {left}".strip()) from error


def _forbidden(name: HubName, reason: str) -> str:
    owner, told = name.repo.partition("/")[0], f" ({reason.rstrip('.')})" if reason else ""
    return (
        f"You may not publish `{name}`{told}: the token may only read, or `{owner}` is neither you nor an organisation "
        f"in which you may write. Check the name, or {sign_in()} as one who may."
    )


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
            raise MergeStopped("Stopped. Nothing is published.")

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
