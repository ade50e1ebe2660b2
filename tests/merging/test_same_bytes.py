"""The result of a merge does not depend on chunks, workers, shards or the order of anything, to the byte."""

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from merging import groups, kernels, passes, ranking
from merging.checkpoint import open_checkpoint
from merging.engine import merge, merge_groups
from merging.method import METHODS, Group
from merging.recipe import Recipe
from merging.writer import WeightedSum
from tests.conftest import DATA_FREE, write_model

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("task_arithmetic", {"normalize": True}),
    ("from", {"k": 2.0}),
    ("from", {"k": 2.0, "scope": "model"}),
    ("ties", {}),
    ("ties", {"scope": "tensor"}),
    ("ties", {"variant": "mergekit", "scope": "tensor", "merge": "sum"}),
    ("ties", {"sign": "normfrac", "merge": "max"}),
    ("ties", {"sign": "normmass"}),
    ("pcb", {}),
    ("pcb", {"scope": "tensor", "variant": "vision"}),
    ("pcb", {"variant": "pairwise", "ratio": 0.4}),
    ("dare_linear", {"rescale": "l1", "scope": "model"}),
    ("della", {"rescale": "l1"}),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.2, "scope": "model"}),
    ("breadcrumbs_ties", {"density": 0.5, "rescale": "l1"}),
    ("sce", {"select_topk": 0.5}),
    ("sce", {"select_topk": 0.5, "scope": "model"}),
    ("arcee_fusion", {"scope": "model"}),
    ("slerp", {"t": 0.3}),
    ("nuslerp", {"nuslerp_flatten": False}),
    ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ("model_stock", {"filter_wise": True}),
    ("wudi", {"variant": "closed_form"}),
]
SETTINGS += [(name, {}) for name in DATA_FREE if (name, {}) not in SETTINGS]
IDS = ["-".join([name, *map(str, values.values())]) for name, values in SETTINGS]
WEIGHTS = (1.0, 0.5, -0.3)


def tensors(seed: int) -> dict[str, Tensor]:
    """Tensors whose sizes are not multiples of any tile, in bfloat16, whose task vectors have many equal entries."""
    shapes = {
        "model.embed_tokens.weight": (11, 7),
        "model.layers.0.w.weight": (9, 5),
        "model.layers.1.w.weight": (9, 5),
        "model.norm.weight": (13,),
        "scale": (),
    }
    start = {name: torch.randn(shape, generator=torch.Generator().manual_seed(7)) for name, shape in shapes.items()}
    moved = torch.Generator().manual_seed(seed)
    noise = {name: 0.02 * torch.randn(shape, generator=moved) for name, shape in shapes.items()}
    return {name: (tensor + (noise[name] if seed else 0)).bfloat16() for name, tensor in start.items()}


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, tuple[Path, ...]]:
    """A base and three experts, in one file each."""
    folders = [write_model(tmp_path / f"model-{seed}", tensors(seed)) for seed in range(4)]
    return folders[0], tuple(folders[1:])


def recipe_of(method: str, values: dict[str, Any], models: tuple[Path, tuple[Path, ...]]) -> Recipe:
    base, experts = models
    count = METHODS[method].taking(len(experts))
    weights = WEIGHTS[:count] if "weight" in METHODS[method].params else ()
    return Recipe(method, base, experts[:count], weights, values)


def stored(folder: Path) -> dict[str, tuple[str, bytes]]:
    """The tensors of a model: their dtypes and their bytes."""
    model = open_checkpoint(folder)
    bits = {name: model.tensor(name).contiguous().reshape(-1).view(torch.uint8) for name in model.entries}
    return {name: (model.entries[name].dtype, tensor.numpy().tobytes()) for name, tensor in bits.items()}


