"""Trace points: a method's torch code tells its steps, and nothing happens unless somebody listens.

Kernels and surveys tell nothing. Who listens gets a few entries of each step, so that no step is kept whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Per = Literal["expert and entry", "entry", "expert", "tensor", "expert and direction", "direction"]
DIRECTIONS = 256  # singular values that are kept of a matrix at most, the largest

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@dataclass(frozen=True)
class Told:
    """One step of a method, in numbers of float64.

    Their shape follows from `per`: (experts, entries), (entries), (experts), (), (experts, directions), (directions).
    """

    label: str
    per: Per
    values: Tensor


def tell(
    label: str,
    values: Tensor | float | Callable[[], Tensor],
    per: Literal["expert and entry", "entry", "expert", "tensor", "direction"] = "expert and entry",
    expert: int | None = None,
) -> None:
    """A step that a method has come to; nothing where nobody listens.

    `values` are (experts, *shape), (*shape), (experts), () or (directions) by `per`, or what makes them, so that what
    only a listener wants is not made for nobody. A step that one `expert` after the other comes to, counted from 0,
    is told once for each of them, without the axis of the experts.
    """
    if listener := _listener.get():
        listener.hear(label, values() if callable(values) else values, per, expert)


class Listener:
    """Hears the steps of one tensor, or of a run of its entries, and keeps those at some entries."""

    def __init__(self, entries: Tensor, experts: int) -> None:
        self.entries, self.experts = entries, experts  # places in what is told, laid flat
        self.where = ""  # what the labels end with, where that is told of other entries in the place of these
        self.told: dict[str, Told] = {}

    def hear(self, label: str, values: Any, per: Per, expert: int | None) -> None:
        """Keep some of a step; of one expert it is put beside those of the others, which are 0 until they are told."""
        label += self.where
        numbers = torch.as_tensor(values).detach()
        kept = self._picked(numbers, per).to("cpu", torch.float64) + 0.0  # a copy, without negative zeros
        if expert is None:
            self.told[label] = Told(label, per, kept)
            return
        of_all: dict[Per, Per] = {"entry": "expert and entry", "tensor": "expert", "direction": "expert and direction"}
        before = self.told[label].values if label in self.told else kept.new_zeros(self.experts, *kept.shape)
        if per == "direction":  # not all matrices have as many
            wanted = max(before.shape[1], len(kept))
            before, kept = (torch.nn.functional.pad(part, (0, wanted - part.shape[-1])) for part in (before, kept))
        before[expert] = kept
        self.told[label] = Told(label, of_all[per], before)

    def _picked(self, values: Tensor, per: Per) -> Tensor:
        if per == "direction":
            return values[:DIRECTIONS]
        if per == "expert and entry":
            return _at(values if values.ndim > 1 else values[:, None], self.entries, 1)
        return _at(values if values.ndim else values[None], self.entries, 0) if per == "entry" else values


def _at(values: Tensor, entries: Tensor, first: int) -> Tensor:
    """The entries at these places of the axes from `first` on, laid flat; what is expanded is not copied."""
    places = torch.unravel_index(entries.to(values.device), values.shape[first:])
    return values[(slice(None),) * first + tuple(places)]


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Within, the steps of this thread's work are told to the listener, or to nobody."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def elsewhere(places: Callable[[Tensor], Tensor], where: str) -> Iterator[bool]:
    """Within, what is told has other entries: each that is listened to has one of them in its place, as `places` says.

    Gives whether anybody listens; labels end with `where`.
    """
    listener = _listener.get()
    if not listener:
        yield False
        return
    before = listener.entries
    listener.entries, listener.where = places(before), where
    try:
        yield True
    finally:
        listener.entries, listener.where = before, ""
