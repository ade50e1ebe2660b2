"""Weights that PyTorch pickled (.bin, .pt, .pth), listed and never executed: `weights_only`, with no other way in.

Only the list of contents is unpickled. It says where in the file each tensor lies, and entries are read there.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging import space
from merging.errors import MergeError
from merging.formats import disguise
from merging.header import FLOATS, FP8, OTHERS, POWERS, Entry, check_file
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from merging.checkpoint import Made

SAFETENSORS = {f"torch.{ours}": theirs for theirs, ours in (FLOATS | FP8 | POWERS | OTHERS).items()}
# Where training scripts put the tensors when they save more than them.
INSIDE = ("state_dict", "model_state_dict", "model", "module")
# Since this release tensors without values say where they lie; before it, only those do that torch makes for tracing.
ON_META = tuple(map(int, version("torch").split(".")[:2])) >= (2, 11)
STRUCTURE_LIMIT = 16 << 20  # of the pickle, and of the list of records: they name tensors and do not hold them


class Sparing(io.FileIO):
    """A file of which no more is read at once than a list of contents may take, whatever the file says of it."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(STRUCTURE_LIMIT if size is None or size < 0 else min(size, STRUCTURE_LIMIT))


@dataclass(frozen=True, eq=False)
class Strided:
    """A tensor whose entries are not stored in the order of its indices."""

    entry: Entry
    layout: Tensor  # without values: the shape, and the distances in entries from one index to the next

    @property
    def files(self) -> set[Path]:
        return {self.entry.file}

    def read(self, start: int, stop: int) -> Tensor:
        """Entries `start` to `stop` in the order of the indices."""
        return self._run(self.layout, start, stop)

    def _run(self, part: Tensor, start: int, stop: int) -> Tensor:
        if start >= stop or part.is_contiguous():
            return self._stored(int(part.storage_offset()) + start, max(0, stop - start))
        size = part[0].numel()
        first, last = start // size, (stop - 1) // size
        if first == last:
            return self._run(part[first], start - first * size, stop - first * size)
        begin = self._run(part[first], start - first * size, size)
        end = self._run(part[last], 0, stop - last * size)
        return torch.cat([begin, self._box(part[first + 1 : last]).flatten(), end])

    def _box(self, part: Tensor) -> Tensor:
        """A part whole: all that it spans, or slice by slice where most of that is not its own."""
        reach = _reach(part)
        if reach <= 2 * part.numel():
            return self._stored(int(part.storage_offset()), reach).as_strided(part.shape, part.stride())
        widest = max((axis for axis, n in enumerate(part.shape) if n > 1), key=part.stride)
        return torch.stack([self._box(slice) for slice in part.unbind(widest)], widest)

    def _stored(self, first: int, count: int) -> Tensor:
        return self.entry.read(first, first + count)


def _reach(values: Tensor) -> int:
    """The number of stored entries from the first of these to the last."""
    spans = ((n - 1) * step for n, step in zip(values.shape, values.stride(), strict=True))
    return 1 + sum(spans) if values.numel() else 0


def read_pickle(file: Path) -> tuple[list[Entry], dict[str, Made], list[str]]:
    """The tensors of a PyTorch file, how each is read, and what the user should know; MergeError if it is unsafe."""
    if words := space.unpickled(file):
        raise MergeError(words)
    records = _records(file)
    tensors, left = _tensors(file, _load(file))
    if not tensors:
        raise MergeError(f"{file} holds no tensors by name. Save the model's `state_dict()` as safetensors.")
    entries = [_entry(file, name, values) for name, values in tensors.items()]
    _inside(file, records, tensors)
    what = (
        f"and {len(left) - 1} more in {file.name} are not tensors and are"
        if len(left) > 1
        else (f"in {file.name} is not a tensor and is")
    )
    notes = [f"`{left[0]}` {what} left out."] if left else []
    odd = [entry for entry in entries if not tensors[entry.name].is_contiguous()]
    return entries, {entry.name: Strided(entry, _layout(tensors[entry.name])) for entry in odd}, notes


def _layout(values: Tensor) -> Tensor:
    return torch.empty(_reach(values), device="meta").as_strided(values.shape, values.stride())


