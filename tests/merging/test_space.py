"""The rules of a Space: what it opens, reads and writes, and how much room there is for whom."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path

import pytest
import torch

from merging import space
from merging.checkpoint import open_checkpoint, told_apart
from merging.crew import crew
from merging.errors import MergeError
from merging.generate import free_memory
from merging.hub import models, room
from merging.hub.cached import downloaded
from merging.hub.fetch import Wanted
from merging.hub.names import HubName
from merging.hub.preview import preview
from merging.hub.room import room_for, too_many, trim_previews, using
from merging.hub.upload import account
from merging.preflight import check
from merging.publish import target
from merging.recipe import Recipe, _names, load_recipe
from tests.conftest import Family, random_tensors, write_model
from tests.hub import asking, standing_in
from tests.merging.test_hub import Asker, asker, recipe_of

__all__ = ["asker"]

RECIPE = "mergescope: 1\nmerge_method: linear\nbase_model: owner/base\nmodels: [{model: owner/base}]\n"


@pytest.fixture
def in_a_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working folder of a Space."""
    monkeypatch.setenv("SPACE_ID", "someone/mergescope")
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(tmp_path / "app")
    return tmp_path / "app"


@pytest.mark.parametrize("told", ["{base}", "../base", "~", "/etc/passwd", "/no/where", "a\0b", "{zoo}/../base", "."])
def test_a_path_is_not_opened_be_there_something_or_not(family: Family, in_a_space: Path, told: str) -> None:
    base, _ = family()

    with pytest.raises(MergeError, match=r"is a path, and a Space opens none\. Choose an embedded model, or name one"):
        open_checkpoint(told.format(base=base, zoo=space.EMBEDDED))


def test_a_folder_that_is_called_like_a_model_of_the_hub_is_not_opened(in_a_space: Path) -> None:
    write_model(in_a_space / "owner" / "name", random_tensors(0))

    with pytest.raises(MergeError, match="`owner/name` is a path, and a Space opens none"):
        open_checkpoint("owner/name")


def test_what_came_with_a_space_and_what_was_merged_in_it_is_opened(in_a_space: Path) -> None:
    merged = write_model(in_a_space / "merges" / "visitor" / "one", random_tensors(0))

    assert len(open_checkpoint(merged).entries) == 4
    assert open_checkpoint(space.EMBEDDED / "base").config["model_type"] == "llama"
    with pytest.raises(MergeError, match="and no such model was read from the Hub"):
        open_checkpoint("some/model")


def test_a_tokenizer_is_not_taken_from_a_path(family: Family, in_a_space: Path) -> None:
    base, _ = family()
    recipe = Recipe("linear", space.EMBEDDED / "base", (space.EMBEDDED / "bible",), tokenizer_source=str(base))

    assert any("There is no model" in problem for problem in check(recipe).problems)


def test_nobody_learns_by_a_recipe_what_is_on_the_disk(family: Family, in_a_space: Path) -> None:
    base, _ = family()
    ground = space.EMBEDDED / "base"
    model = f"{{model: {{model: {ground}, lora: PATH}}, parameters: {{weight: 1}}}}"
    told = f"merge_method: linear\nbase_model: {ground}\nmodels: [{model}]"

    for path in (str(base), "/no/where"):
        with pytest.raises(
            MergeError,
            match=rf"{path}` puts an adapter on a model\. That can be done with an adapter that is here or on",
        ):
            load_recipe(f"{told.replace('PATH', path)}\n")


def test_the_folder_of_a_visitor_is_no_part_of_a_models_name(in_a_space: Path) -> None:
    mine = write_model(in_a_space / "merges" / "0123" / "base", random_tensors(0))
    models = (space.EMBEDDED / "base", mine)

    assert [model.name for model in told_apart([*map(open_checkpoint, models)])] == ["zoo/base", "merges/base"]
    assert _names(models)[1] == str(in_a_space / "merges" / "base")


def test_a_recipe_names_models_of_the_hub_by_their_names(in_a_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(in_a_space / "hub"))
    home = in_a_space / "hub" / "models--owner--base"
    write_model(home / "snapshots" / ("a" * 40), random_tensors(0))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)

    assert downloaded("owner/base") == home / "snapshots" / ("a" * 40)
    assert load_recipe(RECIPE).base == Path("owner/base")
    monkeypatch.delenv("SPACE_ID")
    assert load_recipe(RECIPE).base == downloaded("owner/base")


