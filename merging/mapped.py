"""One tensor as a method's survey sees it, where torch maps over many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from merging.groups import Group, Groups
from merging.lazy import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Drawn:
    """A generator whose numbers are there already, (experts, entries)."""

    def __init__(self, drawn: Tensor | None) -> None:
        self.drawn = drawn

    def uniforms(self) -> Tensor | None:
        return self.drawn


class Mapped(Group):
    """A tensor of which torch alone knows the numbers, (1 + experts, entries), the base first."""

    def __init__(self, rows: Tensor, row: int, weight: Tensor | None, drawn: Tensor | None) -> None:
        self._fill("", np.broadcast_to(np.uint32(0), tuple(rows.shape)), 0, True, tuple(rows.shape[1:]))
        self.__dict__ |= {"base": rows[0], "experts": rows[1:]}  # in place of what would be made of the bits
        self.axes, self.plain, self.drawn = (row,), True, drawn
        self.weight = torch.ones(len(rows) - 1) if weight is None else weight

    @property
    def generator(self) -> Any:
        return Drawn(self.drawn)

    def alone(self) -> Groups:
        """What a survey of this tensor goes over."""
        return _One(self)


class _One(Groups):
    """A single tensor that is at hand, of which nothing need be added up piece by piece."""

    def __init__(self, group: Mapped) -> None:
        super().__init__([group], lambda piece: [piece], [group.size] * len(group.which))
        self.one = group

    def sum(self, measure: Callable[[Group], Tensor], in_files: Any = None) -> Tensor:
        return measure(self.pieces[0])
