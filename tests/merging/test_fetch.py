"""Downloading a model of the Hub again, after it was stopped, killed, or damaged, and beside somebody else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from merging.errors import MergeError, MergeStopped
from merging.hub.fetch import fetch
from merging.hub.names import HubName
from merging.hub.preview import preview
from merging.hub.weights import STEP
from merging.sizes import in_words
from tests.conftest import write_model
from tests.hub import Hub, asking, environment, standing_in

MODEL = HubName("owner/model")
ROOT = Path(__file__).parents[2]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Has a model in two files of 12 MB each, and takes half a second for one."""
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "known"))
    tensors = {f"model.layers.{number}.weight": torch.randn(3 << 20) for number in range(2)}
    write_model(tmp_path / "root" / "owner" / "model", tensors, shards=2)
    with standing_in(tmp_path / "root") as hub, asking(hub, tmp_path / "hf" / "hub"):
        hub.slow = 0.01
        yield hub


def stopped_at(most: int) -> list[int]:
    """Download until so many bytes are here; what was told on the way."""
    stop, told = threading.Event(), list[int]()

    def tell(here: int, _: int) -> None:
        told.append(here)
        if here >= most:
            stop.set()

    with pytest.raises(MergeStopped):
        fetch([MODEL], tell, stop)
    return told


def left(tmp_path: Path) -> list[Path]:
    """What is left of downloads that did not end."""
    return [*(tmp_path / "hf").glob("hub/*/blobs/*.incomplete")]


def ranges(hub: Hub) -> list[tuple[str, int]]:
    """What was asked for of the weights: the file, and where the bytes began."""
    sent = [one for one in hub.sent() if one.path.endswith(".safetensors")]
    return sorted((Path(one.path).name, int(one.bytes[6:].partition("-")[0])) for one in sent)


def expect_whole(hub: Hub, folder: Path) -> None:
    for file in (hub.folder / "owner" / "model").glob("*.safetensors"):
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_a_download_that_was_stopped_goes_on_within_the_file(hub: Hub, tmp_path: Path) -> None:
    told = stopped_at(17 << 20)  # in the middle of the second file
    [part] = left(tmp_path)
    here = part.stat().st_size
    assert 0 < here < 12 << 20
    hub.asked.clear()

    again = list[int]()
    [folder] = fetch([MODEL], lambda done, total: again.append(done))

    expect_whole(hub, folder)
    assert ranges(hub)[0] == ("model-00002-of-00002.safetensors", here)
    assert {file for file, _ in ranges(hub)} == {"model-00002-of-00002.safetensors"}
    assert told == sorted(told)
    assert again == sorted(again)
    assert again[0] - told[-1] <= 2 * STEP
    assert not left(tmp_path)


def test_a_download_that_was_killed_goes_on_within_the_file(hub: Hub, tmp_path: Path) -> None:
    told = environment(hub, tmp_path / "hf") | {"MERGESCOPE_CACHE": str(tmp_path / "known"), "PYTHONPATH": str(ROOT)}
    script = (
        "from merging.hub.fetch import fetch; from merging.hub.names import HubName; fetch([HubName('owner/model')])"
    )
    with subprocess.Popen([sys.executable, "-c", script], env=told, cwd=tmp_path) as other:
        while not any(part.stat().st_size > 2 * STEP for part in left(tmp_path)):
            assert other.poll() is None
            time.sleep(0.01)
        other.kill()
    [part] = left(tmp_path)
    here = part.stat().st_size
    hub.asked.clear()

    expect_whole(hub, *fetch([MODEL]))
    assert ("model-00001-of-00002.safetensors", here) in ranges(hub)
    assert ("model-00001-of-00002.safetensors", 0) not in ranges(hub)


def test_what_was_damaged_meanwhile_is_deleted_and_told_of(hub: Hub, tmp_path: Path) -> None:
    stopped_at(4 << 20)
    [part] = left(tmp_path)
    with part.open("r+b") as file:
        file.seek(1000)
        file.write(b"other bytes")

    with pytest.raises(
        MergeError, match=r"^model-00001-of-00002\.safetensors of `owner/model` did not come as the Hub"
    ):
        fetch([MODEL])
    assert not left(tmp_path)
    expect_whole(hub, *fetch([MODEL]))


def test_what_is_longer_than_the_file_is_begun_anew(hub: Hub, tmp_path: Path) -> None:
    stopped_at(4 << 20)
    [part] = left(tmp_path)
    part.write_bytes(b"x" * (13 << 20))

    expect_whole(hub, *fetch([MODEL]))


def test_two_who_want_the_same_download_it_once(hub: Hub) -> None:
    preview(MODEL)  # which reads the headers
    hub.asked.clear()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fetch, [[MODEL], [MODEL]])

    assert first == second
    expect_whole(hub, *first)
    assert {start for _, start in ranges(hub)} > {0}
    assert len(ranges(hub)) == len({*ranges(hub)})


def test_who_waits_for_somebody_elses_download_can_stop(hub: Hub, tmp_path: Path) -> None:
    stopped_at(4 << 20)
    [part] = left(tmp_path)
    lock = tmp_path / "hf" / "hub" / ".locks" / part.parents[1].name / f"{part.stem}.lock"
    assert lock.exists()

    with FileLock(lock):
        told = stopped_at(part.stat().st_size)

    assert told == [part.stat().st_size]


def test_the_disk_is_checked_for_what_is_still_to_come(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_at(4 << 20)
    [part] = left(tmp_path)
    sizes = [file.stat().st_size for file in (hub.folder / "owner" / "model").glob("*.safetensors")]
    missing = sum(sizes) - part.stat().st_size
    free = [missing - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(1 << 40, 0, free[0]))
    hub.asked.clear()

    place = tmp_path / "hf" / "hub"
    words = re.escape(
        f"`owner/model` needs {in_words(missing)} in {place}, and {in_words(free[0])} are free. Free some"
    )
    with pytest.raises(MergeError, match=words):
        fetch([MODEL])
    assert not ranges(hub)
    free[0] = missing
    expect_whole(hub, *fetch([MODEL]))


def test_the_disk_is_checked_for_all_models_before_the_first_is_downloaded(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(hub.folder / "owner" / "other", {"w": torch.zeros(1000)})
    names = [MODEL, HubName("owner/other")]
    size = sum(file.stat().st_size for file in (hub.folder / "owner").glob("*/*.safetensors"))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(1 << 40, 0, size - 1))
    preview(MODEL)
    preview(names[1])
    hub.asked.clear()

    with pytest.raises(MergeError, match=r"^`owner/model` and `owner/other` need "):
        fetch(names)
    assert not ranges(hub)
