"""Merges into adapters, and extractions, that are broken off: nothing is at their place, and they go on."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from merging import MergeError, MergeStopped, Recipe, Report, extract, making, merge
from merging.output import stored_checksum
from merging.publish import beside
from tests.adapters import random_adapter
from tests.conftest import write_model

LAYERS = 12
NAMES = [f"model.layers.{layer}.mlp.up_proj" for layer in range(LAYERS)]
Start = Callable[..., Report]
KILLED = """
import os, signal, sys
from merging import extract, kernels, load_recipe, merge

kernels.usable = lambda: False  # without numba, it starts sooner
count = 0

def listen(step):
    global count
    count += step.stage == "Merging"
    if count == 6:
        os.kill(os.getpid(), signal.SIGKILL)

"""


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def finished(out: Path) -> list[str]:
    """The tensors that are done of a result which is not."""
    journal = beside(out) / "journal.jsonl"
    lines = journal.read_text().splitlines()[1:] if journal.is_file() else []
    return [line.split('"')[3] for line in lines if line.endswith("}")]


@pytest.fixture(params=["from", "ties", "knots", "peft", "extract"])
def kind(request: pytest.FixtureRequest) -> str:
    """A method, of which adapters are merged into one, or an extraction."""
    return str(request.param)


@pytest.fixture
def start(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Begins it, with a target and what else is told."""
    if kind == "extract":
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            tensors = {f"{name}.weight": torch.randn(60, 70, generator=generator) for name in NAMES}
            write_model(tmp_path / f"model-{seed}", tensors)
        monkeypatch.chdir(tmp_path)  # so that the base has the same name in an adapter made elsewhere
        return lambda out, *told, **more: extract("model-0", "model-1", out, 3, *told, **more)
    sides = dict.fromkeys(NAMES, (60, 70))
    adapters = tuple(random_adapter(tmp_path / f"adapter-{seed}", seed, sides) for seed in range(2))
    values = {"ties": {"scope": "tensor"}, "peft": {"combination_type": "ties_svd", "density": 0.5}}
    recipe = Recipe(kind, None, adapters, (), values.get(kind, {}), result="adapter", rank=3)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(tmp_path))
    return lambda out, *told, **more: merge(recipe, out, *told, **more)


def read_again(start: Start, out: Path) -> int:
    """Go on with a merge; how many of the tensors that were done are read to see that they are."""
    count = [0]

    def look(entry: Any) -> str:
        count[0] += 1
        return stored_checksum(entry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "stored_checksum", look)
        start(out)
    return count[0]


def test_what_was_stopped_goes_on_and_gives_the_same(start: Start, tmp_path: Path) -> None:
    start(tmp_path / "whole")
    stop, done = threading.Event(), []

    def half(step: Any) -> None:
        if step.stage == "Merging":
            done.append(step.name)
        if len(done) >= 6:
            stop.set()

    with pytest.raises(MergeStopped):
        start(tmp_path / "out", half, stop, workers=1)
    assert not (tmp_path / "out").exists()
    left = finished(tmp_path / "out")
    assert 0 < len(left) < 2 * LAYERS

    assert read_again(start, tmp_path / "out") == len(left)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert not beside(tmp_path / "out").exists()


@pytest.mark.parametrize("values", [{}, {"filter_wise": True}])
def test_what_was_odd_about_finished_tensors_is_still_told(values: dict[str, Any], tmp_path: Path) -> None:
    sides = dict.fromkeys(NAMES, (6, 5))
    first, second = (random_adapter(tmp_path / f"adapter-{seed}", seed, sides) for seed in range(2))
    recipe = Recipe("model_stock", None, (first, second), (), values, result="adapter", rank=5)
    whole, stop, done = merge(recipe, tmp_path / "whole"), threading.Event(), []

    def half(step: Any) -> None:
        done.append(step.name)
        if step.done >= 9:
            stop.set()

    with pytest.raises(MergeStopped):
        merge(recipe, tmp_path / "out", half, stop, workers=1)
    left = finished(tmp_path / "out")
    resumed = merge(recipe, tmp_path / "out")

    [words] = whole.warnings  # Model Stock's step of tensors that point away from each other
    assert words.startswith(f"`{NAMES[0]}.weight`: Model Stock ")
    assert any(NAMES[0] in name for name in left)
    assert resumed.warnings == whole.warnings
    assert json.loads((tmp_path / "out" / "mergescope.json").read_text())["warnings"] == [words]


def test_stop_is_heard_while_what_is_finished_is_read_again(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, count = threading.Event(), [0]

    def late(step: Any) -> None:
        count[0] += step.stage == "Merging"
        if count[0] >= 8:
            stop.set()

    with pytest.raises(MergeStopped):
        start(tmp_path / "out", late, stop, workers=1)
    left, event = finished(tmp_path / "out"), threading.Event()
    assert len(left) > 4

    read = []

    def look(entry: Any) -> str:
        read.append(entry.name)
        event.set()
        return stored_checksum(entry)

    monkeypatch.setattr(making, "stored_checksum", look)
    with pytest.raises(MergeStopped):
        start(tmp_path / "out", stop=event, workers=1)

    assert len(read) <= 2
    assert finished(tmp_path / "out") == left


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be heard")
def test_a_process_that_is_killed(kind: str, start: Start, tmp_path: Path) -> None:
    start(tmp_path / "whole")
    recipe, out = str(tmp_path / "recipe.yaml"), str(tmp_path / "out")
    what = 'extract("model-0", "model-1", rank=3' if kind == "extract" else f"merge(load_recipe({recipe!r})"
    program = f"{KILLED}{what}, out={out!r}, on_step=listen, workers=1)"

    root = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    killed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=root, check=False)

    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    left = finished(tmp_path / "out")
    assert len(left) > 2
    assert read_again(start, tmp_path / "out") == len(left)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_disk_that_is_full_at_the_end(start: Start, small_disk: Path, tmp_path: Path) -> None:
    start(tmp_path / "deep" / "whole")

    def fill(step: Any) -> None:
        if step.stage == "Merging" and step.name.startswith(NAMES[-1]):
            with (small_disk / "filler").open("wb", buffering=0) as stream:
                while True:
                    try:
                        stream.write(b"x" * 4096)
                    except OSError:
                        return

    with pytest.raises(MergeError, match="No space left on device"):
        start(small_disk / "out", fill)
    assert not (small_disk / "out").exists()

    (small_disk / "filler").unlink()
    start(small_disk / "out")
    assert files_of(small_disk / "out") == files_of(tmp_path / "deep" / "whole")  # as deep, for the paths in the recipe


def test_an_input_that_vanishes(start: Start, tmp_path: Path) -> None:
    start(tmp_path / "whole")
    [file] = [*tmp_path.glob("adapter-1/*.safetensors"), *tmp_path.glob("model-1/*.safetensors")]

    def vanish(step: Any) -> None:
        if step.stage == "Merging" and step.name.startswith(NAMES[3]):
            file.rename(tmp_path / "away")

    with pytest.raises(MergeError) as caught:
        start(tmp_path / "out", vanish, workers=1)

    words = f"{file.parent.name}/{file.name} could not be read (No such file or directory). Check the file."
    assert str(caught.value).endswith(words)
    assert not (tmp_path / "out").exists()
    (tmp_path / "away").rename(file)
    assert read_again(start, tmp_path / "out") > 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
