"""The inner products of models in one tensor: all that a method needs which goes by lengths and angles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from merging.groups import TILE, Group, Groups
from merging.lazy import torch
from merging.method import ModelCoefficients, TaskCoefficients
from merging.ranking import NotFiniteError
from merging.trace import tell

if TYPE_CHECKING:
    from torch import Tensor


TINY = 1e-8  # the norm below which a tensor has no direction


@dataclass(frozen=True)
class Gram:
    """The inner products of base and task vectors; of zeros and the experts where the base does not enter.

    Those of one tensor, or of several, whose axis is then in front of all that follows.
    """

    products: Tensor  # (..., 1 + experts, 1 + experts), float64

    @cached_property
    def vectors(self) -> Tensor:
        """Of what is merged, (..., experts, experts): the task vectors, or the experts themselves."""
        return self.products[..., 1:, 1:]

    @cached_property
    def norms(self) -> Tensor:
        """The lengths of what is merged, (..., experts)."""
        return self.vectors.diagonal(dim1=-2, dim2=-1).sqrt()

    @cached_property
    def cosine(self) -> Tensor:
        """Of the base and the first expert, (...); 0 where one of them has no direction."""
        norms = self.models.diagonal(dim1=-2, dim2=-1)[..., :2].sqrt()
        return self.models[..., 0, 1] / torch.where(norms > TINY, norms, 1.0).prod(-1)

    @cached_property
    def models(self) -> Tensor:
        """Of the base and the experts, (..., 1 + experts, 1 + experts)."""
        with_base = self.products[..., 0, :].clone()
        with_base[..., 0] = 0  # W_i = W_0 + tau_i, where tau_0 is 0; so <W_i, W_j> is a sum of four products
        moved = self.products.clone()
        moved[..., 0, :] = moved[..., :, 0] = 0
        return self.products[..., :1, :1] + with_base[..., :, None] + with_base[..., None, :] + moved

    def length(self, values: Tensor) -> Tensor:
        """How long the sum of what is merged is, (...), each of it multiplied by a number, (..., experts)."""
        return inner(values, self.vectors, values).clamp(min=0).sqrt()


def gram(groups: Groups) -> Gram:
    """The inner products in one tensor, accumulated in float64; always added in the same order."""
    found = groups.sum(products)
    if not found.isfinite().all():
        raise NotFiniteError
    return Gram(found)


def inner(one: Tensor, products: Tensor, other: Tensor) -> Tensor:
    """The inner product of two sums of vectors, (...), by what multiplies each, (..., n), and their own products."""
    return ((one[..., None, :] @ products)[..., 0, :] * other).sum(-1)


def products(group: Group) -> Tensor:
    """The inner products of base and task vectors, (1 + experts, 1 + experts), float64."""
    if group.fused:
        from merging.kernels import gram as kernel

        return torch.from_numpy(kernel.products(group.bits, group.based))
    vectors = group.vectors.reshape(-1, group.size).cpu().double()  # not every device has float64
    base = group.base.reshape(1, -1).cpu().double() if group.based else torch.zeros_like(vectors[:1])
    rows = torch.cat([base, vectors])
    return rows @ rows.T


def by_lines(step: Callable[[Tensor, Tensor], Tensor], vectors: Tensor, axis: int = -1) -> Tensor:
    """What a step makes of each line along an axis, (vectors, *shape) to (*shape); a number is a line of one.

    It is handed some lines, (lines, vectors, entries), with the inner products in each, (lines, vectors, vectors) in
    float64, and gives (lines, entries).
    """
    turned = (vectors[:, None] if vectors.ndim == 1 else vectors).movedim(axis if axis < 0 else axis + 1, -1)
    lines = turned.reshape(len(vectors), -1, turned.shape[-1]).transpose(0, 1)
    merged, count = vectors.new_empty(lines.shape[0], lines.shape[2]), -(-TILE // lines.shape[2])  # at once
    for some, out in zip(lines.split(count), merged.split(count), strict=True):
        lifted = some.cpu().double()  # not every device has float64
        out.copy_(step(some, lifted @ lifted.transpose(1, 2)))
    return merged.reshape(turned.shape[1:]).movedim(-1, axis).reshape(vectors.shape[1:])


def along(values: Tensor, vectors: Tensor, axis: int = -1) -> Tensor:
    """Values of the lines along an axis, (..., lines), at each of their entries, (..., *shape); nothing is copied."""
    turned = (vectors[:, None] if vectors.ndim == 1 else vectors).movedim(axis if axis < 0 else axis + 1, -1)
    lead = values.shape[:-1]
    placed = values.reshape((*lead, *turned.shape[1:-1], 1)).expand((*lead, *turned.shape[1:]))
    return placed.movedim(-1, axis if axis < 0 else len(lead) + axis).reshape((*lead, *vectors.shape[1:]))


def arc(cosine: Tensor, t: Tensor | float, straight: Tensor) -> tuple[Tensor, Tensor]:
    """What multiplies the ends of an arc, by the cosine of its angle, at place t; of a straight line where told."""
    angle = cosine.acos()
    sine = torch.where(straight, 1.0, angle.sin())
    one, other = ((1 - t) * angle).sin() / sine, (t * angle).sin() / sine
    return torch.where(straight, 1 - t, one), torch.where(straight, t, other)


def coefficients(values: Tensor, based: bool) -> TaskCoefficients | ModelCoefficients:
    """What multiplies the task vectors, or the experts where the base does not enter."""
    tell("coefficients", values, "expert")
    return TaskCoefficients(values.float()) if based else ModelCoefficients(values.float())
