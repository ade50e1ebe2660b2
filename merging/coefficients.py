"""The weight that each expert would have in each tensor of a merge, before it is made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from merging.compare import Comparison, Probe
from merging.method import Method
from merging.predictor import predict
from merging.rules import Rule, Rules
from merging.settings import Settings, many

if TYPE_CHECKING:
    from torch import Tensor


def coefficients(method: Method, values: dict[str, Any], comparison: Comparison, probe: Probe) -> Tensor:
    """The weight with which each expert's tensor would enter the merge, (tensors, experts): see `Prediction.weights`.

    `values` are by argument name, with the weights, the same for all tensors; entries are those of the probe.
    """
    filled = method.filled(values, len(comparison.experts))
    rules: dict[str, tuple[Rules, ...]] = {
        name: tuple((Rule("", (one,)),) for one in (_listed(filled[name]) if many(param) else [filled[name]]))
        for name, param in method.params.items()
    }
    settings = Settings(method, comparison.experts, rules, seed=values.get("seed", 0))
    return predict(settings, replace(comparison, probe=probe)).weights


def _listed(numbers: Any) -> list[float]:
    return [float(number) for number in numbers]
