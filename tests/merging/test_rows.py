"""Methods that look at whole rows are handed whole rows, however the rest is cut."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from merging.engine import merge, merge_groups
from merging.groups import Groups
from merging.method import METHODS, Blend, Group, method
from merging.preflight import check
from merging.ranking import order_statistics
from merging.recipe import Recipe
from merging.stream import spans
from merging.verify import verify
from tests.conftest import write_model

SHAPES = {"layers.0.w": (9, 5), "layers.1.w": (3, 2, 7), "norm": (31,), "one": (), "wide": (2, 50)}


def largest(groups: Groups) -> Tensor:
    """The largest entry, or a ninth of the norm, once each row has the mean 0."""
    sums = groups.sum(lambda group: centred(group.tau, group.row).square().sum(1))
    ranked = order_statistics(groups, lambda group: centred(group.tau, group.row).abs(), lambda size, _: [size - 1])
    return ranked[:, 0].maximum(sums.sqrt() / 9)


def centred(tau: Tensor, row: int) -> Tensor:
    rows = tau.reshape(len(tau), -1, row)
    return (rows - rows.mean(2, keepdim=True)).reshape(tau.shape)


@pytest.fixture(autouse=True)
def a_method() -> Iterator[None]:
    """A method that adds what each entry is above the mean of its row."""
    before = dict(METHODS)

    @method(title="By rows", paper="https://arxiv.org/abs/0", formula="", use="", survey=largest, scope="tensor")
    def by_rows(base: Tensor, experts: Tensor, survey: Tensor, row: int) -> Blend:
        """Brings every row to the mean 0."""
        assert base.numel() % row == 0
        return Blend(centred(experts - base, row) / survey[:, None].clamp(min=1.0))

    yield
    METHODS.clear()
    METHODS.update(before)


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in SHAPES.items()}


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize(("tile", "tiles", "workers"), [(8, 1, 1), (8, 5, 2), (64, 1, 3), (1 << 17, 1, 1)])
def test_rows_are_never_parted(
    scope: str, tile: int, tiles: int, workers: int, tmp_path: Path, small_chunks: Callable[..., None], both_paths: str
) -> None:
    models = [write_model(tmp_path / f"{seed}", tensors(seed)) for seed in range(3)]
    groups = [
        Group(name, tensors(0)[name].float(), torch.stack([tensors(seed)[name].float() for seed in (1, 2)]))
        for name in SHAPES
    ]
    expected = dict(merge_groups(METHODS["by_rows"], groups, scope=scope))
    small_chunks(tile, tiles)

    merge(Recipe("by_rows", models[0], tuple(models[1:]), values={"scope": scope}), tmp_path / "out", workers=workers)

    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], expected[name].bfloat16()) for name in SHAPES)
    assert verify(tmp_path / "out").problems == []


def test_chunks_are_whole_rows_and_a_long_row_is_a_chunk_of_its_own(small_chunks: Callable[..., None]) -> None:
    small_chunks(8)
    assert [span.stop for span in spans("w", 12, unit=3)] == [6, 12]
    assert [span.stop for span in spans("w", 40, unit=20)] == [20, 40]

    small_chunks(8, 2)
    assert [span.stop for span in spans("w", 15, unit=3)] == [12, 15]


def test_a_row_that_does_not_fit_the_memory_is_said(tmp_path: Path) -> None:
    models = [write_model(tmp_path / f"{seed}", {"w": torch.ones(1 << 19)}) for seed in range(2)]
    recipe = Recipe("by_rows", models[0], (models[1],))

    assert check(recipe, memory=30_000_000).problems == (
        "This merge needs 40 MB of memory to work in, and may use 30 MB. Allow it more.",
    )
    assert check(Recipe("ties", models[0], (models[1],)), memory=30_000_000).problems == ()
