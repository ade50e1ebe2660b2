"""Tokenizers of models on the Hub: taken by small files alone, and written with their commits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from merging import Recipe, merge, space
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.hub.models import fetched, looked_at, pinned
from merging.plan import plan
from merging.preflight import check
from tests.hub import Hub
from tests.merging.test_hub import asker, hub
from tests.merging.test_vocabulary import numbered, speaker

__all__ = ["asker", "hub"]


@pytest.fixture
def speakers(hub: Hub) -> Hub:
    """The Hub with a base of two words, an expert of one more, and another model that has them in another order."""
    root = hub.folder / "owner"
    for name, words in {"plain": "ab", "wordy": "abc", "other": "cba"}.items():
        speaker(root / name, list(words), numbered(len(words), 0.0))
    return hub


def spoken(source: str) -> Recipe:
    return Recipe("linear", Path("owner/plain"), (Path("owner/wordy"),), tokenizer_source=source)


@pytest.mark.parametrize("prepared", [fetched, pinned])
@pytest.mark.parametrize("place", ["here", "in a space"])
def test_a_tokenizer_is_taken_from_the_hub_by_its_small_files(
    prepared: Any, place: str, speakers: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if place == "in a space":
        monkeypatch.setenv("SPACE_ID", "someone/mergescope")
    out = space.merges() / "one"
    speakers.tags.add("v1.0")

    recipe = prepared(spoken("owner/other@v1.0"))
    found = check(recipe, out)
    assert not found.problems
    assert found.plan
    assert found.plan.vocabulary.whose == "other"
    if prepared is fetched:
        merge(recipe, out, fsync=False)
        there = speakers.folder / "owner" / "other" / "tokenizer.json"
        assert (out / "tokenizer.json").read_bytes() == there.read_bytes()
        written = yaml.safe_load((out / "mergescope.yaml").read_text())
        assert written["tokenizer_source"] == f"owner/other@{speakers.commit('owner/other')}"
    of_it = [one for one in speakers.sent() if one.path.startswith("/owner/other/")]
    assert all(one.bytes.startswith("bytes=0-") for one in of_it if one.path.endswith(".safetensors"))


def test_the_tokenizer_of_one_of_the_models_is_named_as_on_the_hub(speakers: Hub) -> None:
    for recipe in (pinned(spoken("owner/wordy")), fetched(spoken("owner/wordy"))):
        models = [open_checkpoint(path) for path in (recipe.base, *recipe.experts) if path]

        work = plan(models[0], models[1:], tokenizer_source=recipe.tokenizer_source)

        assert (work.vocabulary.whose, work.vocabulary.rows) == ("wordy", 3)


def test_a_tokenizer_that_the_hub_does_not_give_is_a_problem_unless_it_was_looked_at(
    speakers: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MergeError, match="There is no model `owner/none` on the Hub"):
        looked_at(spoken("owner/none"))
    with pytest.raises(MergeError, match=r"owner/pickled.*has its weights as PyTorch files only"):
        looked_at(spoken("owner/pickled"))

    fetched(spoken("owner/other"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    assert not check(fetched(spoken("owner/other"))).problems
    with pytest.raises(MergeError, match="`owner/expert` is not on this machine, and the Hub is not asked"):
        fetched(spoken("owner/expert"))
