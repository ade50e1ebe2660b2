"""The page in a Space: what it offers, where merges go and how long they are there, and with whose token it asks."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from merging import space
from merging.adapter import open_base
from merging.engine import merge
from merging.errors import MergeError
from merging.generate import Ask
from merging.hub import room
from merging.hub.moved import moved
from merging.recipe import Recipe
from merging.report import Report
from merging.unwritten import merged_in_memory
from tests.adapters import random_adapter
from tests.conftest import random_tensors, write_model
from tests.ui.screens import Screen
from ui import family, gpu, merges
from ui.build import build
from ui.finished import finished, kept
from ui.folders import next_folder, placed
from ui.guard import Guard
from ui.history_panel import listed
from ui.jobs import stop, stoppable
from ui.line import its_turn
from ui.merge_panel import run_merge
from ui.merges import expire, home, make_room, reading
from ui.models_panel import choose, read_models
from ui.tensor_panel import against, look
from ui.visit import Visit
from ui.wires import history

RECIPE = Recipe("linear", family.BASE, family.EXPERTS)


@pytest.fixture
def in_a_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working folder of a Space."""
    monkeypatch.setenv("SPACE_ID", "someone/mergescope")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def built_in_a_space() -> gr.Blocks:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPACE_ID", "someone/mergescope")
        return build()


@pytest.fixture
def there(built_in_a_space: gr.Blocks, in_a_space: Path) -> Screen:
    """The page of a visitor of a Space."""
    return Screen(built_in_a_space)


def test_the_page_asks_for_names_and_for_no_path(there: Screen) -> None:
    info = {name: there.named[name].info for name in ("base", "experts", "output")}

    assert not there.sees("recipe-path")
    assert "recipe-path" not in {getattr(block, "elem_id", "") for block in listeners(there)}
    assert "path" not in info["base"]
    assert "folder" not in info["experts"]
    assert there.named["output"].label == "Name of the merge"
    assert [title for title, _ in there.named["hub-family"].choices][-1] == "TinyLlama 1.1B"
    words = " ".join(str(block.value) for block in there.demo.blocks.values() if isinstance(block, gr.HTML))
    assert "takes public models of up to 6.87 GB each" in words
    assert "git clone https://huggingface.co/spaces/someone/mergescope" in words
    assert "lacks <code>hf_oauth: true</code>" in words


def listeners(there: Screen) -> list[Any]:
    """The components that something listens to."""
    targets = [number for function in there.demo.fns.values() for number, _ in function.targets]
    return [there.demo.blocks[number] for number in targets if number in there.demo.blocks]


def test_a_merge_goes_to_a_folder_of_its_visitor_and_is_downloaded(there: Screen, in_a_space: Path) -> None:
    there.choose(family.BASE, family.EXPERTS)
    there["output"] = "mine"

    there.fire("run")

    place = home("someone") / "mine"
    assert (place / "model.safetensors").is_file()
    assert place.is_relative_to(in_a_space / "merges")
    links = re.findall(r'href="gradio_api/file=([^"]+)" download="([^"]+)"', there["merge-status"])
    assert links[0] == (str(place / "model.safetensors"), "model.safetensors")
    assert {name for _, name in links} == {file.name for file in place.iterdir()}
    seen = re.sub(r'href="[^"]*"', "", there["merge-status"] + there["history"])
    assert place.parent.name not in seen
    assert "<code>mine</code>" in seen
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{6}-[a-z]{4}", there["output"])  # for the next one


@pytest.mark.parametrize("signs", [True, False])
def test_a_result_promises_to_publish_only_to_those_who_signed_in(
    in_a_space: Path, monkeypatch: pytest.MonkeyPatch, signs: bool
) -> None:
    monkeypatch.setattr(space, "signs_in", lambda: signs)
    report = Report(in_a_space / "mine", 0, 0.0, {})

    said = finished(report, None)

    assert "download them" in said
    assert ("step 5 if you are signed in. Signing in only now" in said) is signs
    assert ("step 5" in said) is signs
    assert ("sign in at the top before you merge" in kept()) is signs


