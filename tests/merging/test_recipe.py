"""Recipes: what they allow, how they are refused, and that writing and reading one gives it back."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.errors import MergeError
from merging.method import METHODS
from merging.recipe import Recipe, load_recipe
from tests.strategies import values

TIES = """\
mergescope: 1
merge_method: ties
base_model: ../base
models:
- model: ../math
  parameters:
    weight: 0.5
- model: ../code
parameters:
  density: 0.3
  lambda: 1.5
  scope: tensor
"""


def text(**changed: Any) -> str:
    """A small recipe with some lines in place of its own, as YAML; None leaves a line out."""
    lines = {
        "mergescope": 1,
        "merge_method": "ties",
        "base_model": "base",
        "models": "[{model: a}, {model: b}]",
    } | changed
    return "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None)


def test_a_recipe_file_says_everything(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TIES)

    recipe = load_recipe(tmp_path / "mine.yaml")

    assert recipe == Recipe(
        method="ties",
        base=tmp_path / "../base",
        experts=(tmp_path / "../math", tmp_path / "../code"),
        weights=(0.5, 1.0),
        values={"density": 0.3, "lambda": 1.5, "scope": "tensor"},
    )


def test_a_recipe_given_as_text_starts_at_the_working_folder() -> None:
    assert load_recipe(text()).experts == (Path("a"), Path("b"))


def test_a_path_is_read_as_a_file_whatever_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "recipe.txt").write_text(text())

    assert load_recipe(tmp_path / "recipe.txt").base == tmp_path / "base"


def test_absolute_paths_and_those_of_a_home_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text(text(base_model="/models/base", models="[{model: ~/models/math}]"))

    recipe = load_recipe(str(tmp_path / "mine.yml"))

    assert (recipe.base, recipe.experts) == (Path("/models/base"), (Path("~/models/math"),))


def test_empty_parameters_are_the_defaults() -> None:
    recipe = load_recipe(text(parameters="", models="[{model: a, parameters: }]"))

    assert recipe.checked()[1] == METHODS["ties"].checked({})


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("\n", "The recipe must be keys with values, but it is NoneType. Correct the recipe."),
        ("- a\n- b\n", "The recipe must be keys with values, but it is list. Correct the recipe."),
        (text(mergescope=2), "The recipe is of format 2, and only 1 is known. Update Mergescope."),
        (text(merge_metod="ties"), "A recipe has no key `merge_metod`. Did you mean `merge_method`?"),
        (text(merge_method=None), "The recipe has no `merge_method`. Add it, as a text."),
        (text(merge_method=3), "The recipe has no `merge_method`. Add it, as a text."),
        (text(merge_method="tie"), "There is no method `tie`. Did you mean `ties`?"),
        (text(base_model=None), "TIES-Merging needs a base model. Name it as `base_model`."),
        (text(base_model="''"), "'' cannot be a path. Write the path of a model's folder."),
        (text(base_model=3), "A model is named by a text, but here it is 3. Write the path of its folder."),
        (text(models=None), "The recipe lists no `models`. Name at least one expert there."),
        (text(models="[]"), "The recipe lists no `models`. Name at least one expert there."),
        (text(models="a"), "The recipe lists no `models`. Name at least one expert there."),
        (
            text(models="[a]"),
            "Each of the recipe's `models` must be keys with values, but it is str. Correct the recipe.",
        ),
        (text(models="[{}]"), "The recipe has no `model` for one of its `models`. Add it, as a text."),
        (text(models="[{model: a, weight: 1}]"), "A model has no key `weight`. Known are model, parameters."),
        (
            text(models="[{model: a, parameters: {densty: 1}}]"),
            "TIES-Merging has no parameter `densty` for single experts. Did you mean `density`?",
        ),
        (
            text(models="[{model: a, parameters: 1}]"),
            "`parameters` must be keys with values, but it is int. Correct the recipe.",
        ),
        (
            text(models="[{model: a, parameters: {weight: }}]"),
            "Weight of expert `a` must be a number, but it is None.",
        ),
        (
            text(models="[{model: a, parameters: {weight: 400}}]"),
            "Weight of expert `a` must be between -100 and 100, but it is 400.",
        ),
        (text(parameters="[1]"), "`parameters` must be keys with values, but it is list. Correct the recipe."),
        (text(parameters="{density: 2}"), "Density ρ must be between 0.01 and 1, but it is 2."),
        (
            text(parameters="{k: 2}"),
            "TIES-Merging has no parameter `k`. Known are density, sign, lambda, merge, scope.",
        ),
        (
            text(merge_method="from", models="[{model: a, parameters: {weight: 2}}]"),
            "FroM has no weights of its own. Leave every weight at 1.",
        ),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused_in_words(recipe: str, message: str) -> None:
    with pytest.raises(MergeError) as caught:
        load_recipe(recipe)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    "recipe",
    [
        "a: [\n",
        "a: !!python/object/apply:os.system ['true']\n",
        "{[]: 1}\n",
        "a: 2020-13-45\n",
        "\x00\n",
        "[" * 2_000 + "\n",
    ],
)
def test_what_is_not_plain_yaml_is_refused(recipe: str) -> None:
    with pytest.raises(MergeError, match="is not valid YAML"):
        load_recipe(recipe)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    if content:
        file.write_bytes(content)

    with pytest.raises(MergeError, match=r"The recipe .*mine\.yaml could not be read .* Check the path\."):
        load_recipe(file)


def test_a_recipe_needs_an_expert() -> None:
    with pytest.raises(MergeError) as caught:
        Recipe("ties", Path("base"), ()).checked()

    assert str(caught.value) == "No expert is chosen. Choose at least one."


def test_every_expert_needs_a_weight() -> None:
    with pytest.raises(MergeError) as caught:
        Recipe("ties", Path("base"), (Path("a"), Path("b")), weights=(1.0,)).checked()

    assert str(caught.value) == "There are 2 experts and 1 weights. Give one to each."


def test_the_yaml_is_the_one_that_people_write(tmp_path: Path) -> None:
    recipe = Recipe("ties", tmp_path / "base", (tmp_path / "a", tmp_path / "b"), (1, 0.5), {"lambda": 2})

    assert recipe.to_yaml(tmp_path / "merges" / "one") == (
        "mergescope: 1\n"
        "merge_method: ties\n"
        "base_model: ../../base\n"
        "models:\n"
        "- model: ../../a\n"
        "  parameters:\n"
        "    weight: 1.0\n"
        "- model: ../../b\n"
        "  parameters:\n"
        "    weight: 0.5\n"
        "parameters:\n"
        "  density: 0.2\n"
        "  sign: mass\n"
        "  lambda: 2.0\n"
        "  merge: mean\n"
        "  scope: model\n"
    )


def test_a_method_without_weights_writes_none(tmp_path: Path) -> None:
    written = Recipe("from", tmp_path / "base", (tmp_path / "a",)).to_yaml(tmp_path)

    assert "models:\n- model: a\nparameters:" in written


def test_a_home_folder_is_spelled_out_when_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    written = Recipe("from", Path("~/base"), (Path("~/a"),)).to_yaml(tmp_path / "out")

    assert "base_model: ../base\nmodels:\n- model: ../a\n" in written


def test_names_beyond_ascii_stay_readable(tmp_path: Path) -> None:
    assert "- model: 数学\n" in Recipe("from", tmp_path / "b", (tmp_path / "数学",)).to_yaml(tmp_path)


@given(data=st.data(), method=st.sampled_from(list(METHODS.values())))
def test_a_recipe_that_is_written_and_read_is_the_same(data: st.DataObject, method: Any) -> None:
    chosen = {p.key: data.draw(values(p)) for p in method.params.values() if not p.per_expert}
    weight = method.params.get("weight")
    weights = tuple(data.draw(values(weight)) if weight else 1.0 for _ in range(2))
    recipe = Recipe(method.name, Path("base"), (Path("a"), Path("b")), weights, chosen)

    read = load_recipe(recipe.to_yaml(Path()))

    assert read.checked() == recipe.checked()
    assert (read.base, read.experts) == (recipe.base, recipe.experts)
