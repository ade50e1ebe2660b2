"""Products of factors, read run by run: the same bytes however they are cut, and no more is read than is needed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from merging import lora
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.lora import Update
from tests.conftest import write_model

RANK, SHAPE = 6, (40, 30)


def update(folder: Path, transposed: bool, shape: tuple[int, int] = SHAPE) -> Update:
    """A matrix and the factors of what is added to it, all drawn at random."""
    torch.manual_seed(0)
    rows, columns = shape[::-1] if transposed else shape
    down, up = torch.randn(RANK, columns), torch.randn(rows, RANK)
    base = open_checkpoint(write_model(folder / "base", {"w": torch.randn(shape)}))
    save_file({"A": down.half(), "B": up.bfloat16()}, folder / "factors.safetensors")
    return Update(base, "w", open_checkpoint(folder / "factors.safetensors"), "A", "B", 0.7, transposed)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("block", [7, 50, 1 << 19])
def test_however_it_is_cut_it_is_the_same_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, both_paths: str, transposed: bool, block: int
) -> None:
    made = update(tmp_path, transposed)
    size = SHAPE[0] * SHAPE[1]
    whole = made.read(0, size)
    monkeypatch.setattr(lora, "BLOCK", block)

    for length in (1, 7, 29, 30, 31, 100, size):
        cut = torch.cat([made.read(start, min(start + length, size)) for start in range(0, size, length)])
        assert torch.equal(cut, whole)

    down, up = (made.factors.tensor(name).double() for name in "AB")
    dense = (up @ down).T if transposed else up @ down
    torch.testing.assert_close(whole, (made.base.tensor("w").double() + 0.7 * dense).float().flatten())


@pytest.mark.parametrize("transposed", [False, True])
def test_with_kernels_and_without_it_is_the_same_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transposed: bool
) -> None:
    made = update(tmp_path, transposed)
    with_kernels = made.read(3, 1111)
    monkeypatch.setattr("merging.kernels.usable", lambda: False)

    assert torch.equal(made.read(3, 1111), with_kernels)


@pytest.mark.parametrize(("transposed", "shape"), [(True, (3000, 20)), (False, (3000, 20)), (False, (20, 3000))])
def test_a_run_reads_no_more_of_the_factors_than_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transposed: bool, shape: tuple[int, int]
) -> None:
    made = update(tmp_path, transposed, shape)
    monkeypatch.setattr(lora, "BLOCK", 600)
    taken: list[int] = []
    read = Checkpoint.read

    def counted(model: Checkpoint, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        values = read(model, name, start, stop)
        if name != "w":
            taken.append(len(values))
        return values

    monkeypatch.setattr(Checkpoint, "read", counted)

    made.read(500, 1000)

    assert max(taken) <= 600
    needed = 500 * RANK if shape[1] == 3000 else 26 * RANK  # of a part of one row, or of 26 rows
    assert sum(taken) <= needed + 3 * 20 * RANK  # and the small other factor, for the first row, the last, and the rest
