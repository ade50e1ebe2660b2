"""Checkpoints on disk, read lazily: which files hold a model, its tensors by name, and any run of their entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from merging import space
from merging.errors import MergeError
from merging.fp8 import lifted
from merging.header import FLOATS, OTHERS, Entry, read_header, read_json
from merging.hub.cached import commit_of, kept
from merging.hub.names import hub_name, told_by_name
from merging.indices import compared
from merging.pickles import read_pickle
from merging.quantised import refuse_quantised
from merging.sources import PICKLES, source_of

if TYPE_CHECKING:
    from torch import Tensor

# The names that a model's only file has, so that a config beside it is its own and its folder names it.
USUAL = ("model.safetensors", "pytorch_model.bin")


LONGEST, AXES = 1000, 32  # of a tensor's name, in letters, and of its shape

# What a merge takes from a model's folder beside its weights.
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "added_tokens.json",
    "tokenizer_config.json",
)
BESIDE = ("config.json", "adapter_config.json", *TOKENIZER)


class Made(Protocol):
    """A tensor that is not stored as it is, but computed from what is stored, run by run as it is read."""

    @property
    def files(self) -> set[Path]:
        """What it is computed from."""

    def read(self, start: int, stop: int) -> Tensor:
        """Entries `start` to `stop` of the tensor laid flat."""


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: its tensors by name, and its config where it has one. No weight has been read yet."""

    path: Path
    entries: dict[str, Entry]
    config: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)  # the tensors whose entry does not say where their bytes are
    used: dict[str, str] = field(default_factory=dict)  # what became of stored tensors that are no part of the model
    adapter: bool = False  # whether it is what an adapter makes of its base, whose config it has then
    notes: tuple[str, ...] = ()  # sentences on how it was read, for the user
    told: str = ""  # what it is called where its name is another's, too

    @property
    def name(self) -> str:
        if self.told:
            return self.told
        path = self.path.absolute()
        return self.folder.absolute().name if path == self.folder.absolute() or path.name in USUAL else path.stem

    @property
    def folder(self) -> Path:
        """The folder that holds its config and tokenizer."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def parameters(self) -> int:
        return sum(entry.size for entry in self.entries.values() if entry.floating)

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries.values())

    @property
    def dtypes(self) -> list[str]:
        """The floating-point dtypes of its tensors, the one with most entries first."""
        counts: dict[str, int] = {}
        for entry in self.entries.values():
            if entry.floating:
                counts[FLOATS[entry.dtype]] = counts.get(FLOATS[entry.dtype], 0) + entry.size
        return sorted(counts, key=lambda dtype: -counts[dtype])

    @property
    def architecture(self) -> str:
        """The class its config names, or the kind of model, or nothing when it has no config."""
        names = self.config.get("architectures")
        name = names[0] if isinstance(names, list) and names else self.config.get("model_type", "")
        return name if isinstance(name, str) else ""

    @property
    def tied(self) -> bool:
        """Whether its config says that the output head is the embedding."""
        return self.config.get("tie_word_embeddings") is True

    @property
    def files(self) -> set[Path]:
        """The files that its tensors are read from, a base's too where an adapter is added to one."""
        return {file for name in self.entries for file in self.files_of(name)}

    @property
    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """What its content follows from, without reading it: its files, with their sizes and times."""
        files = self.files | {self.folder / name for name in BESIDE}
        known = ((file, file.stat()) for file in sorted(files) if file.is_file())
        return tuple((str(file), told.st_size, told.st_mtime_ns) for file, told in known)

    def files_of(self, name: str) -> set[Path]:
        """The files that a tensor is read from."""
        return self.made[name].files if name in self.made else {self.entries[name].file}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Entries `start` to `stop` of the tensor laid flat, in its own dtype; what is computed may be float32."""
        entry = self.entries[name]
        stop = entry.size if stop is None else stop
        if name in self.made:
            return self.made[name].read(start, stop)
        return entry.read(start, stop)

    def tensor(self, name: str) -> Tensor:
        """The whole tensor in its own dtype and shape."""
        return self.read(name).reshape(self.entries[name].shape)


def told_apart(models: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The models, of which those of one name are called by as much of their paths as tells them apart."""
    names = {model.path.absolute(): model.name for model in models}
    parts = {path: space.without_visitor(path).parts for path in names}
    for depth in range(2, 1 + max(map(len, parts.values()))):
        counts = Counter(names.values())
        names = {path: "/".join(parts[path][-depth:]) if counts[name] > 1 else name for path, name in names.items()}
    return [replace(model, told=names[model.path.absolute()]) for model in models]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model folder or a lone file, reading headers only; a pickle is never executed."""
    path = _found(path)
    config = path / "config.json" if path.is_dir() else path.parent / "config.json"
    told = read_json(config) if config.is_file() and _owns_config(path) else {}
    source = source_of(path)
    hub = commit_of(path)
    called = hub.repo.partition("/")[2] if hub else ""
    model = _gathered(Checkpoint(path, {}, told, notes=source.notes, told=called), source.files)
    model = replace(model, notes=(*model.notes, *compared(source, model.entries, model.tied)))
    model = lifted(refuse_quantised(model))
    for entry in model.entries.values():
        if len(entry.name) > LONGEST or len(entry.shape) > AXES:
            what = f"a tensor with {len(entry.shape):,} axes, whose name has {len(entry.name):,} letters"
            raise MergeError(f"{entry.file} holds {what}, as no model does. Download it again.")
        if entry.dtype not in FLOATS | OTHERS:
            where = f"`{entry.name}` in {entry.file} has dtype {entry.dtype}"
            raise MergeError(f"{where}, which cannot be merged. Choose an unquantised model.")
    return model


def _gathered(model: Checkpoint, files: Iterable[Path]) -> Checkpoint:
    """The model with the tensors of all its files."""
    entries: dict[str, Entry] = {}
    made: dict[str, Made] = {}
    notes = list(model.notes)
    for file in files:
        if file.suffix in PICKLES:
            found, strided, told = read_pickle(file)
            made |= strided
            notes += told
        else:
            found = read_header(file)
        for entry in found:
            if entry.name in entries:
                where = f"{entries[entry.name].file.name} and {file.name} of {file.parent}"
                raise MergeError(f"`{entry.name}` is in both {where}. Remove the file that does not belong.")
            entries[entry.name] = entry
    if not entries:
        raise MergeError(f"{model.path} holds no tensors. Choose another model.")
    return replace(model, entries=entries, made=made, notes=tuple(notes))


def _found(path: str | Path) -> Path:
    if words := space.opens(path):
        raise MergeError(words)
    try:
        path = Path(path).expanduser()
        there = path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, a folder not to be entered, a `~name` of nobody, a NUL
        there = False
    if not there:
        if folder := kept(path):
            return folder
        raise MergeError(_unknown(Path(path)))
    path = Path(path)
    return path.parent if path.name.endswith(".index.json") else path  # an index stands for the folder


def _unknown(path: Path) -> str:
    """What is said of a path where there is nothing, which may be meant as a name of the Hub."""
    told_by_name(str(path))
    words = f"There is no file or folder `{path}`"
    if hub_name(path):
        return f"{words}, and no such model was read from the Hub. Check the name."
    meant = hub_name(f"owner/{path.name.removesuffix('.git')}") and len(path.parts) <= 2 and path.parts[0][0].isalnum()
    return f"{words}. Check the path{'; a model of the Hub is written `owner/name`' if meant else ''}."


def _owns_config(path: Path) -> bool:
    """Whether a config beside a lone file belongs to it: it does when the file has the usual name."""
    return path.is_dir() or path.name in USUAL
