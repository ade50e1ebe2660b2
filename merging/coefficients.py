"""The weight that each expert would have in each tensor of a merge, before it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from merging.compare import Comparison, Probe
from merging.errors import MergeError
from merging.groups import Group
from merging.lazy import torch
from merging.memory import of_experts, outcomes
from merging.method import Blend, Method
from merging.methods.frobenius import lengths, lengths_of
from merging.vectors import norms

if TYPE_CHECKING:
    from torch import Tensor

CACHED = 1 << 17  # entries that a setting is tried on at a time; twice as fast as all of them at once


def coefficients(method: Method, values: dict[str, Any], comparison: Comparison, probe: Probe) -> Tensor:
    """The weight with which each expert's tensor would enter the merge, (tensors, experts).

    For methods with one number per expert and tensor it is that number. For entrywise ones it is the effective weight
    sum(s |tau|) / sum(|tau|) over the probe's entries, s being the factor with which an entry enters the merge.
    NaN where a tensor of the expert is lacking, did not move, or is not finite. `values` are by argument name, with
    the weights.
    """
    values = method.filled(values, len(comparison.experts))
    if words := comparison.obstacles.get(values.get("lora", "")):
        raise MergeError(words)
    if not method.entrywise:
        return _exact(method, values, comparison)
    table = torch.full(comparison.norms.shape, torch.nan, dtype=torch.float64)
    broken = (comparison.has & comparison.norms.isnan()).any(1)
    finite = [index for index, mark in enumerate(broken.tolist()) if not mark]
    if comparison.has[finite].any(0).all():  # else there is an expert of which nothing is finite, and no merge
        finite.sort(key=lambda index: probe.groups[index].which)  # those of the same experts beside each other
        table[finite] = _effective(method, values, [probe.groups[index] for index in finite], len(comparison.experts))
    return table


def _exact(method: Method, values: dict[str, Any], comparison: Comparison) -> Tensor:
    """The coefficients from the norms, which are known exactly, of each tensor or of the whole model."""
    assert method.survey in (None, norms, lengths), "the screen knows no other statistics of a tensor yet"
    table = torch.full(comparison.norms.shape, torch.nan, dtype=torch.float64)
    whole = comparison.squares.nansum(0)
    for index, (row, own, has) in enumerate(zip(table, comparison.squares, comparison.has, strict=True)):
        which = has.nonzero().flatten()
        nothing = Group("", torch.zeros(0), torch.zeros(len(which), 0), matrix=len(comparison.shapes[index]) >= 2)
        nothing.factored = bool(comparison.factored[index])
        squares = (own if values.get("scope") == "tensor" else whole)[which]
        survey = _surveyed(method, squares, values)
        known = of_experts(method, values, which.tolist())
        row[which] = method.outcome(nothing, survey, known).values.double()  # type: ignore[union-attr]
    return torch.where(comparison.norms.isnan(), torch.nan, table)


def _surveyed(method: Method, squares: Tensor, values: dict[str, Any]) -> Tensor | None:
    """What the method's survey would say of squared norms, (experts, 3)."""
    if method.survey is lengths:
        return lengths_of(squares, values["scope"], values["lora"])
    return squares[:, 0].sqrt() if method.survey else None


def _effective(method: Method, values: dict[str, Any], groups: list[Group], experts: int) -> Tensor:
    """The effective weights over all entries of the groups, (groups, experts)."""
    lengths = torch.tensor([group.size for group in groups])
    owner = torch.arange(len(groups)).repeat_interleave(lengths)  # which group an entry belongs to
    apart = values.get("scope") == "tensor"
    model = {group.name: _cut(group) for group in groups} if apart else _joined(groups)
    moved = torch.zeros(len(groups), experts, dtype=torch.float64)
    sizes = torch.zeros_like(moved)
    at = 0
    for group, outcome in outcomes(method, values, model):
        assert isinstance(outcome, Blend)
        tau, here = group.tau, owner[at : at + group.size]
        for table, entries in ((moved, outcome.shares() * tau.sign()), (sizes, tau.abs())):
            some = torch.zeros(len(groups), len(group.which), dtype=torch.float64)
            table[:, list(group.which)] += some.index_add_(0, here, entries.double().T)
        at += group.size
    return torch.where(sizes > 0, moved / sizes, torch.nan)


def _joined(groups: list[Group]) -> dict[str, list[Group]]:
    """One long group for those of the same experts instead of many short ones: the same numbers in less time."""
    alike: dict[tuple[int, ...], list[Group]] = {}
    for group in groups:
        alike.setdefault(group.which, []).append(group)
    joined = {}
    for which, some in alike.items():
        long = Group("", torch.cat([group.base for group in some]), torch.cat([group.experts for group in some], 1))
        long.which = which
        joined[str(which)] = _cut(long)
    return joined


def _cut(group: Group) -> list[Group]:
    return [group.cut(start, min(start + CACHED, group.size)) for start in range(0, group.size, CACHED)]
