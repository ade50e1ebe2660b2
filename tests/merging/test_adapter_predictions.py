"""The tensors of a comparison that a merge into an adapter looks at."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from merging.adapter import open_base, open_expert
from merging.adapter_predictions import of_tensors
from merging.compare import compare
from merging.statistics.pairs import Pairs
from merging.statistics.probe import Probe
from tests.conftest import Family, write_model

OF_THE_MODEL = {"base", "experts", "obstacles", "still", "cosines", "energies", "thresholds", "trimmed"}
SOME = ("model.layers.0.mlp.up_proj.weight", "model.norm.weight")


def alike(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))
    if isinstance(one, Pairs) and isinstance(other, Pairs):
        return all(alike(getattr(one, key.name), getattr(other, key.name)) for key in fields(Pairs))
    if isinstance(one, Probe) and isinstance(other, Probe):
        pairs = zip(one.groups, other.groups, strict=True)
        return one.share == other.share and all(
            (a.name, a.bits.tolist()) == (b.name, b.bits.tolist()) for a, b in pairs
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    return one == other


def test_some_tensors_of_a_comparison_are_as_if_there_were_no_others(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    few = [
        write_model(tmp_path / "few" / path.name, {name: open_base(path).tensor(name) for name in SOME})
        for path in (base, *experts)
    ]
    whole, alone = (
        compare(ground := open_base(start), [open_expert(path, ground) for path in ends])
        for start, ends in ((base, experts), (few[0], few[1:]))
    )

    found = of_tensors(whole, {*SOME})

    differing = {key.name for key in fields(found) if not alike(getattr(found, key.name), getattr(alone, key.name))}
    assert found.names == alone.names == tuple(name for name in whole.names if name in SOME)
    assert differing <= OF_THE_MODEL
    assert {density: len(pairs.both) for density, pairs in found.trimmed.items()} == dict.fromkeys(whole.trimmed, 2)


def test_a_sample_of_some_tensors_knows_its_share(tmp_path: Path) -> None:
    shapes = {"a.weight": (50, 80), "b.weight": (20, 30), "c.weight": (7,)}
    folders = [
        write_model(tmp_path / str(seed), {name: torch.full(shape, 1.0 + seed) for name, shape in shapes.items()})
        for seed in (0, 1)
    ]
    ground = open_base(folders[0])
    whole = compare(ground, [open_expert(folders[1], ground)])
    thin = replace(whole, rows=whole.probe.thinned(1000, rows=False))

    found = of_tensors(thin, {"b.weight", "c.weight"})

    assert found.probe.exact
    there = sum(group.size for group in found.rows.groups)
    assert 0 < there < 607
    assert found.rows.share == there / 607
