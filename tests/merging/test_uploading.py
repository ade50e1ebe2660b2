"""What stands in the way of an upload to the Hub, what is said of it, and what is left there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from merging import merge
from merging.cli import main
from merging.errors import MergeError, MergeStopped
from merging.hub.card import card_of, front_of
from merging.hub.licences import NOT_TOLD
from merging.hub.models import licence_of
from merging.hub.moved import moved
from merging.hub.names import HubName
from merging.hub.upload import Upload, free, publish
from merging.recipe import Recipe
from tests.conftest import random_tensors, write_model
from tests.hub import TOKEN, Hub, asking, standing_in

# The client hands a file to another library as that likes it no more.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "someone/merged"
LEFT = f"`{NAME}` is on the Hub, empty. Publish again to go on in it: files that arrived whole are not sent again."


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    root = tmp_path / "root"
    write_model(root / "owner" / "model", random_tensors(0))
    with standing_in(root) as found, asking(found, tmp_path / "cache", TOKEN):
        yield found


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    """A merge of two models that are here, with a card, to be published as private."""
    base, expert = (write_model(tmp_path / name, random_tensors(n)) for n, name in enumerate(("base", "expert")))
    merge(Recipe("task_arithmetic", base, (expert,)), tmp_path / "out")
    return Upload(tmp_path / "out", NAME, "---\nlicense: mit\n---\n\n# merged\n")


def written(hub: Hub, name: str = NAME) -> list[str]:
    return hub.files(name)


def uploads(hub: Hub) -> int:
    return sum(one.path.startswith("/uploads/") for one in hub.asked)


@pytest.mark.parametrize(
    ("private", "words"),
    [
        (True, "empty and open for everyone, so the merge would not be private."),
        (False, "empty and private, so the merge would not be for everyone."),
    ],
)
def test_an_empty_repository_that_is_not_as_private_as_asked_is_refused(
    hub: Hub, upload: Upload, private: bool, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (hub.folder / NAME).mkdir(parents=True)
    if not private:
        hub.private.add(NAME)

    with pytest.raises(MergeError, match=words):
        publish(replace(upload, private=private))

    assert uploads(hub) == 0
    assert written(hub) == []
    hub.asked.clear()
    assert main(["publish", str(upload.folder), NAME, *([] if private else ["--public"])]) == 1
    assert words in capsys.readouterr().err
    assert {one.path for one in hub.asked} == {"/api/whoami-v2", f"/api/models/{NAME}"}  # before it measures anything
    publish(replace(upload, private=not private))
    assert "model.safetensors" in written(hub)


def test_a_card_that_the_hub_does_not_take_is_refused_before_anything_is_there(hub: Hub, upload: Upload) -> None:
    card = upload.card.replace("mit", "qwen-research")

    with pytest.raises(MergeError, match='does not take what stands at the top of the card: "license" must be one of'):
        publish(replace(upload, card=card))

    assert not (hub.folder / NAME).exists()
    own = card.replace("license: ", "license: other\nlicense_name: ")
    publish(replace(upload, card=own))
    assert (hub.folder / NAME / "README.md").read_text() == own


def test_the_licence_of_a_model_on_the_hub_is_its_makers_own_with_a_link_to_its_text(hub: Hub) -> None:
    hub.cards["owner/model"] = {"license": "other", "license_name": "qwen-research", "license_link": "LICENSE"}

    assert licence_of(HubName("owner/model")).front == {
        "license": "other",
        "license_name": "qwen-research",
        "license_link": f"https://huggingface.co/owner/model/blob/{hub.commit('owner/model')}/LICENSE",
    }
    hub.cards["owner/model"] = {"license": "mit](https://bad) <img src=x>"}
    assert licence_of(HubName("owner/model")) == NOT_TOLD


@pytest.mark.parametrize("name", ["someone/merged-", "someone/merged.git"])
def test_a_name_that_the_hub_does_not_take_is_refused(hub: Hub, name: str) -> None:
    with pytest.raises(MergeError, match="is no name for a model"):
        free(name, TOKEN)

    assert not hub.asked


def test_a_name_space_of_others_is_said_to_be_theirs(hub: Hub, upload: Upload) -> None:
    with pytest.raises(MergeError) as told:
        publish(replace(upload, name="owner/merged"))

    assert str(told.value) == (
        "You may not publish `owner/merged` (You don't have the rights to create a model under this namespace): the "
        "token may only read, or `owner` is neither you nor an organisation in which you may write. Check the name, or "
        "sign in with `hf auth login` as one who may."
    )


def test_a_stop_that_is_heard_before_leaves_no_repository(hub: Hub, upload: Upload) -> None:
    with pytest.raises(MergeStopped, match=r"^Stopped\. Nothing is published\.$"):
        publish(upload, stopped=lambda: True)

    assert not (hub.folder / NAME).exists()


@pytest.mark.parametrize("step", ["/preupload/", "/objects/batch"])  # before the file is sent, or while it is
def test_a_stop_on_the_way_says_what_is_left(hub: Hub, upload: Upload, step: str) -> None:
    with pytest.raises(MergeStopped) as told:
        publish(upload, stopped=lambda: any(step in one.path for one in hub.asked))

    assert str(told.value) == f"Stopped. Nothing is published. {LEFT}"
    assert written(hub) == []


def test_an_upload_that_failed_says_what_is_left_and_sends_no_whole_file_again(hub: Hub, upload: Upload) -> None:
    hub.refuses.add("commit")
    with pytest.raises(MergeError) as told:
        publish(upload)

    assert str(told.value) == f"The Hub answered 500 for `{NAME}`. Try again in a while. {LEFT}"
    assert uploads(hub) == 1
    hub.refuses.clear()
    publish(upload)
    assert uploads(hub) == 1
    assert "model.safetensors" in written(hub)


def test_what_somebody_else_wrote_before_anything_is_sent_is_not_overwritten(hub: Hub, upload: Upload) -> None:
    hub.meanwhile[NAME] = "theirs.txt"

    with pytest.raises(MergeError, match=f"^There is a model `{NAME}` already, and nothing is ever overwritten"):
        publish(upload)

    assert uploads(hub) == 0
    assert written(hub) == ["theirs.txt"]


def test_what_somebody_else_writes_while_files_are_sent_is_not_overwritten(hub: Hub, upload: Upload) -> None:
    hub.during[NAME] = "config.json"

    with pytest.raises(MergeError, match=f"^Somebody else has written into `{NAME}` meanwhile.*Choose another name.$"):
        publish(upload)

    assert written(hub) == ["config.json"]
    assert (hub.folder / NAME / "config.json").read_text() == "theirs"


@pytest.mark.parametrize("gone", ["base", "base/model.safetensors"])
def test_a_merge_whose_base_is_gone_is_published_without_the_picture(upload: Upload, gone: str) -> None:
    assert moved(upload.folder)
    place = upload.folder.parent / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()

    assert moved(upload.folder) == {}
    card = card_of(upload.folder, NAME, lambda name: NOT_TOLD)
    assert front_of(card)["tags"]
    assert "base (not on the Hub)" in card
