"""Numbers about models before they are merged: norms of task vectors, and the weight each expert would have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from merging.checkpoint import Checkpoint
from merging.errors import MergeStopped
from merging.factored import obstacle, updates, with_factors
from merging.groups import TILE, Group
from merging.lazy import torch
from merging.plan import Plan, plan
from merging.vectors import squared_norms

if TYPE_CHECKING:
    from torch import Tensor

PROBE = 1 << 24  # numbers kept in memory to try settings on; a model with no more is kept whole
QUICK = 1 << 19  # numbers that a setting is tried on while a slider moves


@dataclass(frozen=True)
class Probe:
    """Entries of every tensor, drawn evenly, of the experts that have it: settings can be tried on them at once."""

    groups: tuple[Group, ...]
    share: float  # of the model's entries; 1 when they are all there

    @property
    def exact(self) -> bool:
        return self.share == 1


@dataclass(frozen=True)
class Comparison:
    """Every merged tensor of the experts against the base, as one pass over the weights sees it.

    Numbers of a tensor are NaN for an expert that lacks it, and where a weight is not finite.
    """

    base: str
    experts: tuple[str, ...]
    names: tuple[str, ...]  # of the tensors, in the order of the layers
    shapes: tuple[tuple[int, ...], ...]
    has: Tensor  # (tensors, experts), whether the expert has the tensor
    base_norms: Tensor  # (tensors), Frobenius norms, float64
    norms: Tensor  # (tensors, experts), of the task vectors
    squares: Tensor  # (tensors, experts, 3), of these norms and of those of adapters' factors: see `vectors.squares`
    factored: Tensor  # (tensors), whether each expert's task vector is a product of factors, or zero
    obstacles: dict[str, str]  # why adapters' factors cannot be averaged, by FroM's readings that would
    zeros: Tensor  # (tensors, experts), share of entries that did not move at all
    still: Tensor  # (experts), the same share over all tensors that the expert has
    # (experts, experts), between task vectors over the whole model, zero in tensors that are lacking; NaN where one is
    # zero everywhere.
    cosines: Tensor
    probe: Probe
    quick: Probe

    @property
    def relative(self) -> Tensor:
        """The task vectors' norms over those of the base, (tensors, experts); NaN where the base is zero."""
        base = self.base_norms[:, None]
        return torch.where(base > 0, self.norms / base, torch.nan)

    def gaps(self, table: Tensor) -> dict[tuple[int, int], str]:
        """Why a table of tensors and experts has no number, in words, by row and column."""
        return {(row, column): self._gap(row, column) for row, column in table.isnan().nonzero().tolist()}

    def _gap(self, tensor: int, expert: int) -> str:
        if not self.has[tensor, expert]:
            return "does not have this tensor"
        if self.norms[tensor, expert].isnan():
            return "holds NaN or infinity"
        if self.norms[tensor, expert] == 0:
            return "did not move here"
        return "the base is zero here" if self.base_norms[tensor] == 0 else "none of the entries looked at moved"

    def warnings(self) -> list[str]:
        """What looks wrong with the experts, one sentence each."""
        if broken := self._broken(self.base_norms.isnan()):
            return [f"{self.base}: {broken}"]
        found = self._of_pairs()
        squares = torch.where(self.has, self.base_norms.square()[:, None], 0.0).sum(0)
        for index, expert in enumerate(self.experts):
            norm, base = self.norms[:, index].square().nansum().sqrt(), squares[index].sqrt()
            if broken := self._broken(self.has[:, index] & self.norms[:, index].isnan()):
                found.append(f"{expert}: {broken}")
            elif norm == 0:
                found.append(f"{expert} equals the base model: it adds nothing.")
            elif norm > 0.5 * base:
                found.append(f"{expert} is {norm / base:.0%} away from the base: was it fine-tuned from this one?")
        return found

    def _broken(self, marked: Tensor) -> str:
        names = [name for name, mark in zip(self.names, marked.tolist(), strict=True) if mark]
        return f"`{names[0]}` holds NaN or infinity, so this merge will be refused." if names else ""

    def _of_pairs(self) -> list[str]:
        found = []
        for i, j in combinations(range(len(self.experts)), 2):
            pair = f"{self.experts[i]} and {self.experts[j]}"
            if self.cosines[i, j] < -0.99:
                found.append(f"{pair} undo each other: what is left is rounding, and PCB-Merging ranks by it.")
            elif self.cosines[i, j] > 0.9999:
                found.append(f"{pair} moved the same way from the base: one of them adds nothing.")
        return found


