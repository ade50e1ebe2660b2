"""Numbers about models before they are merged: norms of task vectors, and the weight each expert would have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from merging.checkpoint import Checkpoint
from merging.errors import MergeStopped
from merging.groups import TILE, Group
from merging.lazy import torch
from merging.memory import outcomes
from merging.method import Blend, Method
from merging.plan import plan
from merging.vectors import norms

if TYPE_CHECKING:
    from torch import Tensor

PROBE = 1 << 24  # numbers kept in memory to try settings on; a model with no more is kept whole
QUICK = 1 << 19  # numbers that a setting is tried on while a slider moves
CACHED = 1 << 17  # entries that a setting is tried on at a time; twice as fast as all of them at once


@dataclass(frozen=True)
class Probe:
    """Entries of every tensor, drawn evenly: what a setting does can be tried on them at once."""

    groups: tuple[Group, ...]
    share: float  # of the model's entries; 1 when they are all there

    @property
    def exact(self) -> bool:
        return self.share == 1


@dataclass(frozen=True)
class Comparison:
    """Every merged tensor of the experts against the base, as one pass over the weights sees it."""

    base: str
    experts: tuple[str, ...]
    names: tuple[str, ...]  # of the tensors, in the order of the layers
    shapes: tuple[tuple[int, ...], ...]
    base_norms: Tensor  # (tensors), Frobenius norms, float64; NaN where a weight is not finite
    norms: Tensor  # (tensors, experts), of the task vectors
    zeros: Tensor  # (tensors, experts), share of entries that did not move at all
    still: Tensor  # (experts), the same share over the whole model
    cosines: Tensor  # (experts, experts), between task vectors over the whole model; NaN where one is zero
    probe: Probe
    quick: Probe

    @property
    def relative(self) -> Tensor:
        """The task vectors' norms over those of the base, (tensors, experts); NaN where the base is zero."""
        base = self.base_norms[:, None]
        return torch.where(base > 0, self.norms / base, torch.nan)

    def warnings(self) -> list[str]:
        """What looks wrong with the experts, one sentence each."""
        broken = [name for name, norm in zip(self.names, self.base_norms, strict=True) if norm.isnan()]
        if broken:
            return [f"{self.base}: `{broken[0]}` holds NaN or infinity, so this merge will be refused."]
        found = self._of_pairs()
        total, base = self.norms.square().nansum(0).sqrt(), self.base_norms.square().nansum().sqrt()
        for index, (expert, norm) in enumerate(zip(self.experts, total, strict=True)):
            broken = [name for name, value in zip(self.names, self.norms[:, index], strict=True) if value.isnan()]
            if broken:
                found.append(f"{expert}: `{broken[0]}` holds NaN or infinity, so this merge will be refused.")
            elif norm == 0:
                found.append(f"{expert} equals the base model: it adds nothing.")
            elif norm > 0.5 * base:
                found.append(f"{expert} is {norm / base:.0%} away from the base: was it fine-tuned from this one?")
        return found

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
    base, experts = work.base, list(work.experts)
    sizes = [base.entries[name].size for name in work.merged]
    wanted = PROBE // (1 + len(experts))
    rate = min(1.0, wanted / sum(sizes))
    rows, kept = [], []
    products = torch.zeros(len(experts), len(experts), dtype=torch.float64)
    for done, (name, size) in enumerate(zip(work.merged, sizes, strict=True)):
        if on_step:
            on_step(done, len(sizes))
        picked = torch.arange(size) if rate == 1 else _spread(size, max(64, int(rate * size)))
        row, product, group = _measure(base, experts, name, picked, stop)
        rows.append(row)
        kept.append(group)
        products += product.nan_to_num()
    measured = torch.stack(rows)  # (tensors, 1 + 2 * experts)
    probe = Probe(tuple(kept), rate)
    return Comparison(
        base.name,
        tuple(expert.name for expert in experts),
        tuple(work.merged),
        tuple(base.entries[name].shape for name in work.merged),
        measured[:, 0].sqrt(),
        measured[:, 1 : 1 + len(experts)].sqrt(),
        measured[:, 1 + len(experts) :] / torch.tensor(sizes)[:, None],
        measured[:, 1 + len(experts) :].nansum(0) / sum(sizes),
        products / products.diagonal().sqrt().outer(products.diagonal().sqrt()),
        probe,
        _thinned(probe, sum(sizes), QUICK // (1 + len(experts))),
    )


def _measure(
    base: Checkpoint, experts: list[Checkpoint], name: str, picked: Tensor, stop: threading.Event | None
) -> tuple[Tensor, Tensor, Group]:
    """Squared norms of base and task vectors and the counts of zeros in one row; products of pairs; picked entries."""
    size = base.entries[name].size
    total = torch.zeros(1 + 2 * len(experts), dtype=torch.float64)
    product = torch.zeros(len(experts), len(experts), dtype=torch.float64)
    kept = []
    for start in range(0, size, TILE):
        if stop and stop.is_set():
            raise MergeStopped("Stopped.")
        end = min(start + TILE, size)
        rows = torch.stack([model.read(name, start, end).float() for model in (base, *experts)])
        tau = rows[1:] - rows[0]
        squares = torch.cat([rows[:1], tau]).double().square().sum(1)
        product += tau.double() @ tau.double().T
        total += torch.cat([squares, (tau == 0).sum(1).double()])
        kept.append(rows[:, picked[(picked >= start) & (picked < end)] - start])
    entries = torch.cat(kept, dim=1)
    group = Group(name, entries[0], entries[1:], matrix=len(base.entries[name].shape) >= 2)
    return torch.where(total < torch.inf, total, torch.nan), product, group


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
        groups.append(Group(group.name, group.base[picked], group.experts[:, picked], matrix=group.matrix))
    return Probe(tuple(groups), probe.share * rate)


def coefficients(method: Method, values: dict[str, Any], comparison: Comparison, probe: Probe) -> Tensor:
    """The weight with which each expert's tensor would enter the merge, (tensors, experts).

    For methods with one number per expert and tensor it is that number. For entrywise ones it is the effective weight
    sum(s |tau|) / sum(|tau|) over the probe's entries, s being the factor with which an entry enters the merge.
    NaN where a tensor of the expert did not move, or is not finite. `values` are by argument name, with the weights.
    """
    if not method.entrywise:
        return _exact(method, values, comparison)
    finite = [index for index, row in enumerate(comparison.norms) if not row.isnan().any()]
    table = torch.full(comparison.norms.shape, torch.nan, dtype=torch.float64)
    groups = [probe.groups[index] for index in finite]
    if groups:
        table[finite] = _effective(method, values, groups)
    return table


def _exact(method: Method, values: dict[str, Any], comparison: Comparison) -> Tensor:
    """The coefficients from the norms, which are known exactly, of each tensor or of the whole model."""
    rows = []
    whole = comparison.norms.square().nansum(0).sqrt()
    assert method.survey in (None, norms), "the screen knows no other statistics of a tensor yet"
    for norm, shape in zip(comparison.norms, comparison.shapes, strict=True):
        nothing = Group("", torch.zeros(0), torch.zeros(len(comparison.experts), 0), matrix=len(shape) >= 2)
        survey = norm if values.get("scope") == "tensor" else whole
        rows.append(method.outcome(nothing, survey, values).values.double())  # type: ignore[union-attr]
    table = torch.stack(rows)
    return torch.where(comparison.norms.isnan(), torch.nan, table)


def _effective(method: Method, values: dict[str, Any], groups: list[Group]) -> Tensor:
    """The effective weights over all entries of the groups, (groups, experts)."""
    lengths = torch.tensor([group.size for group in groups])
    owner = torch.arange(len(groups)).repeat_interleave(lengths)  # which group an entry belongs to
    if values.get("scope") == "tensor":
        model = {group.name: _cut(group) for group in groups}
    else:
        # One long group instead of many short ones: the same numbers in less time.
        model = {"": _cut(Group("", torch.cat([g.base for g in groups]), torch.cat([g.experts for g in groups], 1)))}
    moved = torch.zeros(len(groups), len(groups[0].experts), dtype=torch.float64)
    sizes = torch.zeros_like(moved)
    at = 0
    for group, outcome in outcomes(method, values, model):
        assert isinstance(outcome, Blend)
        tau, here = group.tau, owner[at : at + group.size]
        moved.index_add_(0, here, (outcome.shares() * tau.sign()).double().T)
        sizes.index_add_(0, here, tau.abs().double().T)
        at += group.size
    return torch.where(sizes > 0, moved / sizes, torch.nan)


def _cut(group: Group) -> list[Group]:
    return [group.cut(start, min(start + CACHED, group.size)) for start in range(0, group.size, CACHED)]