@pytest.mark.parametrize("told", ["../mine", "/tmp/mine", "merges/mine", "~", "a b", ".hidden", "x" * 101, "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(there: Screen, in_a_space: Path, told: str) -> None:
    there.choose(family.BASE, family.EXPERTS)
    there["output"] = told

    there.fire("output", "change")
    assert not there.can("run")
    assert "cannot be the name of a merge here" in there["merge-estimate"]
    there.fire("run")

    assert "cannot be the name of a merge here" in there["merge-status"]
    assert not (in_a_space / "merges").exists()


def test_a_recipe_that_names_a_path_is_refused_with_what_can_be_done_here(there: Screen) -> None:
    text = "mergescope: 1\nmerge_method: linear\nbase_model: ../mine\nmodels: [{model: ../mine}]\n"

    there.fire("recipe-drop", "dropped", name="recipe.yaml", text=text)

    assert "called mine. Name one of the Hub in its place: <code>owner/name</code>." in there["recipe-opened"]


def test_visitors_have_folders_that_do_not_follow_from_their_names(
    in_a_space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = placed("mine", "one"), placed("mine", "other")

    assert one != other
    assert re.fullmatch(r"[0-9a-f]{32}", Path(one).parent.name)
    monkeypatch.setattr(merges, "SECRET", b"of another start")
    assert placed("mine", "one") != one


def test_elsewhere_folders_are_as_they_are_told() -> None:
    assert placed(" merges/mine ", "one") == "merges/mine"


def put(visitor: str, name: str, size: int, used: float) -> Path:
    """A merge that was made earlier."""
    folder = home(visitor) / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * size)
    os.utime(folder, (used, used))
    return folder


@pytest.fixture
def small(in_a_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "MINE", 5000)
    monkeypatch.setattr(space, "MERGES", 9000)


@pytest.mark.usefixtures("small")
def test_a_visitors_own_merges_make_room_the_oldest_first() -> None:
    first, second, theirs = put("me", "b", 2000, 1), put("me", "a", 2000, 2), put("you", "c", 2000, 0)
    begun = put("me", ".new.part", 4000, 0)  # of the very merge, which goes on there

    make_room("me", home("me") / "new", 3000)

    assert [path.is_dir() for path in (first, second, theirs, begun)] == [False, True, True, True]


@pytest.mark.usefixtures("small")
def test_merges_of_all_make_room_and_none_of_a_visitor_at_work() -> None:
    first, second = put("you", "one", 4000, 1), put("they", "one", 4000, 2)

    with stoppable("you", "sample"):
        make_room("me", home("me") / "new", 3000)
        assert [path.is_dir() for path in (first, second)] == [True, False]
        put("we", "one", 4000, 3)
        with stoppable("we", "publish"), pytest.raises(MergeError, match="and all of them are in use"):
            make_room("me", home("me") / "new", 3000)


@pytest.mark.usefixtures("small")
def test_what_others_have_just_merged_stays_and_ones_own_does_not() -> None:
    theirs, mine = put("you", "one", 4500, time.time() - space.SPARED + 60), put("me", "one", 4000, time.time())

    make_room("me", home("me") / "new", 4500)

    assert [path.is_dir() for path in (theirs, mine)] == [True, False]
    put("they", "one", 4500, time.time())
    with pytest.raises(MergeError, match="and all of them are in use or were just made"):
        make_room("me", home("me") / "new", 4500)
    os.utime(theirs, (1, time.time() - space.SPARED - 1))
    make_room("me", home("me") / "new", 4500)
    assert not theirs.is_dir()


@pytest.mark.usefixtures("small")
def test_who_uses_all_that_a_visitor_may_have_is_told_to_wait() -> None:
    mine = put("me", "one", 4000, 1)

    with (
        stoppable("me", "sample"),
        pytest.raises(MergeError, match="keeps 5 kB of merges for a visitor, and yours are"),
    ):
        make_room("me", home("me") / "new", 3000)
    with pytest.raises(MergeError, match="The merge takes 6 kB, and this Space keeps 5 kB for a visitor"):
        make_room("me", home("me") / "new", 6000)

    assert mine.is_dir()


def test_merges_are_deleted_when_nobody_has_used_them_for_long(in_a_space: Path) -> None:
    old, new, used = put("me", "old", 1, 1000), put("me", "new", 1, 2000), put("you", "used", 1, 1000)

    with stoppable("you", "compare"):
        expire(1500 + space.KEPT)
    assert [path.is_dir() for path in (old, new, used)] == [False, True, True]
    expire(1500 + space.KEPT)

    assert used.is_dir()  # as if it had been made when the work was last seen
    history = Visit().merged(RECIPE, Report(old, 0, 0.0, {})).history
    assert "old (not there any more)" in listed(history)


def test_a_folder_of_a_visitor_goes_with_the_last_merge_in_it(in_a_space: Path) -> None:
    put("gone", "one", 1, 1000)
    home("begins").mkdir()

    with stoppable("begins", "merge"):
        expire(1001 + space.KEPT)

    assert list(space.merges().iterdir()) == [home("begins")]


@pytest.mark.parametrize("name", ["mine", "other"])
def test_a_merge_that_is_downloaded_is_used(in_a_space: Path, name: str) -> None:
    mine, other = put("me", "mine", 1, 1000), put("me", "other", 1, 1000)

    async def nothing(*_: Any) -> None:
        return

    path = f"/gradio_api/file={home('me') / name}/model.safetensors"
    asked = {"type": "http", "method": "GET", "path": path, "headers": []}
    asyncio.run(Guard(nothing)(asked, nothing, nothing))

    expire(1001 + space.KEPT)
    assert (mine.is_dir(), other.is_dir()) == (name == "mine", name == "other")


@pytest.mark.usefixtures("small")
def test_what_a_merge_reads_or_one_that_waits_will_makes_no_room() -> None:
    mine, theirs, other = put("me", "one", 2000, 1), put("you", "two", 4000, 2), put("me", "three", 2000, 3)

    with reading(mine, None), reading("owner/base", str(theirs / "model.safetensors"), "a\0b"):
        make_room("me", home("me") / "new", 3000)
        assert [path.is_dir() for path in (mine, theirs, other)] == [True, True, False]
        expire(5 + space.KEPT)
        with pytest.raises(MergeError, match="Wait until nothing else runs here, or take none of them into this"):
            make_room("me", home("me") / "new", 4000)
    make_room("me", home("me") / "new", 4000)

    assert [path.is_dir() for path in (mine, theirs)] == [False, True]


def test_a_merge_keeps_what_it_reads_from_its_place_in_the_line_on(in_a_space: Path) -> None:
    mine = put("me", "one", 2000, 1)
    merging = run_merge(Recipe("linear", mine, (mine,)), str(home("me") / "new"), "me")
    with its_turn(threading.Event()):
        next(merging)
        assert (mine, mine, "") in merges._read
        stop("me", "merge")
        list(merging)
    assert merges._read == []


def test_models_that_are_read_make_no_room_for_others(in_a_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(in_a_space / "hub"))
    cached = in_a_space / "hub" / "models--owner--base"
    write_model(cached / "snapshots" / ("a" * 40), random_tensors(0))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    shapes = {"model.layers.1.mlp.up_proj": (6, 4)}
    expert = random_adapter(home("me") / "expert", 1, shapes, rank=2)
    recipe = Recipe("task_arithmetic", Path("owner/base"), (expert,), result="adapter", rank=1)
    visit = Visit()
    for name in ("one", "two"):
        visit = visit.merged(recipe, merge(recipe, home("me") / name))
    selection = read_models("owner/base", [str(expert)])[1]
    seen: list[bool] = []

    def watched(path: str | Path) -> Any:
        seen.append(room._using["owner/base"] > 0)
        return open_base(path)

    for module in ("merging.hub.moved", "merging.apart", "ui.tensor_panel"):
        monkeypatch.setattr(f"{module}.open_base", watched)
    event = threading.Event()

    assert moved(home("me") / "one")
    list(history._compared(visit, 1, 2, event))
    list(look(selection, recipe, "model.layers.1.mlp.up_proj.weight", 0, 0, event))
    against(selection, recipe, "model.layers.1.mlp.up_proj.weight", 0, 0)

    assert seen == [True] * len(seen)
    assert len(seen) >= 5
    assert not room._using["owner/base"]


def test_the_base_of_an_adapter_is_told_by_its_name_on_the_hub(tmp_path: Path, in_a_space: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 1, "rank_pattern": {}}')
    report = Report(tmp_path, 0, 0.0, {})

    assert "from_pretrained(&quot;owner/name&quot;)" in finished(report, Path("owner/name"))
    assert "from_pretrained(&quot;owner/name&quot;, revision=&quot;v1&quot;)" in finished(report, Path("owner/name@v1"))
    assert str(space.EMBEDDED) not in finished(report, family.BASE)


def test_the_next_merge_is_called_otherwise(in_a_space: Path) -> None:
    visit = Visit().merged(RECIPE, Report(home("me") / "mine", 0, 0.0, {}))

    assert next_folder("mine", visit.history.merges[-1], "me") != gr.skip()
    assert next_folder("mine", visit.history.merges[-1], "you") == gr.skip()
    assert next_folder("../mine", visit.history.merges[-1], "me") == gr.skip()


def test_paths_and_crowds_of_experts_are_refused_beside_the_models(in_a_space: Path) -> None:
    *_, (table, selection) = choose(str(family.BASE), [*map(str, family.EXPERTS), "/etc"])
    assert "is a path, and a Space opens none" in table
    assert len(selection.fitting) == 3

    *_, (table, selection) = choose(str(family.BASE), [f"owner/{number}" for number in range(space.EXPERTS + 1)])
    assert "A Space merges 8 experts at most. Remove 1." in table
    assert not selection.ready


def test_a_merge_elsewhere_is_told_by_its_path(tmp_path: Path) -> None:
    told = finished(Report(tmp_path / "mine", 0, 0.0, {}), None)

    assert str(tmp_path / "mine") in told
    assert "download=" not in told


@pytest.mark.parametrize("signed", [True, False])
def test_the_hub_is_asked_with_the_token_of_whoever_is_signed_in(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, signed: bool
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("ui.wires.publish.prepare", lambda *given: asked.append(given[-1]) or iter(()))
    monkeypatch.setattr("ui.wires.publish.run_publish", lambda *given: asked.append(given[-1]) or iter(()))
    screen.token = gr.OAuthToken("hf_theirs", "write-repos", 0) if signed else None

    screen.fire("publish-prepare")
    screen.fire("publish-run")

    assert asked == (["hf_theirs", "hf_theirs"] if signed else [None, None])


def test_a_space_with_sign_in_says_who_would_publish(in_a_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTH_CLIENT_ID", "known")
    monkeypatch.setattr("gradio.routes.attach_oauth", lambda app: None)  # what it needs is installed in Spaces alone
    demo = build()
    said = next(block for block in demo.blocks.values() if "Nobody can sign in" in str(getattr(block, "value", "")))
    [load] = [function.fn for function in demo.fns.values() if function.outputs == [said]]

    assert isinstance(Screen(demo).named["sign-in"], gr.LoginButton)
    assert "Do so before you merge" in load(None)
    known = {"name": "Some One", "preferred_username": "<some>", "profile": "", "picture": ""}
    assert "To publish it, sign in at the top before you merge" in Screen(demo).named["output"].info
    assert "You are signed in as &lt;some&gt;" in load(gr.OAuthProfile(known))


def test_what_is_asked_of_a_lent_gpu_reaches_another_process() -> None:
    ask = Ask("[Enter ", temperature=0, length=3)
    given = [family.BASE, merged_in_memory(replace(RECIPE, method="task_arithmetic"))], family.BASE, ask

    *_, there = gpu._answers(*pickle.loads(pickle.dumps(given)), None)
    *_, here = gpu._answers(*given, None)

    assert [answer.text for answer in there] == [answer.text for answer in here]
    assert all(answer.text and answer.state == "done" for answer in pickle.loads(pickle.dumps(there)))


def test_what_the_lender_of_a_gpu_refuses_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> Iterator[Any]:
        raise gr.Error("You have exceeded your GPU quota (60s requested). <a href='x'>Log in</a> to get more")
        yield

    monkeypatch.setattr(gpu, "_answers", refuses)

    words = r"^You have exceeded your GPU quota \(60s requested\)\. Log in to get more\. Try again later\.$"
    with pytest.raises(MergeError, match=words):
        list(gpu.answers([family.BASE], family.BASE, Ask("And"), threading.Event()))


def test_without_the_package_of_spaces_the_work_is_what_it_was() -> None:
    assert gpu.spaces is None
    assert gpu.on_lent_gpu(len) is len
