"""Weights that PyTorch pickled (.bin, .pt, .pth), mapped and never executed: `weights_only`, with no other way in.

Nothing is unpacked or copied when such a file is opened; a run of entries is copied out of the map as it is read.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import MergeError
from merging.formats import disguise
from merging.header import FLOATS, FP8, OTHERS, POWERS, Entry
from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from merging.checkpoint import Made

SAFETENSORS = {f"torch.{ours}": theirs for theirs, ours in (FLOATS | FP8 | POWERS | OTHERS).items()}
# Where training scripts put the tensors when they save more than them.
INSIDE = ("state_dict", "model_state_dict", "model", "module")
STRUCTURE_LIMIT = 100 << 20  # of the pickle itself, which names the tensors and does not hold them


@dataclass(frozen=True, eq=False)
class Pickled:
    """A tensor of a mapped file."""

    file: Path
    values: Tensor

    @property
    def files(self) -> set[Path]:
        return {self.file}

    def read(self, start: int, stop: int) -> Tensor:
        """A copy of entries `start` to `stop`, in the order of the indices whatever the order in the file."""
        return _run(self.values, start, stop).clone()


def _run(values: Tensor, start: int, stop: int) -> Tensor:
    if start >= stop or values.is_contiguous():
        return values.view(-1)[start:stop] if values.is_contiguous() else values.new_empty(0)
    size = values[0].numel()
    first, last = start // size, (stop - 1) // size
    if first == last:
        return _run(values[first], start - first * size, stop - first * size)
    begin = _run(values[first], start - first * size, size)
    end = _run(values[last], 0, stop - last * size)
    return torch.cat([begin, values[first + 1 : last].reshape(-1), end])


def read_pickle(file: Path) -> tuple[list[Entry], dict[str, Made], list[str]]:
    """The tensors of a PyTorch file, how each is read, and what the user should know; MergeError if it is unsafe."""
    _check(file)
    tensors, left = _tensors(file, _load(file))
    if not tensors:
        raise MergeError(f"{file} holds no tensors by name. Save the model's `state_dict()` as safetensors.")
    entries = [_entry(file, name, values) for name, values in tensors.items()]
    what = (
        f"and {len(left) - 1} more in {file.name} are not tensors and are"
        if len(left) > 1
        else (f"in {file.name} is not a tensor and is")
    )
    notes = [f"`{left[0]}` {what} left out."] if left else []
    return entries, {name: Pickled(file, values.detach()) for name, values in tensors.items()}, notes


def _check(file: Path) -> None:
    """Refuse what is not a plain archive as torch writes it: nothing packed, nothing larger than the file."""
    cut = MergeError(f"{file} is cut short or is no PyTorch file. Download it again.")
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
        if start[:1] == b"\x80":
            words = "is in PyTorch's format of before 2020, which cannot be read in parts"
            raise MergeError(f"{file} {words}. Load it with a script you trust and save it as safetensors.")
        if not start.startswith(b"PK"):
            what = disguise(start)
            raise MergeError(f"{file} {what}") if what else cut
        size = file.stat().st_size
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
    except OSError as error:
        raise MergeError(f"{file} could not be read ({error.strerror}). Check the file.") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise cut from error
    if any(record.filename.endswith("constants.pkl") for record in records):
        raise MergeError(f"{file} is a TorchScript program, not weights. Choose the model it was made from.")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise MergeError(f"{file} is compressed, as PyTorch never does it, so it is not opened. Download it again.")
    if sum(record.file_size for record in records) > size:
        raise MergeError(f"{file} claims to hold more than its size, so it is not opened. Download it again.")
    if any(record.file_size > STRUCTURE_LIMIT and "/data/" not in record.filename for record in records):
        raise MergeError(f"{file} has too large a list of contents, so it is not opened. Download it again.")


def _load(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
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
    dtype = SAFETENSORS.get(str(values.dtype))
    plain = values.layout == torch.strided and not values.is_quantized and values.device.type == "cpu"
    if not plain or dtype is None or type(values) not in (torch.Tensor, torch.nn.Parameter):
        what = f"dtype {values.dtype}" if plain and dtype is None else "a special kind of tensor"
        raise MergeError(f"`{name}` in {file} has {what}, which cannot be merged. Choose an unquantised model.")
    reach = values.storage_offset() + sum((n - 1) * step for n, step in zip(values.shape, values.stride(), strict=True))
    if values.numel() and (reach + 1) * values.element_size() > values.untyped_storage().nbytes():
        raise MergeError(f"{file} is damaged: `{name}` ends beyond its data. Download it again.")
    return Entry(name, dtype, tuple(values.shape), file, 0)
