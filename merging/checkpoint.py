"""Checkpoints on disk, read lazily: which files hold a model, its tensors by name, and any run of their entries."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from merging.errors import MergeError
from merging.header import FLOATS, INDEX, SIZES, Entry, dtype_of, read_header, read_json
from merging.lazy import torch
from merging.references import HUB_NAME

if TYPE_CHECKING:
    from torch import Tensor

SHARD_NAME = re.compile(r"model-\d{5}-of-(?P<total>\d{5})\.safetensors")


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
    adapter: bool = False  # whether it is what an adapter makes of its base, whose config it has then

    @property
    def name(self) -> str:
        path = self.path.absolute()
        return path.stem if path.suffix == ".safetensors" and path.stem != "model" else self.folder.absolute().name

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
    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """What its content follows from, without reading it: its files, with their sizes and times."""
        files = {self.folder / name for name in ("config.json", "adapter_config.json")}
        files |= {entry.file for entry in self.entries.values()}
        files |= {file for made in self.made.values() for file in made.files}
        known = ((file, file.stat()) for file in sorted(files) if file.is_file())
        return tuple((str(file), told.st_size, told.st_mtime_ns) for file, told in known)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Entries `start` to `stop` of the tensor laid flat, in its own dtype; an adapter's are float32."""
        entry = self.entries[name]
        stop = entry.size if stop is None else stop
        if name in self.made:
            return self.made[name].read(start, stop)
        size = SIZES[entry.dtype]
        data = bytearray(size * (stop - start))
        view = memoryview(data)
        try:
            with entry.file.open("rb", buffering=0) as file:
                file.seek(entry.offset + start * size)
                while view and (count := file.readinto(view)):
                    view = view[count:]
        except OSError as error:
            raise MergeError(f"{entry.file} could not be read ({error.strerror}). Check the file.") from error
        if view:
            raise MergeError(f"{entry.file} ended while `{name}` was read. Check that nothing is changing the file.")
        if not data:
            return torch.empty(0, dtype=dtype_of(entry))
        return torch.frombuffer(data, dtype=dtype_of(entry))

    def tensor(self, name: str) -> Tensor:
        """The whole tensor in its own dtype and shape."""
        return self.read(name).reshape(self.entries[name].shape)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model folder or a lone safetensors file, reading its headers only."""
    path = _found(path)
    files, promised = _files(path)
    entries: dict[str, Entry] = {}
    for file in files:
        for entry in read_header(file):
            if entry.name in entries:
                where = f"{entries[entry.name].file.name} and {file.name}"
                raise MergeError(f"`{entry.name}` is in both {where} of {path}. Remove the file that does not belong.")
            entries[entry.name] = entry
    for name, file_name in promised.items():
        if name not in entries:
            raise MergeError(f"`{name}` is not in {path / file_name}, where {INDEX} says it is. Download both again.")
    if not entries:
        raise MergeError(f"{path} holds no tensors. Choose another model.")
    config = path / "config.json" if path.is_dir() else path.parent / "config.json"
    return Checkpoint(path, entries, read_json(config) if config.is_file() and _owns_config(path) else {})


def _found(path: str | Path) -> Path:
    try:
        path = Path(path).expanduser()
        there = path.exists()
    except (OSError, RuntimeError):  # too long a name, a folder that may not be entered, a `~name` that is nobody's
        there = False
    if not there:
        hub = (
            " If it names a model of the Hub, download it and name its folder." if HUB_NAME.fullmatch(str(path)) else ""
        )
        raise MergeError(f"There is no file or folder `{path}`. Check the path.{hub}")
    return Path(path)


def _owns_config(path: Path) -> bool:
    """Whether a config beside a lone file belongs to it: it does when the file has the usual name."""
    return path.is_dir() or path.name == "model.safetensors"


def _files(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The files that hold the model, and the tensors that its index promises, with the file of each."""
    if path.is_file():
        if path.suffix != ".safetensors":
            raise MergeError(f"{path.name} is not a .safetensors file. Only safetensors can be opened.")
        return [path], {}
    if (path / "model.safetensors").is_file():  # before an index, as transformers does
        return [path / "model.safetensors"], {}
    if (path / INDEX).is_file():
        return _indexed(path)
    files = sorted(path.glob("*.safetensors"))
    if named := [name for file in files if (name := SHARD_NAME.fullmatch(file.name))]:
        return _numbered(path, int(named[0]["total"])), {}
    if not files:
        found = "only pickled weights" if [*path.glob("*.bin"), *path.glob("*.pt*")] else "no .safetensors file"
        raise MergeError(f"{path} has {found}. Save the model as safetensors and choose that folder.")
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise MergeError(f"{path} has several models ({names}). Choose one of these files.")
    return files, {}


def _numbered(path: Path, total: int) -> list[Path]:
    """The shards of a model without an index, which are as many as their names say."""
    shards = [path / f"model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)]
    for shard in shards:
        if not shard.is_file():
            raise MergeError(f"Shard {shard.name} of {path} is missing. Download it and try again.")
    return shards


def _indexed(path: Path) -> tuple[list[Path], dict[str, str]]:
    names = read_json(path / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise MergeError(f"{path / INDEX} has no usable weight_map. Download it again.")
    files = []
    for name in sorted(set(names.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise MergeError(f"{path / INDEX} names `{name}`, which is not a shard in its folder. Download it again.")
        if not (path / name).is_file():
            raise MergeError(f"Shard {name} of {path} is missing. Download it and try again.")
        files.append(path / name)
    return files, names
