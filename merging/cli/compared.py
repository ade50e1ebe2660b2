"""`inspect BASE EXPERT ...`: how far experts went from their base, and what each two of them have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from merging.adapter import open_base, open_expert
from merging.checkpoint import told_apart
from merging.cli.progress import progress, stoppable
from merging.compare import Comparison, compare
from merging.engine import Step
from merging.statistics.magnitudes import DENSITIES
from merging.statistics.pairs import Pairs

ENERGY = DENSITIES[8], DENSITIES[16]  # shares of entries whose energy is printed: 1 in 16, and 1 in 4
Shared = dict[str, list[list[list[float]]]]  # by tensor and pair of experts


def looked_at(base: Path, experts: Sequence[Path]) -> Comparison:
    """The comparison of these models, with a bar while they are read."""
    first = open_base(base)
    models = told_apart([first, *(open_expert(path, first) for path in experts)])
    with stoppable() as stop, progress(quiet=False) as tell:

        def step(done: int, total: int) -> None:
            if tell:
                tell(Step(0, 0, "", done, total, "Reading"))

        return compare(models[0], models[1:], step, stop, cached=True)


def content(found: Comparison) -> dict[str, Any]:
    """All of it, fit for JSON; what has no number is null. The pairs of a tensor are in the order of all `pairs`."""
    pairs = list(combinations(range(len(found.experts)), 2))
    whole = _shared(found.pairs.of()), {density: _shared(left.of()) for density, left in found.trimmed.items()}
    each = _shared(found.pairs), {density: _shared(left) for density, left in found.trimmed.items()}
    return {
        "base": found.base,
        "experts": [_expert(found, index) for index in range(len(found.experts))],
        "pairs": [{"experts": [found.experts[at] for at in pair], **_pair(whole, 0, *pair)} for pair in pairs],
        "tensors": [
            {**_tensor(found, row), "pairs": [_pair(each, row, *pair) for pair in pairs]}
            for row in range(len(found.names))
        ],
        "warnings": found.warnings(),
    }


def told(found: Comparison) -> list[str]:
    """The same for people: a line for each expert and each pair, and warnings."""
    known = content(found)
    heads = ["", "‖τ‖", "‖τ‖ / ‖W₀‖", "unmoved", *(f"energy of 1 in {round(1 / share)}" for share in ENERGY)]
    rows = [
        [one["name"], _number(one["norm"], "{:.4g}"), _number(one["relative"]), _number(one["unmoved"]),
         *(_number(share) for share in one["energy"].values())]
        for one in known["experts"]
    ]  # fmt: skip
    lines = [f"{found.base} and {len(rows)} of its experts, {len(found.names)} tensors", *_table([heads, *rows])]
    if known["pairs"]:
        densities = list(found.trimmed)
        heads = ["", "cosine", "signs differ", *(f"at density {density:g}" for density in densities)]
        rows = [
            [" and ".join(one["experts"]), _number(one["cosine"], "{:.3f}"), _number(one["conflict"]),
             *(_number(one["trimmed"][f"{density:g}"]["conflict"]) for density in densities)]
            for one in known["pairs"]
        ]  # fmt: skip
        lines += ["", *_table([heads, *rows])]
    return [*lines, *(f"Warning: {words}" for words in known["warnings"])]


def _expert(found: Comparison, index: int) -> dict[str, Any]:
    norm = found.norms[:, index].square().nansum().sqrt()
    base = found.base_norms[found.has[:, index]].square().nansum().sqrt()
    shares = {f"{share:g}": _plain(found.energies[index, DENSITIES.index(share)]) for share in ENERGY}
    return {
        "name": found.experts[index],
        "norm": _plain(norm),
        "relative": _plain(norm / base),
        "unmoved": _plain(found.still[index]),
        "energy": shares,
    }


def _shared(pairs: Pairs) -> Shared:
    return {"cosine": pairs.cosines.tolist(), "conflict": pairs.rates.tolist()}


def _pair(known: tuple[Shared, dict[float, Shared]], row: int, one: int, other: int) -> dict[str, Any]:
    """What two experts have in common in a tensor, before trimming and by the density that they are trimmed to."""

    def told(shared: Shared) -> dict[str, float | None]:
        return {name: _plain(table[row][one][other]) for name, table in shared.items()}

    whole, trimmed = known
    return {**told(whole), "trimmed": {f"{density:g}": told(shared) for density, shared in trimmed.items()}}


def _tensor(found: Comparison, row: int) -> dict[str, Any]:
    tables = {
        "norm": found.norms,
        "relative": found.relative,
        "unmoved": found.zeros,
        "mean": found.means,
        "kurtosis": found.kurtosis,
    }
    return {"name": found.names[row], "base_norm": _plain(found.base_norms[row])} | {
        name: [_plain(value) for value in table[row]] for name, table in tables.items()
    }


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _number(value: float | None, form: str = "{:.2%}") -> str:
    return "–" if value is None else form.format(value)


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs)
        ).rstrip()
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
