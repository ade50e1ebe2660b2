"""The numbers of a comparison while they are being found: tables by tensor and expert, and two samples of entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from merging.factored import obstacle, updates
from merging.groups import Bits, Group
from merging.lazy import torch
from merging.plan import Plan
from merging.statistics.comparison import Comparison
from merging.statistics.magnitudes import DENSITIES
from merging.statistics.pairs import Pairs
from merging.statistics.probe import Probe, Sampler, sampled

if TYPE_CHECKING:
    from torch import Tensor

TRIMMED = (0.1, 0.2, 0.5)  # densities that pairs are looked at again at


@dataclass
class Tables:
    """What is known so far; each table begins with NaN, or 0 where it counts, and is filled in place."""

    work: Plan
    tables: dict[str, Tensor]
    kept: list[dict[str, Bits]]  # by tensor, bits of float32, (1 + experts that have it, entries): `entries`, `rows`
    rate: float  # of entries that are sampled


def empty(work: Plan, wanted: int) -> Tables:
    """Nothing known yet, with room for a sample of about so many entries of each model."""
    tensors, experts, densities = len(work.merged), len(work.experts), len(TRIMMED)
    pairs, left = (tensors, experts, experts), (tensors, densities, experts, experts)
    shapes: dict[str, tuple[int, ...]] = {
        **{"base_squares": (tensors,), "squares": (tensors, experts, 3)},
        **{"products": (tensors, 1 + experts, 1 + experts), "both": pairs, "conflicts": pairs},
        **{"trimmed_products": left, "trimmed_both": left, "trimmed_conflicts": left},
        **{"still": (tensors, experts), "means": (tensors, experts), "kurtosis": (tensors, experts)},
        **{"energy": (tensors, experts, len(DENSITIES)), "energies": (experts, len(DENSITIES))},
        "thresholds": (experts, densities),
    }
    tables = {name: torch.full(shape, torch.nan, dtype=torch.float64) for name, shape in shapes.items()}
    tables["read"] = torch.zeros(tensors, dtype=torch.bool)
    rate = min(1.0, wanted / sum(work.base.entries[name].size for name in work.merged))
    return Tables(work, tables, [{} for _ in work.merged], rate)


def kinds(rate: float) -> dict[str, bool]:
    """The samples that are taken, and whether they are of whole rows; one where it is of all entries anyway."""
    return {"entries": False} if rate == 1 else {"entries": False, "rows": True}


def samplers(found: Tables, name: str) -> dict[str, Sampler]:
    """What keeps the entries of a tensor that are sampled, one by one and in whole rows."""
    entry, models = found.work.base.entries[name], 1 + len(found.work.merged[name])
    told = entry.size, entry.row, found.rate
    return {kind: Sampler(*told, rows, models) for kind, rows in kinds(found.rate).items()}


def comparison(found: Tables) -> Comparison:
    """What is known, as a comparison."""
    work, tables = found.work, {name: table.clone() for name, table in found.tables.items()}
    count = len(work.experts)
    sizes = torch.tensor([work.base.entries[name].size for name in work.merged])
    has = torch.tensor([[index in which for index in range(count)] for which in work.merged.values()])
    probe, rows = _probe(found, "entries"), _probe(found, "rows" if found.rate < 1 else "entries")
    pairs = Pairs(tables["products"][:, 1:, 1:], tables["both"], tables["conflicts"])
    left = [tables[f"trimmed_{part}"].unbind(1) for part in ("products", "both", "conflicts")]
    return Comparison(
        base=work.base.name,
        experts=tuple(expert.name for expert in work.experts),
        names=tuple(work.merged),
        shapes=tuple(work.base.entries[name].shape for name in work.merged),
        has=has,
        base_norms=tables["base_squares"].sqrt(),
        norms=tables["squares"][..., 0].sqrt(),
        products=tables["products"],
        squares=tables["squares"],
        factored=torch.tensor([bool(updates(work, name)) for name in work.merged]),
        obstacles={reading: words for reading in ("factors", "weights") if (words := obstacle(work, reading))},
        zeros=tables["still"] / sizes[:, None],
        still=tables["still"].nansum(0) / (has * tables["read"][:, None] * sizes[:, None]).sum(0),
        cosines=pairs.of().cosines[0],
        probe=probe,
        rows=rows,
        means=tables["means"],
        kurtosis=tables["kurtosis"],
        energy=tables["energy"],
        energies=tables["energies"],
        pairs=pairs,
        trimmed={density: Pairs(*parts) for density, *parts in zip(TRIMMED, *left, strict=True)},
        thresholds=tables["thresholds"],
        read=tables["read"],
    )


def _probe(found: Tables, kind: str) -> Probe:
    """The sample of the tensors that have been read; groups without an entry for the others."""
    groups, there, whole = list[Group](), 0, 0
    for (name, which), kept in zip(found.work.merged.items(), found.kept, strict=True):
        entry = found.work.base.entries[name]
        bits = kept.get(kind, np.empty((1 + len(which), 0), np.uint32))
        groups.append(sampled(entry, which, bits, kind == "rows"))
        there, whole = there + bits.shape[1], whole + (entry.size if kept else 0)
    return Probe(tuple(groups), there / whole if whole else 0.0)
