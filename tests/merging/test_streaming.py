"""Models of the Hub that are read there while they are merged: the same bytes come out, and nothing of them is kept."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from merging import MergeError, MergeStopped, Recipe, merge
from merging.caches import previews
from merging.checkpoint import open_checkpoint
from merging.cli import main
from merging.engine import Step
from merging.hub import ahead, ranges
from merging.hub.models import fetched, pinned
from merging.hub.moved import moved
from merging.hub.names import HubName
from merging.method import find_method
from merging.passes import readings
from merging.plan import plan
from merging.preflight import check
from merging.whole import whole_tensors
from tests.conftest import random_tensors, write_model
from tests.hub import TOKEN, Hub, asking, standing_in
from tests.merging.test_vocabulary import speaker

BASE, EXPERTS = Path("owner/base"), (Path("owner/one"), Path("owner/two"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub has a base and two experts, in other dtypes and shards, with tensors that are copied or kept."""
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "known"))
    root = tmp_path / "root" / "owner"
    counts = {"model.counts": torch.arange(9)}
    write_model(root / "base", {**random_tensors(0, torch.bfloat16), **counts, "model.alone.weight": torch.ones(7)})
    write_model(root / "one", {**random_tensors(1), "model.extra.weight": torch.full((5,), 2.0)}, shards=2)
    write_model(root / "two", random_tensors(2, torch.float16))
    with standing_in(tmp_path / "root") as found, asking(found, tmp_path / "cache"):
        yield found


def recipe_of(method: str, **given: Any) -> Recipe:
    return Recipe(method, BASE, EXPERTS, extra_tensors="keep", **given)


def like(recipe: Recipe, method: str) -> Recipe:
    """The recipe by another method, with as many experts as that takes."""
    return replace(recipe, method=method, experts=recipe.experts[: find_method(method).taking(2)])


def streamed(recipe: Recipe, out: Path, **given: Any) -> Any:
    return merge(pinned(recipe), out, stream=True, fsync=False, **given)


def weights_sent(hub: Hub) -> int:
    """The bytes of weights that the Hub was asked for behind their headers."""
    total = 0
    for one in hub.sent():
        if one.path.endswith(".safetensors") and not one.bytes.startswith("bytes=0-"):
            first, last = one.bytes[6:].split("-")
            total += int(last) + 1 - int(first)
    return total


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


METHODS = {  # with the readings that each takes
    "linear": 1, "task_arithmetic": 1, "dare_ties": 1, "della": 1, "consensus_ta": 1, "iso_c": 1, "from": 2,
    "model_stock": 2, "slerp": 2, "multislerp": 2, "breadcrumbs": 2,
}  # fmt: skip


def test_what_is_streamed_makes_the_same_folder_as_what_was_downloaded(
    hub: Hub, tmp_path: Path, small_chunks: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(8, 2)
    monkeypatch.setattr(ahead, "LEAST", 100)
    monkeypatch.setattr(ahead, "MOST", 100)
    here, expected = fetched(recipe_of("linear")), dict[str, dict[str, bytes]]()
    for method in METHODS:
        merge(like(here, method), tmp_path / "here" / method, fsync=False)
        expected[method] = contents(tmp_path / "here" / method)
    shutil.rmtree(tmp_path / "cache")
    there = pinned(recipe_of("linear"))

    for method, times in METHODS.items():
        found = check(like(there, method), stream=True)
        hub.asked.clear()
        report = merge(like(there, method), tmp_path / method, stream=True, fsync=False, workers=2)

        assert contents(tmp_path / method) == expected[method], method
        assert found.fetching
        assert found.fetching.times == times, method
        assert report.fetched == found.fetching.bytes == weights_sent(hub), method
    assert not [*(tmp_path / "cache").rglob("*.safetensors")]
    assert max(file.stat().st_size for file in previews().rglob("*.safetensors")) < 2000  # headers


def test_scope_decides_how_often_a_model_is_fetched(hub: Hub) -> None:
    for scope in ("model", "tensor"):
        found = check(pinned(recipe_of("from", values={"scope": scope})), stream=True)

        assert found.fetching
        assert (found.fetching.times, found.problems) == (2, ())
        assert found.fetching.words.endswith(" from the Hub up to twice (1.46 kB in all)")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            recipe_of("ties"),
            "TIES-Merging reads the weights up to 3 times, so it would fetch 792 bytes from the Hub up to 3 times (",
        ),
        (recipe_of("fisher"), "needs statistics of"),
        (replace(recipe_of("linear"), experts=(*EXPERTS, Path("owner/lora"))), "lora is an adapter, for which bytes"),
        (replace(recipe_of("linear"), experts=(Path("owner/lora"),), result="adapter"), "Adapters that become one"),
    ],
    ids=["three passes", "statistics", "an adapter", "into an adapter"],
)
def test_what_would_be_fetched_more_often_is_refused(hub: Hub, tmp_path: Path, recipe: Recipe, message: str) -> None:
    _write_lora(hub.folder / "owner" / "lora")

    with pytest.raises(MergeError, match=re.escape(message)):
        streamed(recipe, tmp_path / "out")

    assert weights_sent(hub) == 0
    assert not (tmp_path / "out").exists()
    assert not check(pinned(recipe_of("ties"))).problems  # for a merge that downloads


