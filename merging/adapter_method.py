"""What a method of adapters alone is: a function from the factors of all adapters to those of one, matrix by matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from merging.crew import Crew
from merging.groups import Group, Groups
from merging.lazy import torch
from merging.lora import Update
from merging.low_rank import Factors
from merging.method import ADAPTERS, Method, accepted, params_of
from merging.ranking import NotFiniteError

if TYPE_CHECKING:
    from torch import Tensor

    Combined = Factors | Tensor  # what is still to be parted is a matrix


class Ranks(NamedTuple):
    """The ranks that a merge may have: the one it has by itself, and the largest of any use, where there are such."""

    own: int | None
    most: int | None


@dataclass(frozen=True)
class Module:
    """One matrix of the base, and what the adapters add to it."""

    name: str
    updates: tuple[Update | None, ...]  # of each adapter; None where it leaves the matrix as it is
    seed: int = 0

    @property
    def which(self) -> list[int]:
        """The numbers of the adapters that change it."""
        return [number for number, update in enumerate(self.updates) if update]

    def parts(self) -> list[Factors]:
        """Their factors, read from the disk: float32, in PEFT's layout and without the scaling."""
        found = [Factors(*(u.factors.tensor(name).float() for name in (u.down, u.up))) for u in self.updates if u]
        if not all(side.isfinite().all() for part in found for side in (part.down, part.up)):
            raise NotFiniteError(self.name)
        return found

    @property
    def scalings(self) -> list[float]:
        """What their products are multiplied by."""
        return [update.scaling for update in self.updates if update]

    @property
    def ranks(self) -> list[int]:
        return [update.rank for update in self.updates if update]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the product, in PEFT's layout."""
        update = next(update for update in self.updates if update)
        return update.factors.entries[update.up].shape[0], update.factors.entries[update.down].shape[1]

    def products(self) -> Tensor:
        """What each of them adds, formed, (experts that change it, rows, columns)."""
        parts = self.parts()
        out = torch.empty(len(parts), *self.shape)
        for scaling, part, product in zip(self.scalings, parts, out, strict=True):
            torch.mm(part.up, part.down, out=product).mul_(scaling)
        return out


@dataclass(frozen=True)
class Modules:
    """The matrices that a survey goes over."""

    modules: list[Module]
    crew: Crew
    watch: Callable[[Module], None] = lambda _: None  # told of every matrix before it is read

    def groups(self, read: Callable[[Module], Group], sizes: Callable[[Module], int]) -> Groups:
        """One group for each of them, read when its turn comes; `sizes` are their entries."""

        pieces = [Piece(module, sizes(module)) for module in self.modules]
        total = [sum(piece.size for piece in pieces)] * len(self.modules[0].updates)
        groups = Groups(pieces, lambda piece: read(piece.module).tiles(), total, self.crew)
        groups.watch = lambda piece: self.watch(piece.module)
        return groups


class Piece(NamedTuple):
    """One matrix of many, and the entries of its group."""

    module: Module
    size: int
    unit: int = 1  # entries that are never parted


def adapter_method(
    *,
    name: str,
    title: str,
    paper: str,
    formula: str,
    where: str = "",
    use: str,
    differs: str = "",
    ranks: Callable[..., Ranks],
    survey: Callable[..., Any] | None = None,
    scope: Literal["model", "tensor"] = "model",
    idle: Callable[[dict[str, Any]], Iterable[str]] | None = None,
) -> Callable[[Callable[..., Combined]], Callable[..., Combined]]:
    """Register a function that is given a `module` and gives the merged factors, or a matrix that has no factors yet.

    Its keyword arguments, and its survey's, become parameters as those of other methods do. `ranks` says, by parameters
    and by the `ranks` of the factors and the `widest` of all, which rank the result has; MergeError where it has none.
    `idle` tells of the values of a recipe, by key, that change nothing beside the others.
    """

    def register(function: Callable[..., Combined]) -> Callable[..., Combined]:
        params = params_of(function, survey, scope)
        told = (name, title, paper, formula, where, use, differs)
        ADAPTERS[name] = Method(*told, function, survey, None, params, ranks=ranks, idle=idle)  # type: ignore[arg-type]
        return function

    return register


def ranks_of(method: Method, values: dict[str, Any], ranks: list[int], widest: int) -> Ranks:
    """Which ranks a merge of factors of these ranks may have, by a method of adapters and its values."""
    assert method.ranks
    found: Ranks = method.ranks(**accepted(method.ranks, {**values, "ranks": ranks, "widest": widest}))
    return found


def combined(method: Method, module: Module, survey: Any, values: dict[str, Any]) -> Combined:
    """What a method of adapters makes of a matrix."""
    found: Combined = method.function(**accepted(method.function, {**values, "module": module, "survey": survey}))  # type: ignore[assignment]
    return found
