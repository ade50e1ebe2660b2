"""How recipes name models, in our format and in mergekit's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.hub.cached import downloaded
from merging.hub.names import HubName, hub_name, told_by_name
from merging.references import donor, relative, resolved, under
from tests.conftest import write_model


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe's folder beside a working folder, with models whose names mean something to mergekit."""
    for name in (
        "recipes/math",
        "recipes/my/own",
        "recipes/a+b",
        "recipes/a@main",
        "recipes/base",
        "recipes/lora",
        "work/code",
        "work/math",
    ):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "recipes"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("math", "math"),
        ("a+b", "a+b"),
        ("a@main", "a@main"),
        ({"path": "math"}, "math"),
        ({"model": "math"}, "math"),
        ({"model": {"path": "math"}}, "math"),
        ({"model": {"path": "a+b", "revision": None}, "lora": None}, "a+b"),
        # There is no such file: the path is the recipe's, and the Hub's name what it is.
        ("nothing", "nothing"),
        ("../nothing", "../nothing"),
        # An adapter on the base is an expert of its own.
        ("base+lora", "lora"),
        ({"model": "base", "lora": "lora"}, "lora"),
        ({"model": {"path": "base"}, "lora": {"path": "lora"}}, "lora"),
    ],
)
def test_what_mergekit_calls_a_model(told: Any, expected: str, shelf: Path) -> None:
    assert resolved(shelf, told, shelf / "base") == shelf / expected


def test_the_working_folder_is_tried_after_the_recipes(shelf: Path) -> None:
    assert resolved(shelf, "code", None) == Path("code")
    assert resolved(shelf, "math", None) == shelf / "math"


def test_a_name_of_the_hub_stays_one(shelf: Path) -> None:
    assert resolved(shelf, "mistralai/Mistral-7B-v0.1", None) == Path("mistralai/Mistral-7B-v0.1")


@pytest.mark.parametrize(
    "told",
    [
        "owner/name@v2",
        {"path": "owner/name", "revision": "v2"},
        {"model": "owner/name@v2"},
        {"model": {"path": "owner/name", "revision": "v2"}},
        {"model": {"path": "owner/base", "revision": "v1"}, "lora": {"path": "owner/name", "revision": "v2"}},
        "owner/base@v1+owner/name@v2",
    ],
)
def test_a_model_of_the_hub_may_have_a_revision(told: Any, shelf: Path, cache: Path) -> None:
    assert resolved(shelf, told, Path("owner/base@v1")) == Path("owner/name@v2")
    (cache.parents[1] / "refs" / "v2").write_text(cache.name)
    assert resolved(shelf, told, Path("owner/base@v1")) == cache


ABSENT = "There is no file or folder"
NAMED = "Check the path; a model of the Hub is written `owner/name`."


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("owner/name", f"{ABSENT} `owner/name`, and no such model was read from the Hub. Check the name."),
        ("bard", f"{ABSENT} `bard`. {NAMED}"),
        ("some/bard.git", f"{ABSENT} `some/bard.git`. {NAMED}"),
        ("../bard", f"{ABSENT} `../bard`. Check the path."),
        ("/some/bard", f"{ABSENT} `/some/bard`. Check the path."),
        ("some/models/bard", f"{ABSENT} `some/models/bard`. Check the path."),
    ],
)
def test_what_is_neither_here_nor_known_from_the_hub_is_told_apart(told: str, words: str, shelf: Path) -> None:
    with pytest.raises(MergeError) as caught:
        open_checkpoint(Path(told))

    assert str(caught.value) == words


@pytest.mark.parametrize(
    "told", ["some/bard.git", "some/bard-", "some/bard.", "some-/bard", "a--b/c", "a/b..c", "bard", f"a/{'b' * 97}"]
)
def test_no_name_is_one_that_the_hubs_client_refuses(told: str) -> None:
    assert hub_name(told) is None
    assert hub_name(f"{told}@v1") is None
    if "/" in told:
        with pytest.raises(HFValidationError):
            validate_repo_id(told)


@pytest.mark.parametrize("told", ["some/bard.gitx", "some/b.git.b", "s/b_", f"a/{'b' * 96}"])
def test_a_name_that_the_hubs_client_takes_is_one(told: str) -> None:
    validate_repo_id(told)
    assert hub_name(f"{told}@v1.git") == HubName(told, "v1.git")


@pytest.mark.parametrize(
    "start", ["https://huggingface.co/", "http://www.huggingface.co/", "huggingface.co/", "hf.co/"]
)
@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("some/bard", "some/bard"),
        ("some/bard/?library=transformers#use", "some/bard"),
        ("some/bard/tree/main", "some/bard"),
        ("some/bard/tree/v1", "some/bard@v1"),
        ("some/bard/tree/refs%2Fpr%2F1", "some/bard@refs/pr/1"),
        ("some/bard/blob/v1/model.safetensors", "some/bard@v1"),
    ],
)
def test_the_address_of_a_model_is_its_name(start: str, page: str, name: str, shelf: Path) -> None:
    assert told_by_name(start + page) == name
    for told in (start + page, {"path": start + page}):
        assert under(shelf, told) == resolved(shelf, told, None) == Path(name)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("https://huggingface.co/datasets/some/text", "is a data set, which cannot be merged."),
        ("hf.co/spaces/some/page", "is a Space, which cannot be merged."),
        ("huggingface.co/bard", "is not the address of a model. Write it as `owner/name`"),
        ("https://huggingface.co/some/bard/tree/main/checkpoint-5", "is not the address of a model."),
        ("https://huggingface.co/some/bard.git", "is not the address of a model."),
    ],
)
def test_the_address_of_anything_else_there_is_refused(told: str, words: str, shelf: Path) -> None:
    for reads in (lambda: under(shelf, told), lambda: resolved(shelf, told, None), lambda: open_checkpoint(told)):
        with pytest.raises(MergeError) as caught:
            reads()
        assert str(caught.value).startswith(f"`{told}` {words}")


