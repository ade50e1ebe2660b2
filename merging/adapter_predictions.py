"""What a merge of adapters into one adapter will do, before it is made."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from merging.compare import Comparison
from merging.lazy import torch
from merging.method import METHODS
from merging.predictions import Prediction
from merging.predictor import Predictor
from merging.rules import Rule, Rules
from merging.settings import Settings
from merging.statistics.pairs import Pairs
from merging.statistics.probe import Probe

if TYPE_CHECKING:
    from torch import Tensor

SUMS = ("cat", "svd")  # PEFT's combination types that add up what the adapters do
MIXED = "mixed with the other adapters, without a number of its own"
TENSORS = ("has", "base_norms", "norms", "products", "squares", "factored", "zeros")  # tables by tensor
MORE = ("means", "kurtosis", "energy", "read")  # which may be empty


def of_tensors(comparison: Comparison, names: Collection[str]) -> Comparison:
    """The same of these tensors alone: a merge into an adapter looks at no others than those that adapters change.

    What is said of the whole model stays as it is: `still`, `cosines`, `energies`, and where `trimmed` trims.
    """
    rows = [row for row, name in enumerate(comparison.names) if name in names]

    def some(table: Tensor) -> Tensor:
        return table[rows] if len(table) else table

    def entries(probe: Probe) -> Probe:
        groups = tuple(probe.groups[row] for row in rows if probe.groups)
        whole = sum(math.prod(comparison.shapes[row]) for row in rows)
        there = sum(group.size for group in groups)
        return Probe(groups, probe.share if probe.exact or not whole else there / whole)

    def common(pairs: Pairs) -> Pairs:
        return Pairs(some(pairs.products), some(pairs.both), some(pairs.conflicts))

    told: dict[str, Any] = {key: some(getattr(comparison, key)) for key in (*TENSORS, *MORE)}
    told |= {key: entries(getattr(comparison, key)) for key in ("probe", "rows")}
    told |= {key: tuple(getattr(comparison, key)[row] for row in rows) for key in ("names", "shapes")}
    trimmed = {density: common(pairs) for density, pairs in comparison.trimmed.items()}
    return replace(comparison, **told, pairs=common(comparison.pairs), trimmed=trimmed)


def predict_adapter(predictor: Predictor, settings: Settings, quick: bool = False) -> Prediction:
    """What a merge into one adapter will do, before any cut to a rank; the predictor is one `of_tensors` it changes.

    A matrix in which a method of adapters alone does more than add them up is not known. What was trained in full is
    added up by every such method. MergeError as from `Predictor.predict`.
    """
    method = settings.method
    if not method.ranks:
        return predictor.predict(settings, quick)
    found = predictor.predict(as_sum(settings), quick)
    if _adds(settings.fixed, len(settings.experts)):
        return replace(found, label=method.title)
    mixed = predictor.comparison.factored
    return replace(
        found,
        label=method.title,
        weights=found.weights.masked_fill(mixed[:, None], torch.nan),
        kept=found.kept.masked_fill(mixed[:, None], torch.nan),
        decided=found.decided.masked_fill(mixed[:, None], torch.nan),
        norms=found.norms.masked_fill(mixed, torch.nan),
        why={**found.why, **dict.fromkeys(mixed.nonzero().flatten().tolist(), MIXED)},
    )


def as_sum(settings: Settings) -> Settings:
    """The settings by which what was trained in full is added up, which every method of adapters alone does."""
    plain = METHODS["task_arithmetic"]
    rules: dict[str, tuple[Rules, ...]] = {name: _constant(param.default) for name, param in plain.params.items()}
    rules["scaling"] = _constant(1.0)
    rules |= {name: given for name, given in settings.rules.items() if name in rules}
    return replace(settings, method=plain, rules=rules)


def _constant(value: Any) -> tuple[Rules, ...]:
    return ((Rule("", (value,)),),)


def _adds(values: dict[str, Any], adapters: int) -> bool:
    """Whether what the adapters do is added up. PEFT's combinations always scale one adapter alone."""
    kind = values.get("combination_type")
    return values.get("merger") == "task_arithmetic" or kind in SUMS or bool(kind and adapters == 1)
