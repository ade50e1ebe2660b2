"""What a merge will do, before it is made: tables by tensor, by layer or by module, and how two of them differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from merging.errors import MergeError
from merging.lazy import torch
from merging.places import place

if TYPE_CHECKING:
    from torch import Tensor

TABLES = ("weights", "kept", "decided", "norms", "relative", "against")
DECIDED = ("none", "one", "several")  # experts that enter an entry
MERGE = ("merge",)


@dataclass(frozen=True)
class Prediction:
    """What a merge makes of each tensor, or of several together; NaN where that is not known, or has no meaning.

    An expert enters an entry where it adds something to the base there. What is not in `exact` is estimated from the
    `share` of the model's entries that were looked at.
    """

    label: str  # the method's title
    names: tuple[str, ...]  # of the tensors, or of the layers or modules that they are in
    experts: tuple[str, ...]
    weights: Tensor  # (names, experts), the coefficient, or sum(s |tau|) / sum(|tau|), s being an entry's factor
    kept: Tensor  # (names, experts), share of the entries that the expert moved in which it enters
    decided: Tensor  # (names, 3), share of entries which no expert enters, one alone, or several
    norms: Tensor  # (names), the Frobenius norm of the merge minus the base
    base_norms: Tensor  # (names), of the base
    expert_norms: Tensor  # (names, experts), of the task vectors; 0 where an expert lacks the tensor
    moved: Tensor  # (names, experts), number of entries that the expert moved
    sizes: Tensor  # (names), number of entries
    entrywise: bool  # whether `weights` are effective ones
    share: float
    exact: frozenset[str]  # those of the tables that are
    why: dict[int, str] = field(default_factory=dict)  # why something of a row is not known, in words

    @property
    def relative(self) -> Tensor:
        """‖merged τ‖ over the norm of the base, (names); NaN where the base is zero."""
        return _share(self.norms, self.base_norms)

    @property
    def against(self) -> Tensor:
        """‖merged τ‖ over the mean of the norms of the experts that moved, (names); NaN where none did."""
        return _share(self.norms, _share(self.expert_norms.sum(1), (self.expert_norms > 0).sum(1)))

    @property
    def tables(self) -> dict[str, Tensor]:
        """All tables by name, each (names, columns)."""
        found = {name: getattr(self, name) for name in TABLES}
        return {name: table if table.ndim == 2 else table[:, None] for name, table in found.items()}

    def columns(self, table: str) -> tuple[str, ...]:
        """What the columns of a table are called."""
        return self.experts if table in ("weights", "kept") else DECIDED if table == "decided" else MERGE

    def by_layer(self) -> Prediction:
        """The same for each layer, over all its modules; what is in no layer is left out."""
        return self.grouped(lambda name: place(name).row)

    def total(self) -> Prediction:
        """The same for the whole model."""
        return self.grouped(lambda _: "whole model")

    def grouped(self, label: Callable[[str], str]) -> Prediction:
        """The same for tensors together that have the same label, in the order of the first of each; none where empty.

        Norms add up by their squares, and shares count by entries. The weight of an expert is the mean over its tensors
        by ‖τ‖²: how far the merge would go along its task vector if the others' were at right angles.
        """
        labels = [label(name) for name in self.names]
        heads = [head for head in dict.fromkeys(labels) if head]
        place_of = {head: index for index, head in enumerate(heads)}
        inside = torch.tensor([index for index, head in enumerate(labels) if head], dtype=torch.long)
        where = torch.tensor([place_of[head] for head in labels if head], dtype=torch.long)

        def added(table: Tensor) -> Tensor:
            return table.new_zeros(len(heads), *table.shape[1:]).index_add(0, where, table[inside])

        def averaged(table: Tensor, by: Tensor) -> Tensor:
            return _share(added(torch.where(by > 0, table * by, 0.0)), added(by))

        told = self.weights.isnan() & (self.moved == 0)  # by entries of which none moved: nothing to count
        why = {labels[index]: words for index, words in reversed(self.why.items())}
        return replace(
            self,
            names=tuple(heads),
            weights=averaged(self.weights, torch.where(told, 0.0, self.expert_norms.square())),
            kept=averaged(self.kept, self.moved),
            decided=averaged(self.decided, self.sizes[:, None].expand_as(self.decided)),
            norms=added(self.norms.square()).sqrt(),
            base_norms=added(self.base_norms.square()).sqrt(),
            expert_norms=added(self.expert_norms.square()).sqrt(),
            moved=added(self.moved),
            sizes=added(self.sizes),
            why={index: why[head] for index, head in enumerate(heads) if head in why},
        )


@dataclass(frozen=True)
class Difference:
    """How two predictions for the same models differ: the first one's tables minus the second one's."""

    label: str
    names: tuple[str, ...]
    tables: dict[str, Tensor]  # by name, each (names, columns); NaN where one of both is not known
    columns: dict[str, tuple[str, ...]]
    share: float  # of the entries looked at, where a table is not in `exact`
    exact: frozenset[str]


def difference(one: Prediction, other: Prediction) -> Difference:
    """The first prediction's tables minus the second one's. MergeError where they are not for the same models."""
    if one.names != other.names or one.experts != other.experts:
        raise MergeError("Only two settings for the same models can be compared. Choose the same base and experts.")
    mine, theirs = one.tables, other.tables
    return Difference(
        f"{one.label} − {other.label}" if one.label != other.label else f"{one.label}: A − B",
        one.names,
        {name: mine[name] - theirs[name] for name in mine},
        {name: one.columns(name) for name in mine},
        min(one.share, other.share),
        one.exact & other.exact,
    )


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.nan)


def _mean(table: Tensor, by: Tensor, axis: int) -> Tensor:
    """The mean along an axis, weighted; what has no weight does not count, though it be NaN."""
    return _share(torch.where(by > 0, table * by, 0.0).sum(axis), by.sum(axis))
