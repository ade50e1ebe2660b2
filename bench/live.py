"""How long the what-if takes while a slider moves: python bench/live.py

Makes comparisons of random models of 24 and of 80 layers, 7 matrices and 2 norms each, or compares the models that are
named: python bench/live.py BASE EXPERT... Every method is then asked for predictions of random settings, one after the
other. Prints tables in Markdown: milliseconds that half and 95 % of these took at most, and the share of the entries
that they were estimated from. `--rules` gives every parameter that may vary a gradient over the layers.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from tables import machine, table

from merging import METHODS
from merging.compare import PROBE, Comparison, Probe, compare
from merging.errors import MergeError
from merging.gram import products
from merging.groups import Group
from merging.method import Method
from merging.params import Param
from merging.predictor import Predictor
from merging.recipe import Recipe

EXPERTS = 3
MATRICES = {
    "self_attn.q_proj": 1.0, "self_attn.k_proj": 0.25, "self_attn.v_proj": 0.25, "self_attn.o_proj": 1.0,
    "mlp.gate_proj": 3.5, "mlp.up_proj": 3.5, "mlp.down_proj": 3.5,
}  # fmt: skip
WIDTH = 4096


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a language model of so many layers."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32000, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        found |= {f"{at}.{module}.weight": (int(size * WIDTH), WIDTH) for module, size in MATRICES.items()}
        found |= {f"{at}.{module}.weight": (WIDTH,) for module in ("input_layernorm", "post_attention_layernorm")}
    return found


def synthetic(layers: int) -> Comparison:
    """A comparison of random models, as if they had been read: of each tensor the entries that a probe would hold."""
    known = shapes(layers)
    total = sum(int(np.prod(shape)) for shape in known.values())
    rate = PROBE // (1 + EXPERTS) / total
    generator = torch.Generator().manual_seed(0)
    groups, measured = [], []
    for name, shape in known.items():
        size = int(np.prod(shape))
        count = min(size, max(64, int(rate * size)))
        base = 0.02 * torch.randn(count, generator=generator)
        tau = 1e-3 * torch.rand(EXPERTS, 1, generator=generator) * torch.randn(EXPERTS, count, generator=generator)
        tau[torch.rand(EXPERTS, count, generator=generator) < 0.3] = 0
        group = Group(name, base, base + tau, matrix=len(shape) == 2)
        groups.append(group)
        measured.append(products(group) * (size / count))
    sums = torch.stack(measured)
    squares = sums[:, 1:, 1:].diagonal(dim1=1, dim2=2)
    norms, count = squares.sqrt(), len(known)
    probe = Probe(tuple(groups), rate)
    return Comparison(
        base="base", experts=tuple(f"expert-{number}" for number in range(1, EXPERTS + 1)), names=tuple(known),
        shapes=tuple(known.values()), has=torch.ones(count, EXPERTS, dtype=torch.bool), base_norms=sums[:, 0, 0].sqrt(),
        norms=norms, products=sums, squares=torch.stack([squares, squares, torch.zeros_like(squares)], 2),
        factored=torch.zeros(count, dtype=torch.bool), obstacles={}, zeros=torch.full((count, EXPERTS), 0.3),
        still=torch.full((EXPERTS,), 0.3), cosines=torch.eye(EXPERTS), probe=probe,
    )  # fmt: skip


def drawn(param: Param, chance: random.Random, rules: bool) -> Any:
    """A random value that a screen could give a parameter; a gradient where that is asked for."""
    if param.kind == "switch":
        return chance.random() < 0.5
    if param.kind == "choice":
        return chance.choice(param.choices)
    one, other = (chance.uniform(param.low, param.high) for _ in range(2))
    if param.counts:
        return round(one)
    return [one, other] if rules and not param.optional else one


def settings(method: Method, experts: int, chance: random.Random, rules: bool) -> Iterator[Any]:
    """Random settings without end; those that the method refuses are left out."""
    params = [param for param in method.params.values() if param.name != "weight"]
    folders = tuple(Path(f"expert-{number}") for number in range(experts))
    while True:
        values = {param.key: drawn(param, chance, rules) for param in params}
        if rules and "scope" in values:
            values["scope"] = method.params["scope"].choices[-1]
        weight = method.params.get("weight")
        weights = tuple(drawn(weight, chance, rules) if weight else 1.0 for _ in folders)
        try:
            yield Recipe(method.name, Path("base"), folders, weights, values, seed=0).settings()
        except MergeError:
            continue


def measured(method: Method, predictor: Predictor, repeat: int, rules: bool) -> dict[str, str]:
    """A row of the table: one method on one comparison."""
    experts, took, share = len(predictor.comparison.experts), list[float](), 1.0
    several = settings(method, experts, random.Random(0), rules)
    refused = 0
    while len(took) < repeat + 5 and refused < 20 * repeat:
        some = next(several)
        start = perf_counter()
        try:
            found = predictor.predict(some, quick=True)
        except MergeError:  # the method has something against these values
            refused += 1
            continue
        took.append(1e3 * (perf_counter() - start))
        share = found.share
    late = sorted(took[5:])  # the first ones find out how many entries can be tried
    p50, p95 = (late[min(int(part * len(late)), len(late) - 1)] for part in (0.5, 0.95))
    seen = f"{share:.3%}" if method.entrywise else "exact"
    return {"method": method.title, "p50": f"{p50:.0f}", "p95": f"{p95:.0f}", "entries": seen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="a base and its experts, in place of random ones")
    parser.add_argument("--layers", type=int, nargs="*", default=[24, 80])
    parser.add_argument("--repeat", type=int, default=60)
    parser.add_argument("--rules", action="store_true", help="parameters vary over the layers")
    parser.add_argument("--methods", nargs="*", default=[])
    told = parser.parse_args()
    print(machine())
    comparisons = {f"{layers} layers": layers for layers in told.layers} if not told.models else {"given": 0}
    for label, layers in comparisons.items():
        comparison = given(told.models) if told.models else synthetic(layers)
        experts = len(comparison.experts)
        chosen = [
            method
            for method in METHODS.values()
            if not method.collects and (not told.methods or method.name in told.methods)
        ]
        rows = []
        for method in chosen:
            print(f"{label}: {method.title} …", file=sys.stderr, flush=True)
            fitting = comparison if method.taking(experts) == experts else fewer(comparison, method.taking(experts))
            rows.append(measured(method, Predictor(fitting), told.repeat, told.rules))
        print(
            f"\n{label}: {len(comparison.names)} tensors, {experts} experts; milliseconds\n\n{table(rows)}", flush=True
        )


def given(models: list[Path]) -> Comparison:
    from merging.adapter import open_base, open_expert

    base = open_base(models[0])
    return compare(base, [open_expert(path, base) for path in models[1:]])


def fewer(comparison: Comparison, experts: int) -> Comparison:
    """The comparison without the last of its experts."""
    from dataclasses import replace

    some = slice(0, experts)
    groups = tuple(
        Group(group.name, group.base, group.experts[some], matrix=group.matrix) for group in comparison.probe.groups
    )
    for group, old in zip(groups, comparison.probe.groups, strict=True):
        group.axes = old.axes
    probe = Probe(groups, comparison.probe.share)
    return replace(
        comparison, experts=comparison.experts[some], has=comparison.has[:, some], norms=comparison.norms[:, some],
        products=comparison.products[:, : 1 + experts, : 1 + experts], squares=comparison.squares[:, some],
        zeros=comparison.zeros[:, some], still=comparison.still[some], cosines=comparison.cosines[some, some],
        probe=probe,
    )  # fmt: skip


if __name__ == "__main__":
    main()