def many_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has ranks found by counting, as in large models, and not by sorting."""
    for module in (groups, passes):
        monkeypatch.setattr(module, "FEW", 50)
    monkeypatch.setattr(ranking, "SAMPLED", 4)  # so that the intervals are guessed from next to nothing
    monkeypatch.setattr(ranking, "RUN", 3)
    monkeypatch.setattr(ranking, "BINS", 64)


@pytest.mark.parametrize(("method", "values"), SETTINGS, ids=IDS)
def test_chunks_workers_shards_and_kernels(
    method: str,
    values: dict[str, Any],
    models: tuple[Path, tuple[Path, ...]],
    tmp_path: Path,
    small_chunks: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = recipe_of(method, values, models)
    many_counted(monkeypatch)
    results: dict[bool, list[Any]] = {True: [], False: []}

    for numba, (tiles, workers, limit) in product(results, [(1, 1, 5 << 30), (5, 5, 1), (2, 2, 100)]):
        out = tmp_path / f"out-{numba}-{tiles}"
        small_chunks(8, tiles)
        monkeypatch.setattr(kernels, "usable", lambda numba=numba: numba)
        merge(recipe, out, workers=workers, shard_size=limit)
        results[numba].append(stored(out))
        assert len(list(out.glob("*.safetensors"))) == 5 or limit > 1

    for fast, slow in zip(*results.values(), strict=True):
        assert fast == results[True][0]
        assert slow == results[False][0]
    assert results[True] == results[False] or method == "pcb"  # whose kernel is as exact, but not to the byte


@pytest.mark.parametrize(("method", "values"), SETTINGS, ids=IDS)
def test_whole_files(
    method: str,
    values: dict[str, Any],
    models: tuple[Path, tuple[Path, ...]],
    tmp_path: Path,
    small_chunks: Callable[..., None],
) -> None:
    recipe, found = recipe_of(method, values, models), []

    for tiles, workers in [(1, 2), (5, 1)]:
        small_chunks(8, tiles)
        out = merge(recipe, tmp_path / f"out-{tiles}", workers=workers).out
        found.append({file.name: file.read_bytes() for file in out.iterdir()})

    assert found[0] == found[1]


@pytest.mark.parametrize(("method", "values"), SETTINGS, ids=IDS)
def test_the_files_that_models_come_in(
    method: str, values: dict[str, Any], models: tuple[Path, tuple[Path, ...]], tmp_path: Path
) -> None:
    (base, experts), other = models, []
    for seed, path in enumerate((base, *experts)):
        names = list(tensors(seed))[::-1] if seed % 2 else list(tensors(seed))
        folder = tmp_path / "other" / path.name
        other.append(write_model(folder, {name: tensors(seed)[name] for name in names}, shards=1 + seed))

    merge(recipe_of(method, values, models), tmp_path / "one")
    merge(recipe_of(method, values, (other[0], tuple(other[1:]))), tmp_path / "two", workers=3)

    assert stored(tmp_path / "one") == stored(tmp_path / "two")


@pytest.mark.parametrize(("method", "values"), SETTINGS, ids=IDS)
@pytest.mark.parametrize("mixed", [False, True], ids=["bfloat16", "mixed"])
def test_a_merge_in_memory(
    method: str,
    values: dict[str, Any],
    mixed: bool,
    models: tuple[Path, tuple[Path, ...]],
    tmp_path: Path,
    small_chunks: Callable[..., None],
    both_paths: str,
) -> None:
    """Whole tensors, rounded once to the base's dtype."""
    base, experts = models
    if mixed:
        write_model(experts[0], {name: tensor.float() + 1e-4 for name, tensor in tensors(1).items()})
        write_model(experts[1], {name: tensor.half() for name, tensor in tensors(2).items()})
    recipe = recipe_of(method, values, models)
    weights = {"weight": list(recipe.weights)} if recipe.weights else {}

    small_chunks(8, 2)
    report = merge(recipe, tmp_path / "out", workers=2)

    start, *moved = [load_file(path / "model.safetensors") for path in (base, *recipe.experts)]
    groups = [
        Group(name, start[name].float(), torch.stack([model[name].float() for model in moved]))
        for name in open_checkpoint(base).entries
    ]
    for group in groups:
        group.matrix = start[group.name].ndim >= 2
    # The survey adds up in the order of the tensors: that of the layers, as in a merge from disk.
    order = list(report.fates)
    groups.sort(key=lambda group: order.index(group.name))
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in merge_groups(METHODS[method], groups, **values, **weights):
        assert torch.equal(merged[name].view(torch.int16), tensor.bfloat16().view(torch.int16)), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("method", ["linear", "from", "ties"])
