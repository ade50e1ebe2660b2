"""Parts of a model that are changed together: a tensor, a layer, a module in all layers, or what does one kind of work.

Names are those of the tensors that are merged, in any order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from merging.errors import MergeError
from merging.params import nearest
from merging.places import LAYER, place

NORM = re.compile(r"norm|(?:^|[._])ln(?:[._\d]|$)", re.IGNORECASE)
ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
MLP = re.compile(
    r"mlp|ffn|feed_?forward|moe|expert|intermediate|densereludense|(?:^|\.)(?:fc\d|output\.dense)", re.IGNORECASE
)
HEAD = re.compile(r"head|embed_out|(?:^|\.)(?:classifier|score)\b", re.IGNORECASE)
EMBEDDING = re.compile(r"embed|shared|wte|wpe", re.IGNORECASE)
THIRDS = ("first third", "middle third", "last third")  # of the layers
GROUPS = ("attention", "mlp", "norms", "embeddings", "head", *THIRDS)

WORDS = {"mlp": "MLP"}


@dataclass(frozen=True)
class Part:
    """A part of a model: its tensors, its layers as a heatmap's rows are called, its modules as the columns are."""

    kind: Literal["model", "group", "layer", "module", "tensor"] = "model"
    name: str = ""  # of a layer `3` or `encoder 3`, empty for what is outside; as `Place` has them; or of a tensor
    others: bool = False  # not this part, but all the rest

    def of(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the names that are in it, in their order."""
        names = tuple(names)
        if self.kind == "model":
            inside = frozenset(names)
        elif self.kind == "group":
            inside = _of_group(self.name, names)
        elif self.kind == "layer":
            inside = frozenset(name for name in names if place(name).row == self.name)
        elif self.kind == "module":
            inside = frozenset(name for name in names if place(name).module == self.name)
        else:
            inside = frozenset({self.name})
        return tuple(name for name in names if (name in inside) != self.others)

    @property
    def words(self) -> str:
        """What it is called in a list of changes."""
        known = {
            "model": "the whole model",
            "group": WORDS.get(self.name, self.name),
            "layer": f"layer {self.name}" if self.name else "outside the layers",
            "module": self.name,
            "tensor": self.name,
        }
        return f"all but {known[self.kind]}" if self.others else known[self.kind]


def groups(names: Iterable[str]) -> tuple[str, ...]:
    """The names of the groups that the model has tensors of."""
    names = tuple(names)
    return tuple(group for group in GROUPS if _of_group(group, names))


def _of_group(group: str, names: tuple[str, ...]) -> frozenset[str]:
    if group not in GROUPS:
        raise MergeError(f"There is no group `{group}` of tensors. {nearest(group, list(GROUPS))}")
    if group not in THIRDS:
        return frozenset(name for name in names if work(name) == group)
    counts: dict[str, int] = {}  # layers by tower
    for at in map(place, names):
        if at.layer is not None:
            counts[at.tower] = max(counts.get(at.tower, 0), at.layer + 1)
    return frozenset(name for name in names if group in _thirds(name, counts))


def _thirds(name: str, counts: dict[str, int]) -> tuple[str, ...]:
    """The thirds that a tensor is in: none outside the layers, and both ends in the layer of a model of one."""
    at = place(name)
    if at.layer is None:
        return ()
    count = counts[at.tower]
    end = max(1, round(count / 3))
    first, last = at.layer < end, at.layer >= count - end
    return tuple(third for third, mark in zip(THIRDS, (first, not first and not last, last), strict=True) if mark)


def work(name: str) -> str:
    """What the tensor of that name is for: `attention`, `mlp`, `norms`, `embeddings`, `head`, or empty: something else.

    Norms of the attention are norms, and not attention.
    """
    found = LAYER.match(name)
    module = found["module"] if found else name
    if NORM.search(module):
        return "norms"
    kinds = (("attention", ATTENTION), ("mlp", MLP)) if found else (("head", HEAD), ("embeddings", EMBEDDING))
    return next((kind for kind, words in kinds if words.search(module)), "")
