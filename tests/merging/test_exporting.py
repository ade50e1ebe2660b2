"""Recipes as mergekit reads them: read again they mean the same, and what mergekit lacks is refused in words."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from merging.as_task_arithmetic import as_task_arithmetic
from merging.edits import Edit, Edits, applied
from merging.errors import MergeError
from merging.exporting import to_mergekit
from merging.mergekit import MEANINGS
from merging.method import METHODS
from merging.parts import Part
from merging.recipe import Recipe, load_recipe
from tests.conftest import Family, write_model
from tests.strategies import recipe_values

ZOO = Path(__file__).parents[2] / "zoo"

EDITED = [{"filter": "layers.1.", "value": 0.5}, {"filter": "mlp", "value": [0.0, 1.0]}, {"value": 1.0}]


def test_the_yaml_is_the_one_that_people_write(tmp_path: Path) -> None:
    recipe = Recipe(
        "ties",
        tmp_path / "base",
        (tmp_path / "a", tmp_path / "b"),
        (1.0, EDITED),
        {"variant": "mergekit", "scope": "tensor", "density": 0.3, "lambda": 0.8},
        own=({}, {"density": [0.2, 0.4]}),
        out_dtype="bfloat16",
    )

    assert to_mergekit(recipe, tmp_path / "merges") == (
        "merge_method: ties\n"
        "base_model: ../base\n"
        "models:\n"
        "- model: ../a\n"
        "  parameters:\n"
        "    weight: 1.0\n"
        "- model: ../b\n"
        "  parameters:\n"
        "    weight:\n"
        "    - filter: layers.1.\n"
        "      value: 0.5\n"
        "    - filter: mlp\n"
        "      value: [0.0, 1.0]\n"
        "    - value: 1.0\n"
        "    density: [0.2, 0.4]\n"
        "parameters:\n"
        "  normalize: true\n"
        "  lambda: 0.8\n"
        "  density: 0.3\n"
        "dtype: float32\n"
        "out_dtype: bfloat16\n"
    )


@settings(max_examples=80)
@given(data=st.data(), name=st.sampled_from(list(MEANINGS)))
def test_what_is_written_means_the_same_when_it_is_read(data: st.DataObject, name: str) -> None:
    method, meaning = METHODS[name], MEANINGS[name]
    experts = tuple(map(Path, "ab"[: method.taking(2)]))
    weights, values, own = data.draw(recipe_values(method, len(experts)))
    theirs = {*meaning.shared, *meaning.single}
    values = {key: value for key, value in values.items() if key in theirs} | meaning.sets
    own = tuple({key: value for key, value in mine.items() if key in theirs} for mine in own)
    for ours, *words in meaning.words.values():
        filters = [{"filter": "mlp", "value": words}, {"value": words[1]}]
        values[ours] = data.draw(st.sampled_from([words[0], words[1], words, filters]))
    recipe = Recipe(name, Path("base"), experts, weights, values, own)

    text = to_mergekit(recipe)
    read = load_recipe(text)

    assert "mergescope" not in yaml.safe_load(text)
    assert read.experts == recipe.experts
    assert sorted(read.warnings) == sorted(load_recipe(recipe.to_yaml(Path())).warnings)
    assert read.settings().rules == recipe.settings().rules


@pytest.mark.parametrize("name", MEANINGS)
def test_every_method_of_mergekits_can_be_written(name: str) -> None:
    method, meaning = METHODS[name], MEANINGS[name]
    words = {ours: true for ours, true, _ in meaning.words.values()}
    extra = {"t": 0.5} if name == "nearswap" else {}
    experts = tuple(map(Path, "ab"[: method.taking(2)]))

    read = load_recipe(to_mergekit(Recipe(name, Path("base"), experts, values=meaning.sets | words | extra)))

    assert (read.method, read.experts) == (name, experts)


def test_edits_and_from_itself_reach_mergekit() -> None:
    recipe = Recipe("from", Path("base"), (Path("a"), Path("b")))
    names = [f"model.layers.{layer}.{part}.weight" for layer in range(12) for part in ("mlp", "attn")]
    table = [[(1 + number) / 100, 1 - (1 + number) / 100] for number in range(len(names))]

    again = applied(
        as_task_arithmetic(recipe, table, names), Edits((Edit(Part("layer", "1"), "set", 0.5, expert="a"),)), names
    )
    read = load_recipe(to_mergekit(again))

    assert read.settings() == again.settings()
    for number, name in enumerate(names):
        found = read.settings().of(name, (number // 2) / 11)["weight"]
        assert found == pytest.approx([0.5 if ".1." in name else table[number][0], table[number][1]], rel=1e-6)


def test_the_result_is_stored_as_the_base_is(family: Family, tmp_path: Path) -> None:
    recipe = Recipe("task_arithmetic", ZOO / "base", (ZOO / "bible",))

    assert yaml.safe_load(to_mergekit(recipe))["out_dtype"] == "bfloat16"
    assert "out_dtype" not in yaml.safe_load(to_mergekit(Recipe("task_arithmetic", tmp_path, (tmp_path / "a",))))
    assert yaml.safe_load(to_mergekit(Recipe("task_arithmetic", *one_expert(family))))["out_dtype"] == "float32"


def one_expert(family: Family) -> tuple[Path, tuple[Path, ...]]:
    base, experts = family(1)
    return base, tuple(experts)


def test_adapters_are_on_the_base_and_odd_paths_are_paths(family: Family, tmp_path: Path) -> None:
    base, experts = family(1)
    odd = experts[0].rename(tmp_path / "with@and+in it")
    text = to_mergekit(Recipe("task_arithmetic", base, (odd,)), tmp_path)
    (tmp_path / "kit.yaml").write_text(text)

    assert yaml.safe_load(text)["models"][0]["model"] == {"model": {"path": "with@and+in it"}}
    assert load_recipe(tmp_path / "kit.yaml").experts == (tmp_path / "with@and+in it",)

    text = to_mergekit(Recipe("task_arithmetic", ZOO / "base", (ZOO / "bible-lora",)), ZOO)
    assert yaml.safe_load(text)["models"][0]["model"] == {"model": {"path": "base"}, "lora": {"path": "bible-lora"}}


FIRST, SECOND = "a" * 40, "b" * 40  # commits


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's cache has a base and an adapter of it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, model, commit in (("base", "base", FIRST), ("lora", "bible-lora", SECOND)):
        home = tmp_path / "hub" / f"models--owner--{name}"
        shutil.copytree(ZOO / model, home / "snapshots" / commit)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(commit)


def test_models_of_the_hub_keep_their_revision(cached: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = write_model(tmp_path / "own" / "a@b", {"w": torch.zeros(2)}).relative_to(tmp_path)
    recipe = Recipe(
        "task_arithmetic", Path("owner/base"), (Path("owner/far@v2"), odd), tokenizer_source=f"owner/tongue@{SECOND}"
    )

    for text in (to_mergekit(recipe), to_mergekit(recipe, tmp_path)):
        told = yaml.safe_load(text)
        assert told["base_model"] == f"owner/base@{FIRST}"  # mergekit parts such a text, and no `path`
        assert [one["model"] for one in told["models"]] == ["owner/far@v2", {"model": {"path": "own/a@b"}}]
        assert told["tokenizer_source"] == f"owner/tongue@{SECOND}"
        assert to_mergekit(load_recipe(text)) == text


def test_an_adapter_of_the_hub_is_on_its_base_there(cached: None, tmp_path: Path) -> None:
    text = to_mergekit(Recipe("task_arithmetic", Path("owner/base"), (Path("owner/lora"),)))

    assert yaml.safe_load(text)["models"][0]["model"] == {
        "model": {"path": "owner/base", "revision": FIRST},
        "lora": {"path": "owner/lora", "revision": SECOND},
    }
    read = load_recipe(text)
    home = tmp_path / "hub"
    assert read.base == home / "models--owner--base" / "snapshots" / FIRST
    assert read.experts == (home / "models--owner--lora" / "snapshots" / SECOND,)
    assert to_mergekit(read) == text


def test_whole_paths_stay_whole_where_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    text = yaml.safe_load(to_mergekit(Recipe("task_arithmetic", tmp_path / "base", (Path("a"), tmp_path / "x/../b"))))

    assert text["base_model"] == f"{tmp_path}/base"
    assert [model["model"] for model in text["models"]] == ["a", f"{tmp_path.resolve()}/b"]


def test_a_linear_merge_is_one_of_its_experts_alone() -> None:
    # There a base counts as one of the models.
    recipe = Recipe("linear", Path("base"), (Path("a"), Path("b")), (0.3, 0.7), tokenizer_source="base")

    content = yaml.safe_load(to_mergekit(recipe))

    assert "base_model" not in content
    assert content["tokenizer_source"] == "base"  # which is the model's path there
    assert load_recipe(to_mergekit(recipe)).experts == recipe.experts


KIT: dict[str, Any] = {"variant": "mergekit", "scope": "tensor"}
ONE = (Path("base"), (Path("a"), Path("b")))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            Recipe("pcb", *ONE),
            f"mergekit has no PCB-Merging. Choose one of {', '.join(MEANINGS)}.",
        ),
        (
            Recipe("from", *ONE),
            "mergekit has no FroM. Turn it into task arithmetic with its coefficients, or choose one of "
            f"{', '.join(MEANINGS)}.",
        ),
        (
            Recipe("ties", *ONE),
            "mergekit's ties is `scope: tensor`, and this recipe says `scope: model`. Change that.",
        ),
        (
            Recipe("ties", *ONE, values={"scope": "tensor"}),
            "mergekit's ties is `variant: mergekit`, and this recipe says `variant: release`. Change that.",
        ),
        (
            Recipe("ties", *ONE, values=KIT | {"merge": "max"}),
            "mergekit has no `merge: max`. Choose `mean` or `sum`.",
        ),
        (
            Recipe("dare_linear", *ONE, values={"scope": "tensor"}),
            "mergekit has no `rescale: probability`. Choose `l1` or `none`.",
        ),
        (
            Recipe("task_arithmetic", *ONE, result="adapter"),
            "mergekit merges adapters into models, and this recipe makes an adapter. Leave `result` out.",
        ),
        (
            Recipe("task_arithmetic", *ONE, extra_tensors="keep"),
            "mergekit has no word for `extra_tensors: keep`. Leave it out.",
        ),
    ],
)
def test_what_mergekit_lacks_is_refused_in_words(recipe: Recipe, words: str) -> None:
    with pytest.raises(MergeError) as caught:
        to_mergekit(recipe)

    assert str(caught.value) == words


def test_a_lone_file_is_no_model_of_mergekits(tmp_path: Path) -> None:
    lone = write_model(tmp_path / "a", {"w": torch.zeros(2)}) / "model.safetensors"

    with pytest.raises(MergeError, match=r"mergekit opens folders, and .*model\.safetensors is a file\. Put it into"):
        to_mergekit(Recipe("task_arithmetic", Path("base"), (lone,)))
