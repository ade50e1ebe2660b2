"""KnOTS: Model Merging with SVD to Tie the Knots (Stoica et al., 2024), for LoRA adapters, with a choice behind it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from merging.adapter_method import Module, Modules, Ranks, adapter_method
from merging.errors import MergeError
from merging.groups import Group, of_some
from merging.lazy import torch
from merging.low_rank import Factors
from merging.method import METHODS, FactorCoefficients
from merging.methods.ties import Merge, Sign
from merging.params import Param, Scaling, Weight
from merging.ranking import NotFiniteError
from merging.trace import elsewhere, tell
from merging.writer import writer

if TYPE_CHECKING:
    from torch import Tensor

Merger = Annotated[
    Literal["ties", "dare_ties", "dare_linear", "task_arithmetic"],
    Param(
        "Merger",
        "The method that merges in the common basis. What task_arithmetic adds up there is the same in any basis.",
    ),
]
Density = Annotated[  # one number per expert
    Any,
    Param(
        "Density ρ",
        "Share of entries that ties keeps, the largest first, or dare, by chance.",
        low=0.01,
        by_expert=True,
    ),
]
BASIS = " in the common basis"  # how the labels of steps end that are of no entries of the matrix
LEAST = 1e-5  # a singular value below is none, as in the authors' code


def survey(
    modules: Modules, weight: Tensor, *, merger: Merger = "ties", density: Density = 1.0, sign: Sign = "mass"
) -> Any:
    """What the merger must know of the aligned updates of all matrices."""

    def read(module: Module) -> Group:
        return _group(module, aligned(module)[1], weight)

    groups = modules.groups(read, lambda module: sum(module.ranks) * module.shape[1])
    method = METHODS[merger]
    return method.look(groups, method.filled({"density": density, "sign": sign}, len(weight)))


def ranks(ranks: list[int], widest: int, merger: str, merge: str) -> Ranks:
    """The sum of all ranks: the merge stays in the space that the updates span."""
    rule = METHODS[merger].params.get("merge")
    if rule and merge not in rule.choices:
        known = " or ".join(f"`{choice}`" for choice in rule.choices)
        raise MergeError(
            f"`merge: {merge}` is none of {METHODS[merger].title}'s rules. Choose {known}, or another `merger`."
        )
    return Ranks(sum(ranks), sum(ranks))


def idle(values: dict[str, Any]) -> Iterator[str]:
    """A sentence for each parameter that the merger does not take."""
    merger = values.get("merger", "ties")
    if not isinstance(merger, str) or merger == "ties":
        return
    taken = METHODS[merger].params.keys() - {"scope"}  # which is of the merger's survey, and only ties has one here
    for key in ("density", "sign", "merge", "scope"):
        if key in values and key not in taken:
            yield f"`{key}` has no effect with `merger: {merger}`, so it is ignored."


@adapter_method(
    name="knots",
    title="KnOTS",
    paper="https://arxiv.org/abs/2410.19735",
    formula=r"[\tau_1|\dots|\tau_n] = U\,\Sigma\,[V_1^\top|\dots|V_n^\top], \qquad "
    r"W = W_0 + \lambda\, U \operatorname{merge}(\Sigma V_1^\top, \dots, \Sigma V_n^\top)",
    where=r"The updates of all adapters stand side by side. $U$ is their common basis, $\Sigma$ holds the singular "
    r"values, and $\Sigma V_i^\top$ is the update of adapter $i$ in that basis, which `merger` takes as its task "
    "vector, with the weight $w_i$.",
    use="for adapters that were trained apart and are to be merged by the rules of TIES or DARE. Plain addition is the "
    "same in any basis, and often hard to beat.",
    differs="The part of an adapter that leaves a matrix as it is stays zero, where an SVD of all leaves rounding that "
    "would vote.",
    ranks=ranks,
    survey=survey,
    idle=idle,
)
def knots(
    module: Module,
    survey: Any,
    *,
    merger: Merger = "ties",
    scaling: Scaling = 0.5,
    sign: Sign = "mass",
    merge: Merge = "mean",
    weight: Weight,
) -> Factors:
    """Turns the adapters' updates of each matrix into one common basis, and merges them there by TIES or DARE.

    Adapters that were trained apart use directions of their own; in a common basis their entries can be compared.
    """
    basis, parts = aligned(module)
    group, method = _group(module, parts, weight), METHODS[merger]
    given = {"scaling": scaling, "sign": sign, "merge": merge, "weight": weight}
    values = method.filled({name: told for name, told in given.items() if name in method.params}, len(weight))
    with elsewhere(partial(_strongest, basis, parts), BASIS) as heard:
        if heard:  # of what the kernels below do in tiles
            tell("aligned updates", parts)
            outcome = method.outcome(group, of_some(survey, group.which), values | {"weight": group.weight})
            assert not isinstance(outcome, FactorCoefficients)
            outcome.merged(group)
    write, out = writer(method, survey, values, group), np.empty(group.size, np.uint32)
    for tile in group.tiles():
        if not write(tile, out[tile.start : tile.start + tile.size]):
            raise NotFiniteError(module.name)
    return Factors(torch.from_numpy(out.view(np.float32)).reshape(-1, module.shape[1]), basis.float())


def aligned(module: Module) -> tuple[Tensor, Tensor]:
    """U, (rows, rank), and each adapter's update in it, (adapters, rank, columns), in float64.

    U has the left singular vectors of the updates side by side. They follow from thin QR decompositions of the factors:
    no update is formed. The rank is the sum of the factors' ranks, with zeros where singular values are none. Differs:
    the part of an adapter that leaves the matrix as it is is zero, where an SVD of all has rounding, which would vote.
    """
    ups, downs, sizes = [], [], []
    for scaling, part in zip(module.scalings, module.parts(), strict=True):
        right, outer = torch.linalg.qr(part.down.double().T)  # A^T = right outer
        ups.append(scaling * part.up.double() @ outer.T)
        downs.append(right.T)
        sizes.append(outer.shape[0])
    left, values, right = torch.linalg.svd(torch.cat(ups, dim=1), full_matrices=False)
    tell("singular values of the updates side by side", values, "direction")
    rank, rows = sum(module.ranks), module.shape[0]
    basis = torch.zeros(rows, rank, dtype=torch.float64)
    parts = torch.zeros(len(module.updates), rank, module.shape[1], dtype=torch.float64)
    count = int((values > LEAST).sum())
    basis[:, :count] = left[:, :count]
    turned = (values[:count, None] * right[:count]).split(sizes, dim=1)
    for number, own, down in zip(module.which, turned, downs, strict=True):
        parts[number, :count] = own @ down
    return basis, parts


def _strongest(basis: Tensor, parts: Tensor, entries: Tensor) -> Tensor:
    """For entries of the matrix, the entries of the aligned updates that go into them most, both laid flat."""
    columns = parts.shape[2]
    row, column = entries // columns, entries % columns
    into = basis[row].abs() * parts[:, :, column].abs().amax(0).T  # (entries, rank)
    return into.argmax(1) * columns + column


def _group(module: Module, parts: Tensor, weight: Tensor) -> Group:
    """The aligned updates as task vectors."""
    flat = parts.float().reshape(len(parts), -1)
    group = Group(module.name, torch.zeros(flat.shape[1]), flat).weighed(weight)
    group.seed = module.seed
    return group
