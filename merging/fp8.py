"""Weights stored as fp8 with scales, read as the bfloat16 weights that they stand for: fp8 times scale.

The product is computed in float32 run by run and rounded once, by whoever writes it. No dense copy is ever made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from merging.errors import MergeError
from merging.header import FLOATS, FP8, POWERS, Entry
from merging.lazy import torch
from merging.quantised import quantisation, without_quantisation

if TYPE_CHECKING:
    from torch import Tensor

    from merging.checkpoint import Checkpoint, Made

BLOCK = (128, 128)  # where the config does not say: DeepSeek's, which everyone took over
# Beside a weight in fp8, the scales of what flows through its layer. They mean nothing once the weight is lifted.
FLOW = (
    *("input_scale", "input_scale_ub", "output_scale", "activation_scale", "act_scale", "scale_input"),
    *("q_scale", "k_scale", "v_scale", "kv_scale", "prob_output_scale", "scaled_fp8"),
)
MULTIPLIED = "multiplied into the fp8 weights that it scales"
UNNEEDED = "left out: weights in bfloat16 need no scales of what flows through their layer"


@dataclass(frozen=True)
class Lifted:
    """A tensor stored as fp8; its scale belongs to blocks of rows and columns, each of the same size."""

    source: Checkpoint
    name: str
    scale: str = ""  # the tensor of scales; none for a plain cast
    grid: tuple[int, int] = (1, 1)  # of scales, for each matrix
    block: tuple[int, int] = (1, 1)  # of entries, that share one

    @property
    def files(self) -> set[Path]:
        """What it is computed from."""
        return self.source.files_of(self.name) | (self.source.files_of(self.scale) if self.scale else set())

    def read(self, start: int, stop: int) -> Tensor:
        """Entries of the product, laid flat, in float32."""
        values = self.source.read(self.name, start, stop).float()
        if not self.scale or not len(values):
            return values
        if self.source.entries[self.scale].size == 1:
            return values * self._stored(0, 1)
        return values * self._scales(start, stop)

    def _scales(self, start: int, stop: int) -> Tensor:
        """The scale of each of these entries."""
        *_, height, width = (1, *self.source.entries[self.name].shape)
        rows = torch.arange(start // width, (stop - 1) // width + 1)
        bands = rows // height * self.grid[0] + rows % height // self.block[0]  # the row of scales for each row
        low, high = int(bands[0]), int(bands[-1]) + 1
        scales = self._stored(low * self.grid[1], high * self.grid[1])
        wide = scales.reshape(-1, self.grid[1])[bands - low].repeat_interleave(self.block[1], dim=1)[:, :width]
        return wide.flatten()[start - int(rows[0]) * width :][: stop - start]

    def _stored(self, start: int, stop: int) -> Tensor:
        scales = self.source.read(self.scale, start, stop)
        return (scales.view(torch.float8_e8m0fnu) if scales.dtype == torch.uint8 else scales).float()


def lifted(model: Checkpoint) -> Checkpoint:
    """The model with its fp8 tensors as bfloat16, and without their scales."""
    names = [name for name, entry in model.entries.items() if entry.dtype in FP8]
    if not names:
        return model
    made = {name: _lifted(model, name) for name in names if not _flows(name)}
    used = {name: UNNEEDED for name in model.entries if _flows(name)}
    used |= {tensor.scale: MULTIPLIED for tensor in made.values() if tensor.scale}
    entries: dict[str, Entry] = {}
    for name, entry in model.entries.items():
        if name not in used:
            entries[name] = replace(entry, dtype="BF16") if name in made else entry
    _no_scale_is_left(model, list(entries))
    plain = sum(not tensor.scale for tensor in made.values())
    notes = (*model.notes, _note(len(made), plain))
    made_now: dict[str, Made] = {**model.made, **made}
    return replace(without_quantisation(model), entries=entries, made=made_now, used=used, notes=notes)


def _flows(name: str) -> bool:
    return name.rpartition(".")[2] in FLOW


def _note(tensors: int, plain: int) -> str:
    how = "times their scales" if not plain else f"{plain} of them as they are, for want of scales"
    return f"{tensors} tensors are stored as fp8 and are read as bfloat16, {how}."


def _lifted(model: Checkpoint, name: str) -> Lifted:
    stem = name.removesuffix("weight")
    asked = (f"{name}_scale_inv", f"{name}_scale", f"{stem}scale_weight" if stem != name else "")
    scale = next((scale for scale in asked if scale in model.entries), "")
    if not scale:
        return Lifted(model, name)
    shape, told = model.entries[name].shape, model.entries[scale].shape
    if model.entries[scale].dtype not in (*FLOATS, *POWERS, "U8"):  # bytes are powers of two as well
        raise MergeError(
            f"`{scale}` of {model.name} has dtype {model.entries[scale].dtype}, a kind of scale that cannot be read. "
            "Choose the unquantised model."
        )
    if math.prod(told) == 1:
        return Lifted(model, name, scale)
    fitted = _fitted(shape, told, _declared(model))
    if not fitted:
        weight, scales = (" × ".join(map(str, sizes)) for sizes in (shape, told))
        where = f"`{scale}` of {model.name} is {scales}"
        raise MergeError(f"{where}, which does not fit its weight of {weight}. Choose the unquantised model.")
    return Lifted(model, name, scale, *fitted)


def _declared(model: Checkpoint) -> tuple[int, int]:
    """The block size that the config gives, in the words of transformers or of compressed-tensors."""
    told = quantisation(model.config)
    groups = told.get("config_groups")
    sizes = [told.get("weight_block_size")]
    for group in groups.values() if isinstance(groups, dict) else []:
        weights = group.get("weights") if isinstance(group, dict) else None
        sizes.append(weights.get("block_structure") if isinstance(weights, dict) else None)
    for size in sizes:
        if isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size):
            return size[0], size[1]
    return BLOCK


def _fitted(
    shape: tuple[int, ...], told: tuple[int, ...], declared: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The grid of scales for each matrix of a tensor and the block that one belongs to, if they fit each other."""
    *batch, height, width = shape if len(shape) > 1 else (1, *shape)
    if len(shape) == 1:
        told = (1, *told)
    elif told == (*batch, height):
        told = (*told, 1)  # one scale for each row
    elif batch and told == tuple(batch):
        told = (*told, 1, 1)  # one for each matrix
    if len(told) < 2 or list(told[:-2]) != batch:
        return None
    sides = [_side(size, count, side) for size, count, side in zip((height, width), told[-2:], declared, strict=True)]
    return ((told[-2], told[-1]), (sides[0], sides[1])) if all(sides) else None


def _side(size: int, count: int, declared: int) -> int:
    """How many entries share a scale where `count` scales belong to `size` of them; 0 when that does not come out."""
    if count and math.ceil(size / declared) == count:
        return declared
    return size // count if count and size % count == 0 else 0


def _no_scale_is_left(model: Checkpoint, names: list[str]) -> None:
    """Refuse a scale that belongs to no tensor: the weights would be wrong without it."""
    for name in names:
        if name.endswith((".weight_scale", ".weight_scale_inv", ".scale_weight", "_proj_scale", "_proj_scale_inv")):
            raise MergeError(f"`{name}` of {model.name} belongs to no weight in fp8. Choose the unquantised model.")
