"""What goes wrong when the Hub is asked, each in a sentence of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from merging import space
from merging.errors import MergeError
from merging.hub.names import COMMIT, HubName


class UnaskedError(MergeError):
    """The Hub could not be asked, so nothing is known against what it said before."""


def sign_in() -> str:
    """What whoever is not signed in has to do."""
    return "sign in at the top of the page" if space.here() else "sign in with `hf auth login`"


@contextmanager
def asking(name: HubName | None = None) -> Iterator[None]:
    """Turn what the Hub, or the way to it, answers instead into MergeError."""
    import httpx2
    from huggingface_hub import errors

    commit = name and COMMIT.fullmatch(name.revision)  # which nobody wrote
    what = f"`{name.repo if commit else name}`" if name else "that"
    try:
        yield
    except errors.GatedRepoError as error:
        if space.here():
            raise MergeError(space.closed(name.repo if name else "that")) from error
        page = f"https://huggingface.co/{name.repo if name else ''}"
        words = f"{what} is gated: whoever downloads it has to agree to its terms first"
        raise MergeError(f"{words}. Do so on {page}, {sign_in()}, and try again.") from error
    except errors.RevisionNotFoundError as error:
        revision, repo = (name.revision, name.repo) if name else ("", "")
        raise MergeError(f"`{repo}` has no revision `{revision}` on the Hub. Check it, or leave it out.") from error
    except errors.RepositoryNotFoundError as error:
        words = f"There is no model {what} on the Hub, or it is private"
        private = "This Space reads public ones only" if space.here() else f"for a private one {sign_in()}"
        raise MergeError(f"{words}. Check the name{'. ' if space.here() else '; '}{private}.") from error
    except errors.OfflineModeIsEnabled as error:
        raise UnaskedError(
            f"{what} is not on this machine, and the Hub is not asked while HF_HUB_OFFLINE is set. "
            "Unset it, or choose a folder."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UnaskedError(f"The Hub could not be reached for {what}. Check the connection and try again.") from error
    except errors.EntryNotFoundError as error:
        raise MergeError(f"{what} has lost a file on the Hub while it was read. Try again.") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        kind = MergeError if status in (401, 403) else UnaskedError
        raise kind(f"The Hub answered {status} for {what}. {_advice(status)}") from error
    except (httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        words = f"The Hub could not be reached for {what} ({type(error).__name__})"
        raise UnaskedError(f"{words}. Check the connection and try again.") from error


def _advice(status: int) -> str:
    if status == 401:
        return f"{'Your sign-in' if space.here() else 'The token on this machine'} is not accepted: {sign_in()} again."
    if status == 403:
        return f"It may not be read with this account: {sign_in()} as one that may."
    if status == 429:
        return f"It was asked too often: wait a minute, or {sign_in()}."
    return "Try again in a while."
