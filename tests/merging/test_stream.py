"""The memory that a merge works in: set beforehand, whatever the size of the models."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from merging import making
from merging.checkpoint import open_checkpoint
from merging.crew import Crew
from merging.engine import merge
from merging.errors import MergeError
from merging.plan import plan
from merging.recipe import Recipe
from merging.stream import Span, Stream, fitting, memory_of, spans
from tests.conftest import Family, write_model


@pytest.mark.parametrize("memory", ["1MB", 100_000, "10 MB"])
def test_too_little_memory_is_refused_before_anything_is_made(
    memory: int | str, family: Family, tmp_path: Path
) -> None:
    base, experts = family(3)

    with pytest.raises(MergeError) as caught:
        merge(Recipe("ties", base, tuple(experts)), tmp_path / "deep" / "out", memory=memory)

    told = {"1MB": "1 MB", 100_000: "0 MB", "10 MB": "10 MB"}[memory]
    words = str(caught.value)
    assert words.startswith("This merge needs ")
    assert words.endswith(f" MB of memory to work in, and may use {told}. Allow it more.")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("memory", ["", "much", "-1GB", 0, "1XB", float("nan")])
def test_what_is_no_size_is_refused(memory: Any, family: Family, tmp_path: Path) -> None:
    base, experts = family(1)

    with pytest.raises(MergeError, match="is not a size"):
        merge(Recipe("linear", base, tuple(experts)), tmp_path / "out", memory=memory)


@pytest.mark.parametrize("workers", [0, -1])
def test_a_merge_without_workers_is_refused(workers: int, family: Family, tmp_path: Path) -> None:
    base, experts = family(1)

    with pytest.raises(MergeError) as caught:
        merge(Recipe("linear", base, tuple(experts)), tmp_path / "out", workers=workers)

    assert (
        str(caught.value) == f"There must be at least one worker, but there are {workers}. Leave it out for all cores."
    )


@pytest.mark.parametrize("one", [1, 1000, 71_000_000])
def test_workers_are_as_many_as_the_memory_allows(one: int) -> None:
    assert fitting(one, 8, one) == 1
    assert fitting(4 * one - 1, 8, one) == 3
    assert fitting(100 * one, 8, one) == 8
    with pytest.raises(MergeError, match="This merge needs"):
        fitting(one - 1, 8, one)


def test_a_merge_has_no_more_workers_than_its_memory_allows(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family(3)
    hired: list[int] = []

    def hire(workers: int, stop: Any) -> Any:
        hired.append(workers)
        return crew(workers, stop)

    crew = making.crew
    monkeypatch.setattr(making, "crew", hire)
    models = [open_checkpoint(path) for path in (base, *experts)]
    one = memory_of(plan(models[0], models[1:]), entrywise=True)

    for number, memory in enumerate([3 * one, 100 * one]):
        merge(Recipe("ties", base, tuple(experts)), tmp_path / f"out-{number}", workers=5, memory=memory)

    assert hired == [3, 5]


@pytest.mark.parametrize(("tile", "tiles"), [(1, 1), (3, 1), (1, 3), (2, 4), (100, 1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16, torch.float64])
def test_a_stream_reads_what_the_models_hold(
    dtype: torch.dtype, tile: int, tiles: int, family: Family, small_chunks: Callable[..., None], both_paths: str
) -> None:
    small_chunks(tile, tiles)
    base, experts = family(2, dtype)
    models = [open_checkpoint(path) for path in (base, *experts)]
    source = Stream(plan(models[0], models[1:]), Crew())

    for name in source.plan.merged:
        whole = torch.stack([model.tensor(name).float().flatten() for model in models])
        starts = []
        for group in (group for span in source.spans(name) for group in source.read(span)):
            starts.append(group.start)
            found = torch.cat([group.base[None], group.experts])
            assert torch.equal(found, whole[:, group.start : group.start + tile])
            assert group.bits.itemsize == (2 if dtype == torch.bfloat16 else 4)
        assert starts == list(range(0, whole.shape[1], tile))
    source.files.close()


def test_runs_are_picked_from_a_piece(family: Family, both_paths: str) -> None:
    base, experts = family(2)
    models = [open_checkpoint(path) for path in (base, *experts)]
    source = Stream(plan(models[0], models[1:]), Crew())
    name = "model.layers.0.mlp.up_proj.weight"
    whole = torch.stack([model.tensor(name).float().flatten() for model in models])

    found = source.pick(Span(name, 2, 24), [0, 3, 17], 5)

    assert torch.equal(
        torch.cat([found.base[None], found.experts]), whole[:, [*range(2, 7), *range(5, 10), *range(19, 24)]]
    )
    source.files.close()


def test_pieces_cover_a_tensor(small_chunks: Callable[..., None]) -> None:
    small_chunks(2, 2)

    assert [(span.start, span.stop) for span in spans("w", 10)] == [(0, 4), (4, 8), (8, 10)]
    assert spans("w", 0) == []


LARGE = """
from pathlib import Path
from merging import merge
from merging.recipe import Recipe
from merging.warming import merge_a_little

METHODS = [("linear", {}), ("from", {"scope": "tensor"}), ("ties", {"scope": "tensor"}), ("pcb", {"scope": "model"})]

def memory(kind):
    return int(Path("/proc/self/status").read_text().split(kind)[1].split()[0])  # in kB

def merge_all(size):
    for number, (method, values) in enumerate(METHODS):
        recipe = Recipe(method, Path(f"{size}-base"), (Path(f"{size}-1"), Path(f"{size}-2")), values=values)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
        before = memory("VmRSS:")
        merge(recipe, f"out-{size}-{number}", workers=2, memory="120MB")
        yield memory("VmHWM:") - before

merge_a_little()
for size in ["small", "large"]:
    print(*merge_all(size))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems count a process's memory otherwise")
def test_a_merge_keeps_to_its_memory_and_no_tensor_need_fit_it(tmp_path: Path) -> None:
    for size, entries in [("small", 5 << 17), ("large", 32 << 20)]:
        for number, name in enumerate(["base", "1", "2"]):
            bits = torch.arange(entries, dtype=torch.int32).mul_(2654435 + number).bitwise_and_(0x3FFF).short()
            write_model(tmp_path / f"{size}-{name}", {"w": bits.view(torch.bfloat16)})
    root = Path(__file__).parents[2]

    told = subprocess.run(
        [sys.executable, "-c", LARGE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    assert (tmp_path / "out-large-3" / "model.safetensors").stat().st_size > 64 << 20
    peaks = [[int(number) for number in line.split()] for line in told.stdout.splitlines()]
    assert all(peak < 120_000 for peak in peaks[0] + peaks[1]), peaks  # kB, as they were allowed
    assert all(large < 60_000 for large in peaks[1]), peaks  # where each of three models has 64 MB in its one tensor