def compare(
    base: Checkpoint,
    experts: list[Checkpoint],
    on_step: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> Comparison:
    """Go once over the weights of the base and the experts, which must fit it; MergeStopped when asked to stop."""
    work = plan(base, experts)
    sizes = [work.base.entries[name].size for name in work.merged]
    wanted = PROBE // (1 + len(experts))
    rate = min(1.0, wanted / sum(sizes))
    rows, kept = [], []
    products = torch.zeros(len(experts), len(experts), dtype=torch.float64)
    for done, (name, size) in enumerate(zip(work.merged, sizes, strict=True)):
        if on_step:
            on_step(done, len(sizes))
        picked = torch.arange(size) if rate == 1 else _spread(size, max(64, int(rate * size)))
        row, product, group = _measure(work, name, picked, stop)
        rows.append(row)
        kept.append(group)
        products += product.nan_to_num()
    return _compared(work, torch.stack(rows), products, Probe(tuple(kept), rate))


def _compared(work: Plan, measured: Tensor, products: Tensor, probe: Probe) -> Comparison:
    """The comparison, from a row of measures for each tensor."""
    count = len(work.experts)
    sizes = torch.tensor([work.base.entries[name].size for name in work.merged])
    has = torch.tensor([[index in which for index in range(count)] for which in work.merged.values()])
    lengths = products.diagonal().sqrt()
    squares, zeros = with_factors(work, measured[:, 1 : 1 + count]), measured[:, 1 + count :]
    return Comparison(
        work.base.name,
        tuple(expert.name for expert in work.experts),
        tuple(work.merged),
        tuple(work.base.entries[name].shape for name in work.merged),
        has,
        measured[:, 0].sqrt(),
        squares[..., 0].sqrt(),
        squares,
        torch.tensor([bool(updates(work, name)) for name in work.merged]),
        {reading: words for reading in ("factors", "weights") if (words := obstacle(work, reading))},
        zeros / sizes[:, None],
        zeros.nansum(0) / (has * sizes[:, None]).sum(0),
        products / lengths.outer(lengths),
        probe,
        _thinned(probe, int(sizes.sum()), QUICK // (1 + count)),
    )


def _measure(work: Plan, name: str, picked: Tensor, stop: threading.Event | None) -> tuple[Tensor, Tensor, Group]:
    """Squared norms of base and task vectors and the counts of zeros in one row; products of pairs; picked entries."""
    entry, which, count = work.base.entries[name], list(work.merged[name]), len(work.experts)
    models = [work.base, *(work.experts[index] for index in which)]
    bases, squares = torch.zeros(1, dtype=torch.float64), torch.zeros(len(which), dtype=torch.float64)
    zeros, products = torch.zeros_like(squares), torch.zeros(len(which), len(which), dtype=torch.float64)
    kept = []
    for start in range(0, entry.size, TILE):
        if stop and stop.is_set():
            raise MergeStopped("Stopped.")
        end = min(start + TILE, entry.size)
        rows = torch.stack([model.read(name, start, end).float() for model in models])
        tau = rows[1:] - rows[0]
        bases += rows[0].double().square().sum()
        squares += squared_norms(Group(name, rows[0], rows[1:]))  # added as in a merge: the same to the last digit
        zeros += (tau == 0).sum(1)
        products += tau.double() @ tau.double().T
        kept.append(rows[:, picked[(picked >= start) & (picked < end)] - start])
    everyone = torch.full((2, count), torch.nan, dtype=torch.float64)
    everyone[:, which] = torch.stack([torch.where(squares < torch.inf, squares, torch.nan), zeros])
    of_pairs = torch.zeros(count, count, dtype=torch.float64)
    of_pairs[torch.tensor(which)[:, None], torch.tensor(which)] = products
    base = torch.where(bases < torch.inf, bases, torch.nan)
    group = _group(name, torch.cat(kept, dim=1), tuple(which), len(entry.shape) >= 2)
    return torch.cat([base, everyone.flatten()]), of_pairs, group


def _group(name: str, rows: Tensor, which: tuple[int, ...], matrix: bool) -> Group:
    group = Group(name, rows[0], rows[1:], matrix=matrix)
    group.which = which
    return group


def _spread(size: int, count: int) -> Tensor:
    """Sorted positions, one drawn from each of `count` equal stretches of a tensor of that size."""
    if count >= size:
        return torch.arange(size)
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(count, generator=generator, dtype=torch.float64)
    return ((torch.arange(count) + place) * (size / count)).long().clamp(max=size - 1)


def _thinned(probe: Probe, entries: int, wanted: int) -> Probe:
    if entries * probe.share <= wanted:
        return probe
    rate = wanted / (entries * probe.share)
    groups = []
    for group in probe.groups:
        picked = _spread(len(group.base), max(64, int(rate * len(group.base))))
        rows = torch.cat([group.base[None, picked], group.experts[:, picked]])
        groups.append(_group(group.name, rows, group.which, group.matrix))
    return Probe(tuple(groups), probe.share * rate)
