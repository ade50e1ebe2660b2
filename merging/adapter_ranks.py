"""Which rank a merge of adapters has in each matrix, by method and recipe; known before any factor is read."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from merging.adapter_method import Ranks, ranks_of
from merging.changes import Changes
from merging.errors import MergeError
from merging.groups import Group, Groups
from merging.lazy import torch
from merging.lora import Update
from merging.low_rank import room_for as decomposing
from merging.memory import merge_groups
from merging.method import FactorCoefficients, Method, ModelCoefficients, Outcome, TaskCoefficients, Whole
from merging.passes import values_of
from merging.settings import Settings, depths

NEAR = 1e-4  # how near two merges of numbers around 1 are that differ by rounding alone


def ranks(changes: Changes, settings: Settings, wanted: int | None) -> dict[str, int]:
    """The rank of each matrix that is merged by factors; MergeError names everything that is in the way."""
    found, problems, depth = dict[str, int](), dict[str, None](), depths(changes.work.merged)
    tried = dict[tuple[str, ...], str]()
    for name in changes.work.merged:
        updates = [update for update in changes.updates(name) if update]
        values = values_of(changes.work, settings, name, depth[name])
        told = tuple(f"{key} {_exactly(value)}" for key, value in values.items())
        if told not in tried:
            tried[told] = _objection(settings.method, values)
        if tried[told]:
            problems[tried[told]] = None
        elif updates:
            try:
                rank = _ranks(settings.method, values, name, [update.rank for update in updates], changes.widest)
                found[name] = _chosen(settings.method, rank, wanted, min(updates[0].shape))
            except MergeError as error:
                problems[str(error)] = None
    if problems:
        raise MergeError("\n".join(problems))
    return found


def _exactly(value: Any) -> Any:
    """A value in the numbers that it has, of which a tensor shows but a few digits."""
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _ranks(method: Method, values: dict[str, Any], name: str, given: list[int], widest: int) -> Ranks:
    if method.ranks:
        return ranks_of(method, values, given, widest)
    match kind(method, values, name):
        case "sum":
            return Ranks(sum(given), sum(given))
        case "average":
            return Ranks(given[0], given[0])
    return Ranks(None, None)


def _chosen(method: Method, ranks: Ranks, wanted: int | None, side: int) -> int:
    """The rank that is asked for, or the merge's own; none is larger than is of any use."""
    if wanted is None and ranks.own is None:
        raise MergeError(f"What {method.title} makes of adapters has no low rank by itself. Say which: `rank: 16`.")
    rank = wanted if wanted is not None else ranks.own
    assert rank is not None
    if ranks.most is not None and rank >= ranks.most:
        return ranks.most
    return min(rank, side)


def kind(method: Method, values: dict[str, Any], name: str) -> Literal["sum", "average", "dense"]:
    """How a method makes one matrix of several products: as their sum, by averages of factors, or as a matrix."""
    outcome = _outcome(method, values, name)
    if isinstance(outcome, FactorCoefficients):
        return "average"
    return "sum" if isinstance(outcome, TaskCoefficients | ModelCoefficients) else "dense"


def _outcome(method: Method, values: dict[str, Any], name: str) -> Outcome:
    """What comes out for a matrix of a few entries in the place of this one."""
    experts = len(values["weight"])
    group = Group(name, torch.zeros(2, 3), torch.arange(6.0 * experts).reshape(experts, 2, 3))
    group = group.cut(0, group.size).weighed(values["weight"])
    group.factored = True
    return method.outcome(group, method.look(Groups.of([group]), values), values)


def _objection(method: Method, values: dict[str, Any]) -> str:
    """What a method has against its values, or an adapter against the method."""
    if method.ranks:
        return ""
    if method.collects:
        return f"{method.title} goes by statistics of whole models, and merges into no adapter. Leave `result` out."
    try:
        merged = [_merged(method, values, start) for start in (torch.zeros(4, 6), torch.arange(24.0).reshape(4, 6) / 4)]
    except MergeError as error:
        return str(error)
    if torch.allclose(merged[0], merged[1], rtol=NEAR, atol=NEAR):
        return ""
    words = f"{method.title} with these values depends on more than what the adapters change"
    return f"{words}, so that no adapter can hold its merge. Leave `result` out."


def _merged(method: Method, values: dict[str, Any], start: Any) -> Any:
    """What a method adds to a base, for task vectors that float32 adds to it without rounding."""
    experts = len(values["weight"])
    generator = torch.Generator().manual_seed(0)
    tau = torch.randint(-512, 512, (experts, 4, 6), generator=generator) / 256
    [(_, merged)] = merge_groups(method, [Group("w.weight", start, start + tau)], **values)
    return merged - start


class Need(NamedTuple):
    """What the merge of a tensor takes."""

    bytes: int  # about, beside what is read in tiles
    formed: bool  # whether the matrix itself is made, to be decomposed


def needs(changes: Changes, settings: Settings) -> dict[str, Need]:
    """What the merge of each tensor takes that adapters change by factors."""
    depth = depths(changes.work.merged)
    return {
        name: _need(changes, settings.method, values_of(changes.work, settings, name, depth[name]), name, updates)
        for name in changes.work.merged
        if (updates := [update for update in changes.updates(name) if update])
    }


def _need(changes: Changes, method: Method, values: dict[str, Any], name: str, updates: list[Update]) -> Need:
    ranks = [update.rank for update in updates]
    (rows, columns), total = updates[0].shape, sum(ranks)
    thin = 40 * total * (rows + columns)  # factors in float32 and float64, and their decompositions
    if method.survey and method.ranks:  # all of them in a common basis
        return Need(thin + 16 * (1 + len(values["weight"])) * total * max(rows, columns), False)
    outcome = None if method.ranks else _outcome(method, values, name)
    if isinstance(outcome, Whole):
        return Need(thin + round(4 * rows * columns * (1 + len(values["weight"]) + outcome.copies)), True)
    if not _formed(method, values, name, ranks, changes.widest):
        return Need(thin, False)
    products = 4 * (2 * len(updates) + 7) * rows * columns if method.ranks else 0  # as they are, and what is kept
    return Need(thin + max(products, 8 * rows * columns + decomposing((rows, columns))), True)


def _formed(method: Method, values: dict[str, Any], name: str, ranks: list[int], widest: int) -> bool:
    if method.ranks:
        return ranks_of(method, values, ranks, widest).most is None
    return kind(method, values, name) == "dense"