def _write_lora(folder: Path) -> None:
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    write_model(folder, {name.format("A"): torch.randn(2, 4), name.format("B"): torch.randn(6, 2)})
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "config.json").unlink()
    told = '{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]}'
    (folder / "adapter_config.json").write_text(told)


def test_hashes_of_what_is_streamed_are_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="they have no SHA-256 to note"):
        streamed(recipe_of("linear"), tmp_path / "out", hash_inputs=True)

    assert weights_sent(hub) == 0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "FIRST", 0.0)


@pytest.mark.usefixtures("quick")
def test_what_breaks_off_is_gone_on_with_where_it_was(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "LEAST", 2_000_000)
    for name in ("base", "one", "two"):
        shutil.rmtree(hub.folder / "owner" / name)
        write_model(hub.folder / "owner" / name, {"w": torch.randn(300, 1000)})
    merge(fetched(recipe_of("linear")), tmp_path / "here", fsync=False)
    shutil.rmtree(tmp_path / "cache")
    recipe = pinned(recipe_of("linear"))
    hub.asked.clear()
    hub.breaks["model.safetensors"] = 700_000
    hub.busy = [503, 429, 500]

    merge(recipe, tmp_path / "out", stream=True, fsync=False)

    assert contents(tmp_path / "out") == contents(tmp_path / "here")
    assert not hub.breaks
    assert not hub.busy
    starts = [int(one.bytes[6:].split("-")[0]) for one in hub.sent()]
    assert 700_000 in starts  # and what had come before was not asked for again
    assert len(starts) == 2 + 1 + 3


@pytest.mark.usefixtures("quick")
def test_a_hub_that_never_answers_is_told_of(hub: Hub, tmp_path: Path) -> None:
    hub.busy = [503] * 100

    with pytest.raises(MergeError, match=r"The Hub answered 503 for `owner/.*`\. Try again in a while\."):
        streamed(recipe_of("linear"), tmp_path / "out")

    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("lie", ["whole", "short", "shorter", "long", "changed", "moved"])
def test_other_bytes_than_were_asked_for_are_refused(
    hub: Hub, tmp_path: Path, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "LEAST", 20)
    monkeypatch.setattr(ahead, "MOST", 20)
    recipe = pinned(recipe_of("linear"))
    hub.lies = lie
    file = r"model.*safetensors of `owner/\w+`"
    words = (
        f"sends {file} as a whole only, .* `hf download" if lie == "whole" else f"sent other bytes of {file} .* again"
    )

    with pytest.raises(MergeError, match=f"^The Hub {words}"):
        merge(recipe, tmp_path / "out", stream=True, workers=1)

    assert [path.name for path in tmp_path.iterdir()] == ["root", "cache"] or not (tmp_path / "out").exists()


def test_a_file_that_is_on_another_host_is_fetched_there_without_the_token(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("owner/one")
    hub.elsewhere = True
    with asking(hub, tmp_path / "cache", TOKEN):
        recipe = pinned(recipe_of("linear"))
        hub.asked.clear()

        merge(recipe, tmp_path / "out", stream=True, fsync=False)

    assert {(one.host, one.signed) for one in hub.sent()} == {("127.0.0.1", True), ("localhost", False)}


def test_a_merge_that_was_stopped_leaves_nothing_and_goes_on(
    hub: Hub, tmp_path: Path, small_chunks: Callable[..., None]
) -> None:
    small_chunks(8)
    stop = threading.Event()

    def on_step(step: Step) -> None:
        if step.name == "model.layers.1.mlp.up_proj.weight":
            stop.set()

    with pytest.raises(MergeStopped):
        streamed(recipe_of("linear"), tmp_path / "out", stop=stop, on_step=on_step, workers=1)
    assert not (tmp_path / "out").exists()
    for thread in [thread for thread in threading.enumerate() if thread.name == "fetch"]:
        thread.join(20)
        assert not thread.is_alive()
    hub.asked.clear()
    steps = list[Step]()
    report = streamed(recipe_of("linear"), tmp_path / "out", on_step=steps.append)

    assert 0 < report.kept < 7
    assert report.fetched == weights_sent(hub) < check(pinned(recipe_of("linear"))).fetching.bytes  # type: ignore[union-attr]
    assert (steps[-1].bytes_done, steps[-1].bytes_total) == (report.fetched, report.fetched)
    merge(fetched(recipe_of("linear")), tmp_path / "here", fsync=False)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "here/model.safetensors").read_bytes()


def test_stop_is_heard_while_the_hub_wants_to_be_left_alone(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "FIRST", 3600.0)
    recipe, stop = pinned(recipe_of("linear")), threading.Event()
    hub.busy = [429] * 100
    threading.Timer(0.3, stop.set).start()

    with pytest.raises(MergeStopped):
        merge(recipe, tmp_path / "out", stream=True, stop=stop)

    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_what_is_not_finite_is_named_as_in_any_merge(hub: Hub, tmp_path: Path) -> None:
    write_model(
        hub.folder / "owner/two", {**random_tensors(2), "model.norm.weight": torch.tensor([1, torch.nan, 1, 1])}
    )

    with pytest.raises(MergeError, match=r"`model\.norm\.weight` of two holds NaN or infinity\."):
        streamed(recipe_of("linear"), tmp_path / "out")