@pytest.mark.parametrize("told", ["https://example.com/some/bard", "www.hf.co/some/bard", "/huggingface.co/some/bard"])
def test_no_other_address_is_a_name(told: str) -> None:
    assert told_by_name(told) == told


def test_a_folder_that_is_called_like_an_address_goes_first(shelf: Path) -> None:
    (shelf / "hf.co" / "some" / "bard").mkdir(parents=True)

    assert under(shelf, "hf.co/some/bard") == resolved(shelf, "hf.co/some/bard", None) == shelf / "hf.co/some/bard"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache, in which a model was downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--owner--name"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0123456789" * 4)
    return write_model(model / "snapshots" / ("0123456789" * 4), {"w": torch.ones(1)})


def test_a_model_that_was_downloaded_goes_by_its_name(cache: Path, shelf: Path) -> None:
    assert under(shelf, "owner/name") == resolved(shelf, "owner/name", None) == cache
    assert open_checkpoint("owner/name").path == cache
    (shelf / "owner" / "name").mkdir(parents=True)  # a folder of that name goes first
    assert under(shelf, "owner/name") == resolved(shelf, "owner/name", None) == shelf / "owner/name"


@pytest.mark.parametrize("older", ["", "b" * 40])
def test_a_model_is_written_with_the_commit_that_is_opened(
    older: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "known"))
    if older:
        folder = tmp_path / "known" / "previews" / "owner--name" / older
        folder.mkdir(parents=True)
        folder.with_name("main.commit").write_text(older)

    assert open_checkpoint("owner/name").path == cache
    assert relative(Path("owner/name"), tmp_path) == f"owner/name@{cache.name}"


@pytest.mark.parametrize(
    ("lost", "offline", "whole"),
    [
        (["config.json"], True, False),
        (["tokenizer.json"], False, False),
        (["tokenizer.json"], True, True),  # there may be none
        (["model.safetensors"], True, False),
    ],
)
def test_a_part_of_a_model_is_not_taken_for_all_of_it(
    lost: list[str], offline: bool, whole: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    assert downloaded("owner/name") == cache

    for file in lost:
        (cache / file).unlink()

    assert downloaded("owner/name") == (cache if whole else None)


def test_an_adapter_is_whole_without_a_tokenizer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (cache / "config.json").rename(cache / "adapter_config.json")
    (cache / "model.safetensors").rename(cache / "adapter_model.safetensors")
    (cache / "tokenizer.json").unlink()

    assert downloaded("owner/name") == cache


@pytest.mark.parametrize("name", ["owner/other", "owner/na..me", "owner/name/w", "owner"])
def test_a_model_that_was_not_downloaded_is_not_there(name: str, cache: Path, shelf: Path) -> None:
    with pytest.raises(MergeError, match=f"There is no file or folder `{name}`"):
        open_checkpoint(name)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            "math@v2",
            "`math@v2` is no path here, and asks for a revision, which models of the Hub have: `owner/name@revision`. "
            "Name that revision's folder.",
        ),
        ("my/own@v2", "`my/own@v2` asks for a revision, and my/own is a folder here, which has none. Name that"),
        ("owner/name@v2+nothing", "`owner/name@v2+nothing` puts an adapter on a model."),
        ("math+lora", "`math+lora` puts an adapter on a model."),
        ("base+nothing", "`base+nothing` puts an adapter on a model."),
        ("owner/name+owner/lora", "`owner/name+owner/lora` puts an adapter on a model."),
        ({"model": {"path": "math", "revision": "v2"}}, "asks for a revision, and a folder has none. Name that"),
        ({"path": "my/own", "revision": "v2"}, "`my/own@v2` asks for a revision, and my/own is a folder here"),
        ({"path": "owner/name", "revision": "a b"}, "asks for a revision, and a folder has none."),
        ({"model": "math", "override_architecture": "X"}, "`override_architecture` is not needed"),
        ({"modle": "math"}, "has no key `modle`. Did you mean `model`?"),
        ({}, "A model is named by a text, but here it is None."),
        (7, "A model is named by a text, but here it is 7. Write the path of its folder."),
        (["math"], "A model is named by a text, but here it is ['math']."),
        ("", "'' cannot be a path."),
        ("a\0b", "cannot be a path."),
        ("\ud800", "cannot be a path"),
        ("~nobody-has-this-name/x", "cannot be a path"),
    ],
)
def test_what_cannot_be_a_model_here_is_refused(told: Any, message: str, shelf: Path) -> None:
    with pytest.raises(MergeError) as caught:
        resolved(shelf, told, shelf / "base")

    assert message in str(caught.value)


@pytest.mark.parametrize("told", ["a+b", "a@b", "with space"])
def test_in_our_recipes_a_path_is_a_path(told: str, tmp_path: Path) -> None:
    assert under(tmp_path, told) == tmp_path / told


def test_a_relative_path_leads_back(tmp_path: Path) -> None:
    assert relative(tmp_path / "a" / "model", tmp_path / "b") == "../a/model"


def test_a_folder_named_like_a_word_is_told_apart() -> None:
    assert [donor(path) for path in ("base", "union", "other")] == ["./base", "./union", "other"]


@pytest.mark.parametrize("told", ["owner/name", "owner/name@v2"])
def test_a_model_of_the_hub_that_is_not_here_stays_a_name(told: str, tmp_path: Path) -> None:
    assert under(tmp_path, told) == Path(told)
    assert relative(Path(told), tmp_path) == told