def test_pickles_are_not_read(in_a_space: Path) -> None:
    folder = in_a_space / "merges" / "visitor" / "pickled"
    folder.mkdir(parents=True)
    torch.save({"w": torch.ones(3)}, folder / "pytorch_model.bin")

    with pytest.raises(MergeError, match=r"pytorch_model.bin is a file of PyTorch's, which a Space does not read"):
        open_checkpoint(folder)


def test_nothing_is_written_but_among_the_merges(in_a_space: Path, tmp_path: Path) -> None:
    inside = in_a_space / "merges" / "visitor" / "one"

    assert target(inside, 0) == inside
    for out in (tmp_path / "out", "out", in_a_space / "merges" / ".." / "out"):
        with pytest.raises(MergeError, match="is not among the merges of this Space, and nothing is written elsewhere"):
            target(out, 0)


def test_memory_and_cores_are_those_of_the_space(in_a_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (space.memory(), space.cores()) == (16 << 30, 2)
    assert free_memory() <= (16 << 30) - space.RESERVED

    monkeypatch.setenv("MEMORY", "8Gi")
    monkeypatch.setenv("CPU_CORES", "3")

    assert 0 < free_memory() <= 6 << 30  # the tests have some of it themselves
    with crew(64, None) as team:
        assert team.workers == 3


def test_the_largest_models_fit_the_smallest_space(in_a_space: Path) -> None:
    room_for_models = space.memory() - space.RESERVED - 1_000_000_000

    assert 2 * space.largest() <= room_for_models  # a merge in memory, and one model beside it
    assert 3 * space.largest() <= space.MODELS  # a base and two experts
    assert space.largest() <= space.MINE <= space.MERGES
    assert space.MODELS + space.MERGES + space.PREVIEWS <= 0.85 * space.DISK


def test_the_place_of_a_visitors_merges_is_not_told(in_a_space: Path) -> None:
    secret = in_a_space / "merges" / ("0" * 32)

    assert space.hidden(f"{secret}/one is there, and {secret}/two/file") == "one is there, and two/file"


def test_a_space_reads_public_models_that_are_not_too_large(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/mergescope")
    monkeypatch.setenv("MEMORY", "1MB")
    write_model(asker.hub.folder / "owner" / "large", {"w": torch.zeros(250, 500)})
    for name in ("gated", "private"):
        shutil.copytree(asker.hub.folder / "owner" / "base", asker.hub.folder / "owner" / name)
    asker.hub.gated.add("owner/gated")
    asker.hub.private.add("owner/private")

    found = asker.check(recipe_of("owner/expert", "owner/large", "owner/gated", "owner/private", "owner/pickled"))

    large, gated, private, pickled = found["problems"]
    assert large.startswith(
        "`owner/large` has 500 kB of weights, and this Space takes models of up to 400 kB. It can be merged on a "
        "machine of your own: `git clone https://huggingface.co/spaces/someone/mergescope`"
    )
    assert gated.startswith("`owner/gated` is gated or private, and this Space reads public models only")
    assert private.endswith("Check the name. This Space reads public ones only.")
    assert "PyTorch files only" in pickled
    assert not any(re.search("(large|gated)/resolve", one.path) for one in asker.hub.sent())


def test_models_that_do_not_fit_together_are_not_downloaded(in_a_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        models, "looked_at", lambda _, anew: dict.fromkeys("ab", Wanted(HubName("a/b"), {"x": 13_000_000_000}))
    )
    recipe = Recipe("linear", Path("a/b"), (Path("c/d"),))

    with pytest.raises(
        MergeError, match=r"These models take 26\.0 GB together, and this Space keeps 25\.0 GB of models"
    ):
        models.fetched(recipe)


def test_a_token_of_the_machine_is_nobodys_who_visits(in_a_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_owner")

    with pytest.raises(MergeError, match="Nobody is signed in to the Hub: sign in at the top of the page"):
        account()


@pytest.fixture
def downloads(in_a_space: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Room for ten kilobytes of models, of which three have three each."""
    folder = in_a_space / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(space, "MODELS", 10_000)
    monkeypatch.setattr(room, "_used", {})
    for name in ("a", "b", "c"):
        blobs = folder / f"models--owner--{name}" / "blobs"
        blobs.mkdir(parents=True)
        (blobs / "weights.incomplete").write_bytes(b"x" * 3000)
        with using(f"owner/{name}"):
            pass
    return folder


def left(downloads: Path) -> str:
    return "".join(sorted(folder.name[-1] for folder in downloads.iterdir()))


def test_models_that_were_used_longest_ago_make_room(downloads: Path) -> None:
    with using("owner/a@main"):
        pass
    with room_for(HubName("owner/d"), 1000):
        assert left(downloads) == "abc"

    with room_for(HubName("owner/d"), 3000):
        assert left(downloads) == "ac"


def test_models_in_use_stay_and_so_does_room_that_was_promised(downloads: Path) -> None:
    with using("owner/a", "owner/b"), room_for(HubName("owner/d"), 2000):
        assert left(downloads) == "ab"

        with (
            pytest.raises(MergeError, match=r"keeps 10 kB .* leave too little for `owner/e` \(5 kB\). Try again"),
            room_for(HubName("owner/e"), 5000),
        ):
            raise AssertionError

    assert left(downloads) == "ab"
    with room_for(HubName("owner/e"), 5000):
        assert left(downloads) == "b"


def test_models_that_are_here_count_beside_those_that_are_downloaded_for_them(downloads: Path) -> None:
    models = (Path("owner/a"), "owner/b@main", "owner/c", "owner/d", None, downloads)
    for name in ("a", "b"):  # and the third is what came before the download was stopped, which is not fetched twice
        part = downloads / f"models--owner--{name}" / "blobs" / "weights.incomplete"
        part.rename(part.with_name("weights"))

    assert too_many(models, 4000) == ""
    assert too_many(models, 4001).startswith("These models take 10 kB together, and this Space keeps 10 kB of models")
    assert too_many((*models, "owner/b"), 4000) == ""  # once
    assert "or Stream in step 3" in too_many(models, 4001, streamed=True)


def test_what_has_arrived_of_a_download_is_counted_once(downloads: Path) -> None:
    with room_for(HubName("owner/d"), 1000):
        (downloads / "models--owner--d").mkdir()
        (downloads / "models--owner--d" / "weights").write_bytes(b"x" * 1000)
        with room_for(HubName("owner/e"), 0):
            assert left(downloads) == "abcd"


@pytest.fixture
def headers(in_a_space: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Previews of three models with two kilobytes each, where there is room for five; the first was used last."""
    monkeypatch.setenv("MERGESCOPE_CACHE", str(in_a_space / "cache"))
    monkeypatch.setattr(space, "PREVIEWS", 5000)
    monkeypatch.setattr(room, "_used", {})
    folder = in_a_space / "cache" / "previews"
    for name in "abc":
        (folder / f"owner--{name}" / ("0" * 40)).mkdir(parents=True)
        (folder / f"owner--{name}" / ("0" * 40) / "header").write_bytes(b"x" * 2000)
    with using("owner/a"):
        pass
    return folder


def previewed(headers: Path) -> str:
    return "".join(sorted(folder.parent.name[-1] for folder in headers.glob("*/*") if folder.is_dir()))


def test_previews_that_were_used_longest_ago_make_room(headers: Path) -> None:
    trim_previews()

    assert previewed(headers) == "ac"


def test_previews_in_use_or_being_made_stay(headers: Path) -> None:
    (headers / "owner--b" / ("0" * 40)).rename(headers / "owner--b" / ".making-it")

    with using("owner/c@main"):
        (headers / "owner--c" / ("0" * 40) / "tokenizer.json").write_bytes(b"x" * 2000)
        trim_previews()

    assert previewed(headers) == "bc"


def test_a_preview_that_is_made_makes_room_for_itself(headers: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "root" / "owner" / "new", random_tensors(0))

    with standing_in(tmp_path / "root") as hub, asking(hub, tmp_path / "hub"):
        made = preview(HubName("owner/new"))

    assert made.is_dir()
    assert previewed(headers) == "acw"


def test_what_is_kept_is_measured_while_downloads_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"12345")
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            for number in range(8):
                (tmp_path / f"tmp{number}").mkdir()
                (tmp_path / f"tmp{number}" / "link").symlink_to(tmp_path / "model")
            for number in range(8):
                shutil.rmtree(tmp_path / f"tmp{number}")

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        sizes = {room.size_of(tmp_path) for _ in range(500)}
    finally:
        over.set()
        other.join()

    assert sizes == {5}
