"""What two passes find, held against plain torch over whole tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from merging import MergeStopped, compare
from merging.adapter import open_base, open_expert
from merging.checkpoint import Checkpoint
from merging.compare import Comparison
from merging.groups import Group
from merging.statistics import magnitudes, survey
from merging.statistics.pairs import Pairs
from merging.statistics.probe import Probe
from merging.statistics.tables import TRIMMED
from tests.adapters import written
from tests.conftest import Family, write_model
from tests.merging.test_compare import lacking, opened
from tests.merging.test_factored import ATTENTION

SHAPES = {
    "model.embed_tokens.weight": (60, 40),
    "model.layers.0.mlp.up_proj.weight": (30, 40),
    "model.norm.weight": (40,),
}


@pytest.fixture(params=[torch.bfloat16, torch.float32, torch.float16])
def models(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Checkpoint, list[Checkpoint]]:
    """A base and three experts of which the third did not move in some places, nor at all in the embedding."""
    generator = torch.Generator().manual_seed(1)
    start = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    paths = [write_model(tmp_path / "base", {name: t.to(request.param) for name, t in start.items()})]
    for number in range(3):
        moved = {
            name: t + 0.02 * torch.randn(t.shape, generator=generator) ** 3 * (torch.rand(t.shape) < 0.8)
            for name, t in start.items()
        }
        if number == 2:
            moved["model.embed_tokens.weight"] = start["model.embed_tokens.weight"]
        paths.append(write_model(tmp_path / f"e{number}", {name: t.to(request.param) for name, t in moved.items()}))
    return opened(paths[0], paths[1:])


def vectors(base: Checkpoint, experts: list[Checkpoint], name: str) -> Tensor:
    start = base.tensor(name).float()
    return torch.stack([expert.tensor(name).float() - start for expert in experts]).flatten(1)


def test_shapes_and_signs_are_those_of_the_entries(
    models: tuple[Checkpoint, list[Checkpoint]], small_chunks: Callable[..., None], both_paths: str
) -> None:
    small_chunks(70, 3)

    found = compare.compare(*models, workers=3)

    for row, name in enumerate(found.names):
        tau = vectors(*models, name).double()
        apart = tau - tau.mean(1, keepdim=True)
        torch.testing.assert_close(found.means[row], tau.mean(1), rtol=1e-9, atol=1e-15)
        expected = apart.pow(4).mean(1) / apart.pow(2).mean(1) ** 2
        torch.testing.assert_close(found.kurtosis[row], expected, rtol=1e-6, atol=0, equal_nan=True)
        assert torch.equal(found.zeros[row], (tau == 0).double().mean(1))
        assert_pairs(found, row, tau, found.pairs)


def assert_pairs(found: Comparison, row: int, tau: Tensor, pairs: Pairs) -> None:
    signs = tau.sign()
    both = (signs.abs()[:, None] * signs.abs()).sum(2)
    assert torch.equal(pairs.both[row], both)
    assert torch.equal(pairs.conflicts[row], (signs[:, None] * signs < 0).double().sum(2))
    torch.testing.assert_close(pairs.products[row], tau @ tau.T, rtol=1e-5, atol=1e-9)
    lengths = tau.norm(dim=1)
    cosines = torch.where(both > -1, (tau @ tau.T) / lengths / lengths[:, None], torch.nan)
    torch.testing.assert_close(pairs.cosines[row], cosines, rtol=1e-4, atol=1e-6, equal_nan=True)
    rates = (signs[:, None] * signs < 0).double().sum(2) / both
    torch.testing.assert_close(pairs.rates[row], rates, equal_nan=True)


def test_pairs_are_looked_at_again_after_trimming_over_the_whole_model(
    models: tuple[Checkpoint, list[Checkpoint]], small_chunks: Callable[..., None], both_paths: str
) -> None:
    small_chunks(70, 3)

    found = compare.compare(*models, workers=3)

    whole = torch.cat([vectors(*models, name) for name in found.names], 1)
    for place, density in enumerate(TRIMMED):
        least = found.thresholds[:, place].float()[:, None]
        share = (whole.abs() >= least).double().mean(1)
        moved = (whole != 0).double().mean(1)
        assert (share >= density).all()
        assert (((whole.abs() > least * 1.01).double().mean(1) < density) | (moved < density)).all()
        for row, name in enumerate(found.names):
            tau = vectors(*models, name)
            kept = torch.where(tau.abs() >= least, tau, 0.0).double()
            assert_pairs(found, row, kept, found.trimmed[density])
            torch.testing.assert_close(found.kept[density][row], (kept != 0).double().mean(1))


def test_over_some_tensors_together_entries_count_as_one_vector(models: tuple[Checkpoint, list[Checkpoint]]) -> None:
    found = compare.compare(*models)

    some = torch.tensor([name != "model.norm.weight" for name in found.names])
    pairs = found.pairs.of(some)

    tau = torch.cat([vectors(*models, name) for name in found.names if name != "model.norm.weight"], 1).double()
    assert_pairs(found, 0, tau, pairs)


def test_the_energy_kept_is_that_of_the_largest_entries(models: tuple[Checkpoint, list[Checkpoint]]) -> None:
    found = compare.compare(*models)

    for row, name in enumerate(found.names):
        for expert, tau in enumerate(vectors(*models, name).double()):
            squares = tau.square().sort(descending=True).values
            for place, density in enumerate(magnitudes.DENSITIES):
                share = found.energy[row, expert, place]
                if not squares.sum():
                    assert share.isnan()
                else:
                    count = density * len(squares)
                    whole = squares[: int(count)].sum() + (count - int(count)) * (squares[int(count) :][:1].sum())
                    assert float(share) == pytest.approx(float(whole / squares.sum()), abs=0.03)
    everything = torch.cat([vectors(*models, name) for name in found.names], 1).double()
    kept = everything.square().sort(1, descending=True).values
    half = magnitudes.DENSITIES.index(0.25)
    expected = kept[:, : kept.shape[1] // 4].sum(1) / kept.sum(1)
    torch.testing.assert_close(found.energies[:, half], expected, rtol=0.01, atol=0.01)


def test_workers_and_chunks_change_nothing(
    models: tuple[Checkpoint, list[Checkpoint]], small_chunks: Callable[..., None]
) -> None:
    small_chunks(128)
    one, many = (compare.compare(*models, workers=workers) for workers in (1, 4))

    for part in ("norms", "products", "squares", "means", "kurtosis", "energy", "energies", "thresholds"):
        assert getattr(one, part).numpy().tobytes() == getattr(many, part).numpy().tobytes()
    for density in TRIMMED:
        assert torch.equal(one.trimmed[density].products, many.trimmed[density].products)
    for first, second in zip(one.probe.groups, many.probe.groups, strict=True):
        assert np.array_equal(first.bits, second.bits)


def test_what_an_expert_lacks_counts_for_nothing(tmp_path: Path, both_paths: str) -> None:
    name = "layers.1.q.weight"
    base, experts = opened(*lacking(tmp_path, name))

    found = compare.compare(base, experts)

    row = found.names.index(name)
    for table in (found.means, found.kurtosis, found.energy[..., 1], found.kept[0.5]):
        assert table[row].isnan().tolist() == [False, True, False]
    assert found.pairs.rates[row].isnan().tolist() == [[False, True, False], [True] * 3, [False, True, False]]
    assert found.pairs.of().rates.isfinite().all()


def test_tensors_that_are_not_finite_leave_the_others_as_they_are(family: Family, both_paths: str) -> None:
    folder, paths = family()
    base, experts = opened(folder, paths)
    whole = compare.compare(base, experts)
    tensors = {name: experts[0].tensor(name) for name in base.entries}
    tensors["model.norm.weight"][1] = torch.inf
    base, experts = opened(folder, [write_model(folder.parent / "broken", tensors), paths[1]])

    found = compare.compare(base, experts)

    row = found.names.index("model.norm.weight")
    assert found.norms[row].isnan().tolist() == [True, False]
    assert found.kurtosis[row].isnan().tolist() == [True, False]
    assert found.trimmed[0.5].both[row].isnan().all()
    assert found.cosines.isfinite().all()
    assert found.energies.isfinite().all()
    others = [other for other in range(len(found.names)) if other != row]
    assert torch.equal(found.norms[others], whole.norms[others])
    assert found.warnings() == ["broken: `model.norm.weight` holds NaN or infinity, so this merge will be refused."]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft with this transformers
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_are_seen_as_what_they_make_of_the_base(tmp_path: Path, both_paths: str) -> None:
    folder, paths = written(tmp_path, ATTENTION, ATTENTION)
    base = open_base(folder)
    experts = [open_expert(path, base) for path in paths]

    found = compare.compare(base, experts)

    for row, name in enumerate(found.names):
        tau = torch.stack([expert.read(name).float() - base.read(name).float() for expert in experts]).double()
        torch.testing.assert_close(found.means[row], tau.mean(1), rtol=1e-5, atol=1e-9)
        assert_pairs(found, row, tau, found.pairs)


def test_parts_arrive_before_the_whole_and_say_what_they_lack(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "EVERY", 0.0)
    base, experts = opened(*family())
    parts = list[Comparison]()

    whole = compare.compare(base, experts, on_part=parts.append, workers=1)

    tensors = len(whole.names)
    assert [int(part.read.sum()) for part in parts] == [*range(1, tensors + 1), *[tensors] * tensors]
    for part in parts[:tensors]:
        read = part.read
        assert torch.equal(part.norms.isnan().any(1), ~read)
        assert torch.equal(part.norms[read], whole.norms[read])
        assert [group.size > 0 for group in part.probe.groups] == read.tolist()
        assert part.warnings() == []
        assert set(part.gaps(part.norms).values()) <= {"not read yet"}
        assert part.trimmed[0.5].both.isnan().all()
    assert [int((~part.trimmed[0.2].both.isnan().any((1, 2))).sum()) for part in parts[tensors:]] == [
        *range(1, tensors + 1)
    ]


def test_progress_ends_with_all_bytes_and_never_goes_back(family: Family) -> None:
    base, experts = opened(*family())
    steps = list[tuple[int, int]]()

    compare.compare(base, experts, lambda *step: steps.append(step))

    done = [step[0] for step in steps]
    assert done == sorted(done)
    assert steps[-1] == (steps[0][1], steps[0][1])
    assert steps[0][1] == 2 * (base.bytes + sum(expert.bytes for expert in experts))


def test_it_stops_between_pieces(family: Family, small_chunks: Callable[..., None]) -> None:
    small_chunks(4)
    stop, seen = threading.Event(), list[int]()

    def step(done: int, _: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            stop.set()

    with pytest.raises(MergeStopped):
        compare.compare(*opened(*family()), step, stop, workers=1)

    assert len(seen) == 3


def test_methods_that_look_at_rows_are_tried_on_whole_rows(
    models: tuple[Checkpoint, list[Checkpoint]], monkeypatch: pytest.MonkeyPatch, small_chunks: Callable[..., None]
) -> None:
    small_chunks(70)
    monkeypatch.setattr(compare, "PROBE", 4 * 600)
    base, experts = models

    found = compare.compare(base, experts)

    for rows in (found.rows, found.rows.thinned(200, rows=True)):
        assert not rows.exact
        for group, name in zip(rows.groups, found.names, strict=True):
            assert group.row == base.entries[name].row
            there = {tuple(row.tolist()) for row in base.tensor(name).float().reshape(-1, group.row)}
            assert {tuple(row.tolist()) for row in group.base.reshape(-1, group.row)} <= there
            at = [row.tolist() for row in base.tensor(name).float().reshape(-1, group.row)].index(
                group.base[: group.row].tolist()
            )
            expected = experts[1].tensor(name).float().reshape(-1, group.row)[at]
            assert torch.equal(group.experts[1][: group.row], expected)


def test_entries_that_are_drawn_are_entries_of_the_models(
    models: tuple[Checkpoint, list[Checkpoint]], monkeypatch: pytest.MonkeyPatch, small_chunks: Callable[..., None]
) -> None:
    small_chunks(70, 2)
    monkeypatch.setattr(compare, "PROBE", 4 * 600)
    base, experts = models

    found = compare.compare(base, experts, workers=3)

    assert 0.1 < found.probe.share < 0.3
    for group, name in zip(found.probe.groups, found.names, strict=True):
        columns = torch.stack([model.tensor(name).float().flatten() for model in (base, *experts)])
        there = {tuple(column.tolist()) for column in columns.T}
        drawn = [tuple(column.tolist()) for column in torch.cat([group.base[None], group.experts]).T]
        assert set(drawn) <= there
        assert len(drawn) >= 40


def test_a_probe_is_thinned_while_some_tensors_were_not_read() -> None:
    read = Group("a", torch.zeros(400, 8), torch.ones(2, 400, 8))
    unread = Group.of_bits("b", np.zeros((3, 0), np.uint32))

    some = Probe((read, unread), 0.5).thinned(800, rows=True)

    assert [group.size for group in some.groups] == [800, 0]
    assert some.share == 0.125
