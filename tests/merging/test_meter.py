"""What a merge takes of the machine is what the system counts, and nothing where it does not."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch

from merging import meter
from merging.engine import merge
from merging.meter import Taken, metered
from merging.recipe import Recipe
from tests.adapters import random_adapter
from tests.conftest import Family, random_tensors, write_model

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell")


@LINUX
def test_memory_and_bytes_are_those_of_the_work_inside(tmp_path: Path) -> None:
    with metered() as taken:
        (tmp_path / "file").write_bytes(bytes(3_000_000))
        (tmp_path / "file").read_bytes()
        held = torch.ones(10_000_000)
        time.sleep(0.2)
        del held

    assert 3_000_000 <= taken.written < 4_000_000
    assert 3_000_000 <= taken.read < 5_000_000
    assert 30_000_000 < taken.peak - taken.before < 80_000_000


def test_where_the_system_tells_nothing_nothing_is_made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meter, "SYSTEM", tmp_path)

    with metered() as taken:
        pass

    assert taken == Taken()


@LINUX
def test_the_report_of_a_merge_knows_what_it_took(family: Family, tmp_path: Path) -> None:
    base, experts = family()

    report = merge(Recipe("ties", base, tuple(experts)), tmp_path / "out")

    stored = [path / "model.safetensors" for path in (base, *experts)]
    assert report.taken.read >= sum(file.stat().st_size for file in stored)
    assert report.taken.written >= report.bytes
    assert report.taken.peak >= report.taken.before > 10_000_000
    assert report.planned > 300_000_000


@LINUX
def test_the_report_of_an_adapter_knows_what_it_took(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", random_tensors(0))
    some = [random_adapter(tmp_path / f"a-{seed}", seed, {"model.layers.0.mlp.up_proj": (6, 4)}, 2) for seed in (0, 1)]

    report = merge(Recipe("task_arithmetic", base, tuple(some), result="adapter"), tmp_path / "out")

    assert report.taken.written >= report.bytes > 0
    assert report.planned > 300_000_000