def _records(file: Path) -> dict[int, int]:
    """Where the records of a plain archive begin, with their sizes in bytes; what torch never writes is refused."""
    cut = MergeError(f"{file} is cut short or is no PyTorch file. Download it again.")
    try:
        check_file(file)
        with file.open("rb") as stream:
            start = stream.read(8)
        if start[:1] == b"\x80":
            words = "is in PyTorch's format of before 2020, which cannot be read in parts"
            raise MergeError(f"{file} {words}. Load it with a script you trust and save it as safetensors.")
        if not start.startswith(b"PK\x03\x04"):
            what = disguise(start)
            raise MergeError(f"{file} {what}") if what else cut
        size = file.stat().st_size
        with Sparing(file) as sparing, zipfile.ZipFile(sparing) as archive:
            records = archive.infolist()
            begins = [_begin(archive, record) for record in records]
            foreign = any(_foreign(archive, record) for record in records)
    except OSError as error:
        raise MergeError(f"{file} could not be read ({error.strerror}). Check the file.") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise cut from error
    if foreign:  # torch would turn bytes around that it has not read, which ends the process
        words = "was written on a machine of another byte order"
        raise MergeError(f"{file} {words}. Load it with torch there and save it as safetensors.")
    if any(record.filename.endswith("constants.pkl") for record in records):
        raise MergeError(f"{file} is a TorchScript program, not weights. Choose the model it was made from.")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise MergeError(f"{file} is compressed, as PyTorch never does it, so it is not opened. Download it again.")
    if sum(record.file_size for record in records) > size:
        raise MergeError(f"{file} claims to hold more than its size, so it is not opened. Download it again.")
    if any(record.file_size > STRUCTURE_LIMIT and "/data/" not in record.filename for record in records):
        raise MergeError(f"{file} has too large a list of contents, so it is not opened. Download it again.")
    return {begin: record.file_size for begin, record in zip(begins, records, strict=True)}


def _foreign(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    """Whether a record says that numbers are stored in another byte order than this machine's."""
    if not record.filename.lower().endswith("byteorder"):
        return False
    return record.file_size > 6 or archive.read(record) != sys.byteorder.encode()


def _begin(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> int:
    """Where the bytes of a record begin, which its own header says, and not the list of contents."""
    assert archive.fp
    archive.fp.seek(record.header_offset + 26)
    name, extra = struct.unpack("<HH", archive.fp.read(4).ljust(4, b"\0"))
    return record.header_offset + 30 + int(name) + int(extra)


def _load(file: Path) -> Any:
    """The contents of the file; its tensors have no values, and their storages know where they lie."""
    try:
        if ON_META:
            return torch.load(file, map_location="meta", weights_only=True)
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            return torch.load(file, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)", str(error))
        what = f" (`{found[1] or found[2]}`)" if found else ""
        words = f"{file} holds more than tensors{what}, and to load that could run code"
        raise MergeError(f"{words}. Save its `state_dict()` as safetensors where you trust it.") from error
    except Exception as error:  # a hostile pickle can raise anything here, and all of it means the same
        words = str(error).partition("\n")[0][:200]
        raise MergeError(f"{file} is damaged ({words or type(error).__name__}). Download it again.") from error


def _tensors(file: Path, content: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by name, and the names of what else stands beside them."""
    while isinstance(content, Mapping):
        tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
        inside = [content[name] for name in INSIDE if isinstance(content.get(name), Mapping)]
        if tensors or not inside:
            odd = [name for name in tensors if not isinstance(name, str) or name == "__metadata__"]
            if odd:
                raise MergeError(f"{file} has a tensor named {odd[0]!r}, which no model has. Save the model again.")
            return tensors, [str(name) for name in content if name not in tensors]
        content = inside[0]
    return {}, []


def _entry(file: Path, name: str, values: Tensor) -> Entry:
    dtype, place = SAFETENSORS.get(str(values.dtype)), _place(values)
    if place is None or values.is_quantized or values.is_neg() or dtype is None:
        what = "a special kind of tensor" if place is None or dtype else f"dtype {values.dtype}"
        raise MergeError(f"`{name}` in {file} has {what}, which cannot be merged. Choose an unquantised model.")
    first, size = int(values.storage_offset()), values.element_size()
    if (first + _reach(values)) * size > values.untyped_storage().nbytes():
        raise _beyond(file, name)
    return Entry(name, dtype, tuple(values.shape), file, place + first * size)


def _place(values: Tensor) -> int | None:
    """Where its storage begins in the file, in bytes; None where it has none, as a sparse tensor."""
    return getattr(values.untyped_storage(), "_checkpoint_offset", None) if values.layout == torch.strided else None


def _inside(file: Path, records: dict[int, int], tensors: dict[str, Tensor]) -> None:
    """Each storage must be a record of the archive; torch may have calculated where it lies from what is claimed."""
    for name, values in tensors.items():
        place = _place(values) or 0
        if place not in records:
            raise MergeError(f"{file} is not laid out as PyTorch does it. Load it with torch and save it again.")
        if values.untyped_storage().nbytes() > records[place]:
            raise _beyond(file, name)


def _beyond(file: Path, name: str) -> MergeError:
    return MergeError(f"{file} is damaged: `{name}` ends beyond its data. Download it again.")