def test_real_tiles(method: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that are larger than a tile, with the tiles that real merges have."""
    from merging import stream

    size = (1 << 17) + 5
    for seed in range(3):
        noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        write_model(tmp_path / f"{seed}", {"w": noise.to(dtype), "v": noise[:70000].to(dtype, copy=True)})
    values = {"sign": "normfrac"} if method == "ties" else {}
    recipe = Recipe(method, tmp_path / "0", (tmp_path / "1", tmp_path / "2"), values=values)
    results = []

    for number, (tiles, workers, numba) in enumerate([(1, 2, True), (2, 1, True), (2, 1, False)]):
        monkeypatch.setattr(stream, "TILES", tiles)
        monkeypatch.setattr(kernels, "usable", lambda numba=numba: numba)
        merge(recipe, tmp_path / f"out-{number}", workers=workers)
        results.append(stored(tmp_path / f"out-{number}"))

    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("out_dtype", ["bfloat16", "float32", "float16"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "from"])
def test_any_dtype(
    method: str, dtype: torch.dtype, out_dtype: str, tmp_path: Path, small_chunks: Callable[..., None]
) -> None:
    """From file to file in one call, tile by tile, and in torch."""
    for seed in range(3):
        write_model(tmp_path / f"{seed}", {name: tensor.to(dtype) for name, tensor in tensors(seed).items()})
    recipe = Recipe(method, tmp_path / "0", (tmp_path / "1", tmp_path / "2"), out_dtype=out_dtype)
    results = []

    for number, (tiles, workers, usable) in enumerate([(1, 2, True), (5, 1, True), (2, 3, False)]):
        small_chunks(8, tiles)
        with pytest.MonkeyPatch.context() as patch:
            if not usable:
                patch.setattr(kernels, "usable", lambda: False)
            merge(recipe, tmp_path / f"out-{number}", workers=workers)
        results.append(stored(tmp_path / f"out-{number}"))

    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(("method", "values"), SETTINGS, ids=IDS)
def test_systems_that_cannot_read_and_write_at_a_place(
    method: str,
    values: dict[str, Any],
    models: tuple[Path, tuple[Path, ...]],
    tmp_path: Path,
    small_chunks: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on Windows."""
    recipe = recipe_of(method, values, models)
    small_chunks(8, 2)
    merge(recipe, tmp_path / "out")

    for name in ("preadv", "pread", "pwrite", "pwritev"):
        monkeypatch.delattr(os, name, raising=False)
    merge(recipe, tmp_path / "other", workers=3)

    assert stored(tmp_path / "out") == stored(tmp_path / "other")


def test_a_piece_that_could_not_be_merged_at_once_is_merged_tile_by_tile(
    models: tuple[Path, tuple[Path, ...]],
    tmp_path: Path,
    small_chunks: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call that was interrupted, say."""
    recipe, steps, at_once, tried = recipe_of("linear", {}, models), [], WeightedSum.from_files, []
    small_chunks(8, 2)
    merge(recipe, tmp_path / "out")

    def now_and_then(self: WeightedSum, *given: Any) -> bool:
        tried.append(at_once(self, *given))
        return len(tried) % 2 == 0

    monkeypatch.setattr(WeightedSum, "from_files", now_and_then)
    merge(recipe, tmp_path / "other", steps.append, workers=1)

    assert all(tried)
    assert len(tried) > 5
    assert stored(tmp_path / "out") == stored(tmp_path / "other")
    assert [step.bytes_done for step in steps] == sorted({step.bytes_done for step in steps})
