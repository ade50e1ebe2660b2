"""The rules of a public Space: what it opens and writes, and how much of its memory and disk anybody may have.

Hugging Face sets `SPACE_ID` in a Space, and nowhere else; elsewhere nothing here forbids anything.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from merging.caches import previews
from merging.errors import MergeError
from merging.hub.names import hub_name
from merging.sizes import in_bytes, in_words

MEMORY, DISK, CORES = 16 << 30, 50_000_000_000, 2  # of the smallest Space; larger ones tell their memory and cores
RESERVED = 2 << 30  # bytes of memory for the page, its pictures, and a merge: models to sample have the rest
SHARE = 0.4  # of the memory, that a model's weights may take: so a merge in memory and one model beside it fit
MODELS = DISK // 2  # bytes on disk, of all models of the Hub together: a base and two experts of the largest fit
MERGES = 3 * DISK // 10  # bytes on disk, of the merges of all visitors; the last fifth is the program's
MINE = MERGES // 2  # bytes on disk, of the merges of one visitor
PREVIEWS = 1_000_000_000  # bytes on disk, of headers and small files of models that were looked at
KEPT = 2 * 3600  # seconds that a merge is kept after it was last used, if no other needs its room
SPARED = 600  # seconds that it is kept in any case
EXPERTS = 8  # in one merge
TOKENS = 2048  # of a prompt, that a model sees: what it keeps of them takes memory
LINE = 20  # visitors that wait for their merge

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")  # of a merge
EMBEDDED = Path(__file__).parent.parent / "zoo"


def here() -> bool:
    """Whether this is a Space."""
    return bool(os.environ.get("SPACE_ID"))


def signs_in() -> bool:
    """Whether visitors can sign in: Hugging Face gives a Space what that takes when its README asks for it."""
    return here() and bool(os.environ.get("OAUTH_CLIENT_ID"))


def elsewhere(what: str = "It") -> str:
    """Where to merge what a Space does not."""
    address = f"https://huggingface.co/spaces/{os.environ.get('SPACE_ID', '')}"
    return f"{what} can be merged on a machine of your own: `git clone {address}`, and see its README."


def memory() -> int:
    """Bytes of memory that this Space has."""
    try:
        return in_bytes(os.environ["MEMORY"])
    except (KeyError, MergeError):
        return MEMORY


def memory_left() -> int:
    """Bytes of memory for models to sample, beside what this process has. The system tells of the whole machine's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    taken = sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return max(0, memory() - RESERVED - taken)


def cores() -> int:
    """How many processors this Space has, of all that the system tells of."""
    told = os.environ.get("CPU_CORES", "")
    return int(told) if told.isdigit() and told != "0" else CORES


def hands(workers: int) -> int:
    """How many of so many workers have something to work with."""
    return min(workers, cores()) if here() else workers


def largest() -> int:
    """Bytes that the weights of a model of the Hub may have."""
    return int(SHARE * memory())


def merges() -> Path:
    """Where the merges of all visitors are, each in a folder of its visitor."""
    return Path.cwd() / "merges"


def opens(told: str | Path) -> str:
    """Why a model is not opened, in two sentences; empty where it may be.

    A Space opens what came with it, what it took from the Hub, and what was merged in it.
    """
    named = hub_name(told) and not os.path.lexists(told)  # a folder here can be called as a model there could be
    if not here() or named or inside(told, (EMBEDDED, merges(), previews(), _downloads())):
        return ""
    return (
        f"`{told}` is a path, and a Space opens none. Choose an embedded model, or name one of the Hub: `owner/name`."
    )


def writes(out: str | Path) -> str:
    """Why nothing is written to a folder, in two sentences; empty where that may be."""
    if not here() or inside(out, (merges(),)):
        return ""
    return f"`{out}` is not among the merges of this Space, and nothing is written elsewhere. Give the merge a name."


def unpickled(file: Path) -> str:
    """Why a file of PyTorch's is not read, in two sentences; empty where it may be."""
    words = f"{file.name} is a file of PyTorch's, which a Space does not read. Choose a model with safetensors"
    return f"{words}, or convert it first." if here() else ""


def too_large(name: str, size: int) -> str:
    """Why a model of the Hub with so many bytes of weights is not merged; empty where it may be."""
    if not here() or size <= largest():
        return ""
    words = f"`{name}` has {in_words(size)} of weights, and this Space takes models of up to {in_words(largest())}"
    return f"{words}. {elsewhere()}"


def too_many(size: int, streamed: bool = False) -> str:
    """Why so many bytes of models are not downloaded together, and what to do instead; empty where they are."""
    if not here() or size <= MODELS:
        return ""
    words = (
        f"These models take {in_words(size)} together, and this Space keeps {in_words(MODELS)} of models from the Hub"
    )
    instead = ", or Stream in step 3, which keeps none" if streamed else ""
    return f"{words}. Choose fewer or smaller ones{instead}. {elsewhere('All of them')}"


def closed(name: str) -> str:
    """Why a model that not everybody may read is not read; a Space asks the Hub as nobody in particular."""
    words = f"`{name}` is gated or private, and this Space reads public models only, whoever is signed in"
    return f"{words}. {elsewhere()}"


def hidden(words: str) -> str:
    """The words without the places of visitors' folders, which nobody else may learn."""
    start = f"{merges()}{os.sep}"
    while here() and start in words:
        before, _, after = words.partition(start)
        words = before + after.partition(os.sep)[2]
    return words


def without_visitor(path: Path) -> Path:
    """A path without the folder of a visitor, where it is in one: names that are kept with a merge follow from it."""
    if not here() or not inside(path, (merges(),)):
        return path
    return merges().joinpath(*path.resolve().relative_to(merges().resolve()).parts[1:])


def inside(told: str | Path, roots: tuple[Path, ...]) -> bool:
    """Whether a place is in one of these folders, or is one."""
    try:
        place = Path(told).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):  # too long, `~name` of nobody, a NUL
        return False
    return any(place.is_relative_to(root.resolve()) for root in roots)


def _downloads() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