def test_memory_stays_within_what_was_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "known"))
    for number, name in enumerate(["base", "one", "two"]):
        bits = torch.arange(12 << 20, dtype=torch.int32).mul_(2654435 + number).bitwise_and_(0x3FFF).short()
        write_model(tmp_path / "root/owner" / name, {"w": bits.view(torch.bfloat16)})
    with standing_in(tmp_path / "root") as hub, asking(hub, tmp_path / "cache"):
        recipe = pinned(recipe_of("task_arithmetic"))
        found = check(recipe, memory=60_000_000, workers=1, stream=True)

        for out in ("before", "out"):  # what is compiled and imported at first is none of it
            report = merge(recipe, tmp_path / out, stream=True, memory="60MB", workers=1)

    assert found.memory == report.planned < 360_000_000
    assert report.fetched == 72 << 20
    assert report.taken.peak - report.taken.before < 60_000_000


def test_the_command_line_streams(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(recipe_of("from").to_yaml(tmp_path))

    assert main(["check", "recipe.yaml", "--stream"]) == 0
    told = capsys.readouterr().out
    assert "Meanwhile it fetches 792 bytes from the Hub up to twice (1.46 kB in all), and keeps none of it." in told
    assert "downloaded" not in told
    assert main(["merge", "recipe.yaml", "out", "--stream", "--no-fsync"]) == 0
    told = capsys.readouterr().out
    assert "Merged owner/one and owner/two into owner/base by FroM." in told
    assert "Fetched 1.46 kB from the Hub, and kept none of it." in told
    assert not [*(tmp_path / "cache").rglob("*.safetensors")]
    assert moved(Path("out")) == {}  # it can be published without a picture
    assert f"base_model: owner/base@{hub.commit('owner/base')}" in Path("out/mergescope.yaml").read_text()

    Path("recipe.yaml").write_text(recipe_of("pcb").to_yaml(tmp_path))
    assert main(["merge", "recipe.yaml", "again", "--stream"]) == 1
    assert "PCB-Merging reads the weights up to 3 times" in capsys.readouterr().err
    assert not Path("again").exists()


class Numbers(ranges.Ranged):
    """A file whose bytes are their places."""

    def fill(self, start: int, out: memoryview, came: Callable[[int], None], over: threading.Event) -> None:
        out[:] = bytes(range(start, start + len(out)))
        came(len(out))


def test_what_is_read_otherwise_than_was_expected_is_read_all_the_same() -> None:
    file = Path("w")
    reader = ahead.Ahead({file: Numbers(HubName("a/b"), "w", 100)}, 1 << 20, 1)
    try:
        reader.expect([[(file, 10, 20), (file, 10, 20)], [(file, 20, 60)]])
        assert reader.read(file, 10, 14) == bytes(range(10, 14))
        assert reader.read(file, 10, 14) == bytes(range(10, 14))  # by the other who was to read it
        assert reader.read(file, 30, 32) == bytes(range(30, 32))  # nobody was to begin there
        assert reader.read(file, 14, 60) == bytes(range(14, 60))
        assert reader.fetched >= 62
        reader.expect([[(file, 1, 3)]])
        assert reader.read(file, 1, 3) == bytes([1, 2])
        assert reader.held == 0
    finally:
        reader.close()


def test_what_ranks_large_tensors_reads_them_more_often(tmp_path: Path) -> None:
    for number, name in enumerate(["base", "one", "two"]):
        noise = torch.randn(550, 500, generator=torch.Generator().manual_seed(number))
        write_model(tmp_path / name, {"w": noise.bfloat16(), "v": noise[0]})
    base, *experts = (open_checkpoint(tmp_path / name) for name in ("base", "one", "two"))
    often = dict[str, int]()
    for method in METHODS:
        recipe = like(Recipe(method, tmp_path / "base", (tmp_path / "one", tmp_path / "two")), method)
        work, settings = plan(base, experts[: len(recipe.experts)]), recipe.settings()
        often[method] = readings(work, settings, whole_tensors(work, settings))["w"]

    assert often == {**METHODS, "breadcrumbs": 3}


def test_rows_that_are_matched_by_their_tokens_are_not_streamed(hub: Hub, tmp_path: Path) -> None:
    speaker(hub.folder / "owner" / "spoken", ["a", "b", "c"], torch.randn(3, 2))
    speaker(hub.folder / "owner" / "other", ["a", "c", "b"], torch.randn(3, 2))
    recipe = Recipe("linear", Path("owner/spoken"), (Path("owner/other"),))

    with pytest.raises(MergeError, match="other has tensors that are worked out from others, for which bytes would be"):
        streamed(recipe, tmp_path / "out")
    assert not check(pinned(recipe)).problems  # for a merge that downloads
