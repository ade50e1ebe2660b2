"""A merge is published by the real client on a stand-in of the Hub, with a card that tells what it was made of."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from merging import merge
from merging.errors import MergeError
from merging.hub.card import card_of, front_of
from merging.hub.licences import NOT_TOLD, Licence, licence_in, strictest
from merging.hub.picture import colour, picture
from merging.recipe import Recipe
from tests.conftest import random_tensors, write_model
from tests.hub import TOKEN, standing_in
from tests.merging.test_hub import Asker, recipe_of


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a Hub with two models, and of someone who has merged them."""
    folder = tmp_path_factory.mktemp("merged")
    for number, name in enumerate(("base", "expert")):
        write_model(folder / "root/owner" / name, random_tensors(number))
    (folder / "home").mkdir()
    with standing_in(folder / "root") as hub:
        assert Asker(hub, folder / "home", token=TOKEN).merge(recipe_of()).returncode == 0
    return folder


@pytest.fixture
def asker(merged: Path, tmp_path: Path) -> Iterator[Asker]:
    """Someone who has merged two models of the Hub, which have licences, and is signed in."""
    shutil.copytree(merged, tmp_path, symlinks=True, dirs_exist_ok=True)
    with standing_in(tmp_path / "root") as hub:
        hub.cards |= {"owner/base": {"license": "apache-2.0"}, "owner/expert": {"license": "gemma"}}
        yield Asker(hub, tmp_path / "home", token=TOKEN)


def published(asker: Asker, name: str = "someone/merged") -> Path:
    return asker.hub.folder / name


def test_a_merge_is_published_private_and_whole(asker: Asker) -> None:
    done = asker.run("publish", "out", "someone/merged")

    assert done.returncode == 0, done.stderr
    assert "someone/merged, private." in done.stdout
    assert asker.hub.private == {"someone/merged"}
    there, here = load_file(published(asker) / "model.safetensors"), load_file(asker.folder / "out/model.safetensors")
    assert all(there[name].equal(here[name]) for name in here)
    for name in ("config.json", "mergescope.json", "mergescope.yaml", "tokenizer.json"):
        assert (published(asker) / name).read_bytes() == (asker.folder / "out" / name).read_bytes()


def test_the_card_names_models_commits_licence_recipe_and_method(asker: Asker) -> None:
    asker.run("publish", "out", "someone/merged", "--public")

    text = (published(asker) / "README.md").read_text()
    front = front_of(text)
    assert asker.hub.private == set()
    assert front["base_model"] == ["owner/base", "owner/expert"]
    assert front["base_model_relation"] == "merge"
    assert front["license"] == "gemma"  # which is stricter than Apache's
    assert {"merge", "mergekit"} <= set(front["tags"])
    for name in ("owner/base", "owner/expert"):
        assert asker.hub.commit(name) in text
    recipe = text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(recipe) == yaml.safe_load((asker.folder / "out/mergescope.yaml").read_text())
    assert 'from_pretrained("someone/merged"' in text
    assert "https://arxiv.org/abs/2212.04089" in text
    with Image.open(published(asker) / "layers.png") as shown:
        assert shown.width > 100
    assert "](layers.png)" in text


def test_nothing_that_is_there_is_overwritten(asker: Asker) -> None:
    before = asker.hub.commit("owner/base")

    done = asker.run("publish", "out", "owner/base")

    assert done.returncode == 1
    assert "There is a model `owner/base` already, and nothing is ever overwritten." in done.stderr
    assert asker.hub.commit("owner/base") == before


def test_whoever_is_not_signed_in_is_told_how(asker: Asker) -> None:
    asker.token = ""

    done = asker.run("publish", "out", "someone/merged")

    assert done.returncode == 1
    assert "Nobody is signed in to the Hub: sign in with `hf auth login`" in done.stderr
    assert not published(asker).exists()


@pytest.mark.parametrize("name", ["merged", "a/b/c", "../x", "someone/merged@main", "-a/b"])
def test_what_is_no_name_is_refused(asker: Asker, name: str) -> None:
    done = asker.run("publish", "out", "--quiet", "--", name)

    assert done.returncode == 1
    assert "is no name for a model. Write it as `owner/name`." in done.stderr


def test_a_link_out_of_the_folder_is_not_published(asker: Asker) -> None:
    (asker.folder / "out/notes.txt").symlink_to("/etc/hostname")

    done = asker.run("publish", "out", "someone/merged")

    assert done.returncode == 1
    assert "notes.txt is a link" in done.stderr
    assert not published(asker).exists()


def test_a_card_of_ones_own_is_taken_and_a_broken_one_refused(asker: Asker) -> None:
    card = asker.run("publish", "out", "someone/merged", "--card-only").stdout
    assert not published(asker).exists()
    (asker.folder / "card.md").write_text(card.replace("# merged", "# Mine"))
    (asker.folder / "broken.md").write_text("Nothing at the top")

    broken = asker.run("publish", "out", "someone/other", "--card", "broken.md")
    done = asker.run("publish", "out", "someone/merged", "--card", "card.md")

    assert broken.returncode == 1
    assert "has no readable `---` part at its top" in broken.stderr
    assert not published(asker, "someone/other").exists()
    assert done.returncode == 0, done.stderr
    assert "# Mine" in (published(asker) / "README.md").read_text()


