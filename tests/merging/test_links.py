"""Recipes in addresses: what comes out is what went in, on another machine too, and nothing else does any harm."""

import base64
import re
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging import links
from merging.edits import PRESETS, Edits, applied
from merging.errors import MergeError
from merging.links import DAMAGED, LONGEST, MOST, decode, encode, opened
from merging.recipe import Recipe

NAMES = [f"model.layers.{layer}.{part}.weight" for layer in range(24) for part in ("mlp", "attn", "norm")]


def packed(text: str) -> str:
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, Path]:
    return {"embedded": tmp_path / "here" / "zoo", "models": tmp_path / "here" / "mine"}


def test_what_comes_out_is_what_went_in(roots: dict[str, Path]) -> None:
    zoo, mine = roots.values()
    recipe = Recipe(
        "ties",
        zoo / "base",
        (zoo / "bible", mine / "deep" / "math 数学"),
        (0.5, 1.0),
        {"density": 0.3},
        seed=7,
        tokenizer_source=str(mine / "deep" / "math 数学"),
    )

    letters = encode(recipe, roots)

    assert re.fullmatch(r"[\w-]+", letters, re.ASCII)
    assert len(letters) < 400
    assert opened(letters, roots).settings() == recipe.settings()
    found = opened(letters, roots)
    assert (found.base, found.experts, found.tokenizer_source) == (recipe.base, recipe.experts, recipe.tokenizer_source)


def test_on_another_machine_the_same_models_are_found(roots: dict[str, Path], tmp_path: Path) -> None:
    letters = encode(Recipe("from", roots["embedded"] / "base", (roots["models"] / "a",)), roots)

    there = opened(letters, {"embedded": tmp_path / "there", "models": tmp_path / "elsewhere"})

    assert (there.base, there.experts) == (tmp_path / "there" / "base", (tmp_path / "elsewhere" / "a",))
    assert str(tmp_path) not in decode(letters)
    with pytest.raises(MergeError, match=r"names the model `models:a`, and none are offered as `models` here\. Start"):
        opened(letters, {"embedded": tmp_path})


def test_an_offered_folder_may_itself_be_a_model(roots: dict[str, Path]) -> None:
    recipe = Recipe("from", roots["embedded"] / "base", (roots["models"],))

    assert opened(encode(recipe, roots), roots).experts == recipe.experts


def test_what_a_folder_links_to_is_in_it(roots: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "a").mkdir(parents=True)
    roots["models"].mkdir(parents=True)
    (roots["models"] / "linked").symlink_to(tmp_path / "elsewhere" / "a")

    letters = encode(Recipe("linear", None, (roots["models"] / "linked",)), roots)

    assert "models:linked\n" in decode(letters)


def test_models_of_the_hub_are_named_as_there(roots: dict[str, Path], tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--owner--a-model.v2" / "snapshots" / ("0123456789" * 4)

    text = decode(encode(Recipe("linear", None, (cached, Path("owner/other@v1"))), roots))

    assert f"- model: owner/a-model.v2@{'0123456789' * 4}\n" in text
    assert "- model: owner/other@v1\n" in text


def test_a_users_own_paths_are_whole_for_themselves(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe("linear", None, (Path("own"), tmp_path / "other"))

    found = opened(encode(recipe, roots), roots)

    assert [path.resolve() for path in found.experts] == [tmp_path / "own", tmp_path / "other"]


def test_edits_travel_with_it(roots: dict[str, Path]) -> None:
    zoo = roots["embedded"]
    recipe = applied(
        Recipe("task_arithmetic", zoo / "base", (zoo / "a", zoo / "b")),
        Edits((PRESETS["last third only"], PRESETS["freeze norms"])),
        NAMES,
    )

    found = opened(encode(recipe, roots), roots)

    assert found.weights == recipe.weights


def test_what_is_too_long_for_an_address_is_refused_in_words(roots: dict[str, Path]) -> None:
    filters = [{"filter": f"{number * 7919 % 100003}", "value": number / 70} for number in range(3000)]
    recipe = Recipe("task_arithmetic", Path("base"), (Path("a"),), ([*filters, {"value": 1.0}],))

    with pytest.raises(MergeError, match=rf"takes [\d,]+ letters, and a link holds {LONGEST:,}\. "):
        encode(recipe, roots)
    alike = [{"filter": "same", "value": 1.0}] * 20_000  # little when it is compressed
    with pytest.raises(MergeError, match=rf"takes [\d,]+ bytes, and a link holds {MOST:,}\. Pass it on as a file"):
        encode(Recipe("task_arithmetic", Path("base"), (Path("a"),), ([*alike, {"value": 1.0}],)), roots)


@pytest.mark.parametrize(
    "letters",
    [
        "",
        "a",
        "!!!!",
        "abcd",
        "ab cd",
        "é" * 8,
        packed("x")[:-3],
        packed("x") + "AAAA",
        packed("a" * (MOST + 1)),  # a bomb
        packed("a" * 5_000_000),
        "A" * (LONGEST + 1),
        base64.urlsafe_b64encode(zlib.compress(b"\xff\xfe")).decode().rstrip("="),
    ],
    ids=range(12),
)
def test_what_is_damaged_is_refused_in_words(letters: str) -> None:
    with pytest.raises(MergeError) as caught:
        decode(letters)

    assert str(caught.value) == DAMAGED


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = zlib.decompressobj()

    class Watched:
        def decompress(self, data: bytes, most: int) -> bytes:
            asked.append(most)
            found = real.decompress(data, most)
            assert len(found) <= most
            return found

        eof, unused_data = False, b""

    monkeypatch.setattr(links.zlib, "decompressobj", Watched)

    bomb = packed("a" * 5_000_000)
    assert len(bomb) < LONGEST
    with pytest.raises(MergeError):
        decode(bomb)
    assert asked == [MOST]


@pytest.mark.parametrize("path", ["embedded:../../etc", "embedded:/etc", "models:a/../../b"])
def test_no_link_leads_out_of_what_is_offered(path: str, roots: dict[str, Path]) -> None:
    text = f"mergescope: 1\nmerge_method: linear\nmodels:\n- model: {path}\n"

    with pytest.raises(MergeError) as caught:
        opened(packed(text), roots)

    assert str(caught.value) == DAMAGED


def test_what_is_no_recipe_is_refused_as_from_a_file(roots: dict[str, Path]) -> None:
    with pytest.raises(MergeError, match="There is no method `tie`"):
        opened(packed("mergescope: 1\nmerge_method: tie\nmodels: [{model: a}]\n"), roots)


@given(st.text(alphabet="ABCabc0189-_=+/ \n", max_size=60) | st.text(max_size=20))
def test_any_letters_are_a_recipe_or_are_refused_in_words(letters: str) -> None:
    with pytest.raises(MergeError):
        opened(letters, {})