def test_models_that_tell_no_licence_leave_the_card_without_one(tmp_path: Path) -> None:
    base, expert = (write_model(tmp_path / name, random_tensors(n)) for n, name in enumerate(("base", "expert")))
    (expert / "README.md").write_text("---\nlicense: mit\n---\n")
    merge(Recipe("task_arithmetic", base, (expert,)), tmp_path / "out")

    text = card_of(tmp_path / "out", "me/out", lambda name: NOT_TOLD)

    assert "license" not in front_of(text)
    assert "base_model" not in front_of(text)  # they are not on the Hub
    assert "The licence of base is not told" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("licences", "front", "words"),
    [
        (["one", "two"], [], "Which of [one](https://one) and [two](https://two) is the strictest is not known, so"),
        (["one", "one"], ["other", "one", "https://one"], "the strictest of these licences, [one](https://one)."),
        (["llama2", "gemma"], ["other", "llama2-and-gemma"], "all of llama2 and gemma, none of which is freer"),
    ],
)
def test_which_licence_a_merge_of_several_is_under(
    tmp_path: Path, licences: list[str], front: list[str], words: str
) -> None:
    own = {"one": "https://one", "two": "https://two"}
    models = [write_model(tmp_path / f"model{n}", random_tensors(n)) for n in range(2)]
    for model, name in zip(models, licences, strict=True):
        told = (
            {"license": "other", "license_name": name, "license_link": own[name]} if name in own else {"license": name}
        )
        (model / "README.md").write_text(f"---\n{yaml.safe_dump(told)}---\n")
    merge(Recipe("task_arithmetic", models[0], (models[1],)), tmp_path / "out")

    text = card_of(tmp_path / "out", "me/out", lambda name: NOT_TOLD)

    assert [value for key, value in front_of(text).items() if key.startswith("license")] == front
    assert words in text


@pytest.mark.parametrize(
    ("front", "wanted"),
    [
        ({"license": "mit", "license_link": "https://x"}, Licence("mit")),
        ({"license": "mit](https://bad)"}, NOT_TOLD),
        ({"license": "mit\n**bold**"}, NOT_TOLD),
        ({"license": ["mit"]}, NOT_TOLD),
        ({"license": "other"}, NOT_TOLD),
        ({"license": "other", "license_name": "<img>", "license_link": "https://x"}, NOT_TOLD),
        ({"license": "other", "license_name": "own", "license_link": "https://x) [y](z"}, Licence("own", True)),
        ({"license": "other", "license_name": "own", "license_link": "javascript:x"}, Licence("own", True)),
        ({"license": "other", "license_name": "own", "license_link": "../LICENSE"}, Licence("own", True)),
        ({"license": "other", "license_name": "own", "license_link": "LICENSE"}, Licence("own", True, "https://a/LICENSE")),
    ],
)  # fmt: skip
def test_of_a_models_card_only_what_can_be_a_licence_goes_into_ours(front: dict[str, Any], wanted: Licence) -> None:
    assert licence_in(front, "https://a") == wanted


def test_a_folder_without_a_merge_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="holds no merge that Mergescope wrote"):
        card_of(write_model(tmp_path / "base", random_tensors(0)), "me/x", lambda name: NOT_TOLD)


@pytest.mark.parametrize(
    ("licences", "wanted"),
    [
        (["mit", "apache-2.0", "llama3.1"], ["llama3.1"]),
        (["apache-2.0", "apache-2.0"], ["apache-2.0"]),
        (["cc-by-nc-4.0", "gemma"], ["cc-by-nc-4.0"]),
        (["qwen-research", "apache-2.0"], ["qwen-research"]),
        (["llama2", "gemma"], ["llama2", "gemma"]),
        (["somebodys-own", "gpl-3.0"], ["somebodys-own"]),
        (["mit", ""], []),
        ([], []),
    ],
)
def test_the_strictest_licence_wins(licences: list[str], wanted: list[str]) -> None:
    assert strictest(licences) == wanted


def test_the_picture_has_a_bright_cell_where_most_moved() -> None:
    moved = {f"model.layers.{layer}.mlp.up_proj.weight": float(layer) for layer in range(3)}

    content = picture({**moved, "model.norm.weight": 9.0, "model.layers.1.mlp.down_proj.weight": math.nan})

    assert content
    image = Image.open(io.BytesIO(content))
    assert image.getpixel((130, 45)) == colour(0)
    assert image.getpixel((130 + 2 * 24, 45)) == colour(1)
    assert picture({"model.norm.weight": 1.0}) is None


def test_norms_stand_in_the_picture_in_the_order_of_the_layer() -> None:
    moved = {"model.layers.0.input_layernorm.weight": 1.0, "model.layers.0.post_attention_layernorm.weight": 0.0}

    content = picture(moved)

    assert content
    with Image.open(io.BytesIO(content)) as image:
        assert [image.getpixel((130, at)) for at in (45, 45 + 24)] == [colour(1), colour(0)]


def test_a_story_that_lies_about_hashes_does_not_break_the_card(tmp_path: Path) -> None:
    base, expert = (write_model(tmp_path / name, random_tensors(n)) for n, name in enumerate(("base", "expert")))
    merge(Recipe("task_arithmetic", base, (expert,)), tmp_path / "out")
    story = json.loads((tmp_path / "out/mergescope.json").read_text())
    (tmp_path / "out/mergescope.json").write_text(json.dumps({**story, "inputs": {}}))

    text = card_of(tmp_path / "out", "me/out", lambda name: NOT_TOLD)
    assert "| base | base (not on the Hub) | – | not told | – |" in text
