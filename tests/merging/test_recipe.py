"""Recipes: what they allow, how they are refused, and that writing and reading one gives it back."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from merging.engine import merge
from merging.errors import MergeError, RecipeError
from merging.method import ADAPTERS, METHODS, Method
from merging.recipe import Recipe, load_recipe
from tests.conftest import Family
from tests.strategies import recipe_values

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
        ("\n", "The recipe is empty. Write at least `merge_method` and `models` into it."),
        ("1\n", "The recipe must be keys with values, but it is a number. Correct the recipe."),
        ("- a\n- b\n", "The recipe must be keys with values, but it is a list. Correct the recipe."),
        (text(mergescope=2), "The recipe is of format 2, and only 1 is known. Update Mergescope."),
        (text(merge_metod="ties"), "A recipe has no key `merge_metod`. Did you mean `merge_method`?"),
        (text(merge_method=None), "The recipe has no `merge_method`. Add it, as a text."),
        (text(merge_method=3), "The recipe has no `merge_method`. Add it, as a text."),
        (text(merge_method="tie"), "There is no method `tie`. Did you mean `ties`?"),
        (text(base_model=None), "TIES-Merging needs a base model. Name it as `base_model`."),
        (text(base_model="''"), "'' cannot be a path. Write the path of a model's folder."),
        (text(base_model=3), "A model is named by a text, but here it is 3. Write the path of its folder."),
        (text(models=None), "The recipe lists no `models`. Name at least one expert there, as `- model: PATH`."),
        (text(models="[]"), "The recipe lists no `models`. Name at least one expert there, as `- model: PATH`."),
        (
            text(models="a"),
            "Its `models` is a text, and must be a list. Name at least one expert there, as `- model: PATH`.",
        ),
        (
            text(models="[a]"),
            "Each of the recipe's `models` must be keys with values, but one is a text. Write it as `- model: PATH`.",
        ),
        (text(models="[{}]"), "The recipe has no `model` for one of its `models`. Add it, as a text."),
        (text(models="[{model: a, weight: 1}]"), "A model has no key `weight`. Write it under `parameters`."),
        (text(density=0.5), "A recipe has no key `density`. Write it under `parameters`."),
        (text(parameters="{seed: 4}"), "`seed` is none of the `parameters`. Write it beside `merge_method`."),
        (
            text(models="[{model: a, parameters: {out_dtype: float16}}]"),
            "`out_dtype` is none of the `parameters`. Write it beside `merge_method`.",
        ),
        (
            text(merge_method="task_arithmetic", parameters="{scope: tensor}"),
            "Task arithmetic has no `scope`: it looks at nothing but one tensor at a time. Leave it out.",
        ),
        (
            text(merge_method="slerp", models="[{model: a}]", parameters="{scope: model}"),
            "`scope` can only be `tensor` here, not 'model'. Leave it out.",
        ),
        (
            text(merge_method="slerp", base_model=None, models="[{model: a}, {model: b}]"),
            "SLERP needs a base model, and takes 1 expert beside it. Name one of these models as `base_model`, and "
            "take it out of `models`.",
        ),
        (
            text(merge_method="consensus_ta", parameters="{threshold: 2.5}"),
            "`threshold` counts experts, so it must be a whole number, but it is 2.5.",
        ),
        (
            text(merge_method="karcher", parameters="{max_iter: 2.5}"),
            "`max_iter` counts steps, so it must be a whole number, but it is 2.5.",
        ),
        (
            text(models="[{model: a, parameters: {densty: 1}}]"),
            "TIES-Merging has no parameter `densty` for single experts. Did you mean `density`?",
        ),
        (
            text(models="[{model: a, parameters: 1}]"),
            "`parameters` must be keys with values, but it is a number. Correct the recipe.",
        ),
        (
            text(models="[{model: a, parameters: {weight: }}]"),
            "`weight` of expert `a` must be a number, but it is None.",
        ),
        (
            text(models="[{model: a, parameters: {weight: 400}}]"),
            "`weight` of expert `a` must be between -100 and 100, but it is 400.",
        ),
        (text(parameters="[1]"), "`parameters` must be keys with values, but it is a list. Correct the recipe."),
        (text(parameters="{density: 2}"), "`density` must be between 0.01 and 1, but it is 2."),
        (
            text(parameters="{k: 2}"),
            "TIES-Merging has no parameter `k`. Known are density, sign, variant, lambda, merge, weight, scope.",
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"There is no recipe .*mine\.yaml\. Check the path\."),
        (b"\xff\xfe", r"The recipe .*mine\.yaml is no text\. Choose a YAML file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    if content:
        file.write_bytes(content)

    with pytest.raises(MergeError, match=words):
        load_recipe(file)


def test_a_recipe_needs_an_expert() -> None:
    with pytest.raises(MergeError) as caught:
        Recipe("ties", Path("base"), ()).checked()

    assert str(caught.value) == "No expert is chosen. Choose at least one."


@pytest.mark.parametrize(
    ("takes", "count", "problem"),
    [
        ((1, 1), 3, "TIES-Merging takes 1 expert, not 3. Remove 2."),
        ((2, 2), 1, "TIES-Merging takes 2 experts, not 1. Add 1."),
        ((2, None), 1, "TIES-Merging takes at least 2 experts, not 1. Add 1."),
        ((1, 2), 3, "TIES-Merging takes at most 2 experts, not 3. Remove 1."),
        ((2, None), 7, ""),
    ],
)
def test_a_method_may_take_so_many_experts_only(
    takes: tuple[int, int | None], count: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "ties", replace(METHODS["ties"], experts=takes))

    recipe = Recipe("ties", Path("base"), tuple(Path(f"expert-{number}") for number in range(count)))

    assert recipe.problems() == [problem] * bool(problem)


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
        "  variant: release\n"
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


def test_what_is_not_the_default_is_written(tmp_path: Path) -> None:
    recipe = Recipe(
        "ties",
        tmp_path / "base",
        (tmp_path / "a", tmp_path / "b"),
        ([0.5, 1], [{"filter": "mlp", "value": [1, 2]}, {"value": 0.25}]),
        {"scope": "tensor"},
        own=({}, {"density": 0.5}),
        seed=7,
        out_dtype="float16",
        tokenizer_source=str(tmp_path / "a"),
        chat_template="auto",
        extra_tensors="keep",
    )

    written = recipe.to_yaml(tmp_path)

    assert "    weight: [0.5, 1.0]\n" in written
    assert "    weight:\n    - filter: mlp\n      value: [1.0, 2.0]\n    - value: 0.25\n    density: 0.5\n" in written
    assert written.endswith(
        "seed: 7\nout_dtype: float16\ntokenizer_source: a\nchat_template: auto\nextra_tensors: keep\n"
    )


@given(data=st.data(), method=st.sampled_from(list(METHODS.values())))
def test_a_recipe_that_is_written_and_read_is_the_same(data: st.DataObject, method: Method) -> None:
    experts = (Path("a"), Path("with @+ in it"))[: method.taking(2)]
    weights, values, own = data.draw(recipe_values(method, len(experts)))
    recipe = Recipe(
        method.name,
        Path("base"),
        experts,
        weights,
        values,
        own,
        seed=data.draw(st.integers(0, 2**63 - 1)),
        out_dtype=data.draw(st.sampled_from(["", "float32", "float16", "bfloat16"])),
        tokenizer_source=data.draw(st.sampled_from(["", "base", "union", "a", "./base", "./union"])),
        chat_template=data.draw(st.just("") | st.just("auto") | st.text(min_size=18).map(lambda text: "{{" + text)),
        extra_tensors=data.draw(st.sampled_from(["drop", "keep"])),
    )

    read = load_recipe(recipe.to_yaml(Path()))

    assert replace(read, warnings=()) == replace(recipe, values=given_values(recipe))
    assert read.settings() == recipe.settings()
    assert read.to_yaml(Path()) == recipe.to_yaml(Path())


def given_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe's values without those that are empty, which are not written."""
    return {key: value for key, value in recipe.values.items() if value is not None}


def test_a_recipe_is_the_same_wherever_it_is_written(tmp_path: Path) -> None:
    recipe = Recipe("from", tmp_path / "base", (tmp_path / "a",), (1.0,), tokenizer_source=str(tmp_path / "base"))
    (tmp_path / "deep" / "er").mkdir(parents=True)

    (tmp_path / "deep" / "er" / "mine.yaml").write_text(recipe.to_yaml(tmp_path / "deep" / "er"))
    read = load_recipe(tmp_path / "deep" / "er" / "mine.yaml")

    assert read.experts[0].resolve() == recipe.experts[0]
    assert Path(read.tokenizer_source).resolve() == tmp_path / "base"


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", [".", "mergescope.yaml", "model.safetensors"])
def test_a_merged_model_is_a_recipe(kind: Any, name: str, tmp_path: Path) -> None:
    written = Recipe("from", tmp_path / "base", (tmp_path / "a",), (1.0,)).to_yaml(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mergescope.yaml").write_text(written)
    save_file({"w": torch.zeros(1)}, tmp_path / "out" / "model.safetensors", {"recipe": written})

    recipe = load_recipe(kind(tmp_path / "out" / name))

    assert (recipe.base, recipe.experts) == (tmp_path / "out/../base", (tmp_path / "out/../a",))


def test_a_model_that_is_no_merge_of_ours_is_no_recipe(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")

    with pytest.raises(MergeError, match=r"model\.safetensors holds no recipe, so it is no merge of ours\. Choose"):
        load_recipe(tmp_path / "model.safetensors")
    with pytest.raises(MergeError, match=r"has no mergescope\.yaml, so it is no merge of ours\. Choose"):
        load_recipe(tmp_path)


def test_everything_that_is_wrong_with_a_recipe_is_said_at_once() -> None:
    wrong = text(
        merge_metod="x",
        base_model="[]",
        models="[{model: a, wight: 2}, {model: '', parameters: {weight: x}}, 3]",
        parameters="{density: 5, ratio: 1}",
        seed=-1,
        dtype="float64",
        out_dtype="int8",
        chat_template="chatml",
        extra_tensors="all",
        tokenizer_source="[]",
    )

    with pytest.raises(MergeError) as caught:
        load_recipe(wrong)

    known = ", ".join(param.key for param in METHODS["ties"].params.values())
    assert str(caught.value).splitlines() == [
        "A recipe has no key `merge_metod`. Did you mean `merge_method`?",
        "Each of the recipe's `models` must be keys with values, but one is a number. Write it as `- model: PATH`.",
        "A model is named by a text, but here it is []. Write the path of its folder.",
        "A model has no key `wight`. Known are model, parameters.",
        "'' cannot be a path. Write the path of a model's folder.",
        "`seed` must be a whole number from 0 to 2^63 - 1, but it is -1.",
        "`dtype` is 'float64', and the arithmetic is always float32. Leave it out.",
        "`out_dtype` must be one of float32, float16, bfloat16, but it is 'int8'.",
        "`extra_tensors` must be one of drop, keep, but it is 'all'.",
        "There is no chat template 'chatml' here. Write `auto`, or the template itself in Jinja.",
        f"TIES-Merging has no parameter `ratio`. Known are {known}.",
        "`density` must be between 0.01 and 1, but it is 5.",
        "`weight` of expert `?` must be a number, but it is 'x'.",
    ]


def test_dtypes_may_say_torch_and_coarse_arithmetic_is_not_done() -> None:
    recipe = load_recipe(text(dtype="torch.bfloat16", out_dtype="torch.float16"))

    assert (recipe.dtype, recipe.out_dtype) == ("float32", "float16")
    assert recipe.warnings == (
        "`dtype: torch.bfloat16` would be coarser arithmetic than ours, which is float32 throughout.",
    )


def test_a_number_that_hardly_anyone_means_is_told_and_taken() -> None:
    recipe = load_recipe(
        text(merge_method="pcb", parameters="{lambda: -4}", models="[{model: a, parameters: {weight: [5, 1]}}]")
    )

    assert recipe.weights == ([5.0, 1.0],)
    assert recipe.warnings == (
        "`weight` is 5, and is usually between -2 and 3.",
        "`lambda` is -4, and is usually between 0 and 3.",
    )


def test_a_count_that_is_never_reached_is_told() -> None:
    models = "[{model: a}, {model: b}]"

    several = load_recipe(text(merge_method="consensus_ta", models=models, parameters="{threshold: [2, 7]}"))
    enough = load_recipe(text(merge_method="consensus_ta", models=models, parameters="{threshold: 2}"))

    assert several.warnings == ("`threshold` is 7, and there are only 2 experts to reach it.",)
    assert enough.warnings == ()


def test_a_filter_that_never_applies_is_told_and_others_are_not() -> None:
    filters = "[{filter: mlp, value: 1}, {filter: mlp.up, value: 2}, {value: 3}, {filter: norm, value: 4}]"
    models = "[{model: a, parameters: {weight: [{value: 1}, {filter: norm, value: 2}]}}]"

    recipe = load_recipe(text(models=models, parameters=f"{{weight: {filters}, lambda: 1}}"))
    fine = load_recipe(
        text(
            models="[{model: a, parameters: {weight: [{filter: mlp, value: 1}]}}]",
            parameters="{weight: [{filter: mlp, value: 2}, {value: 3}]}",  # where the expert's own go before
        )
    )

    slip = [{"filer": "mlp", "value": 1}, {"value": 2}]  # which is refused, and nothing else
    with pytest.raises(RecipeError) as refused:
        load_recipe(text(parameters=json.dumps({"weight": slip})))
    assert refused.value.warnings == ()
    every = "one without a filter, which is for all tensors, stands before it. Put it in front of that."
    assert recipe.warnings == (
        "The filter `mlp.up` of `weight` never applies, because the filter `mlp` stands before it. Put it in front of "
        "that.",
        f"The filter `norm` of `weight` never applies, because {every}",
    )
    assert fine.warnings == ()


@pytest.mark.parametrize(
    ("method", "parameters", "idle", "chosen"),
    [
        (
            "knots",
            "{merger: task_arithmetic, density: 0.5, sign: mass}",
            ["density", "sign"],
            "merger: task_arithmetic",
        ),
        ("knots", "{merger: dare_linear, density: 0.5, merge: sum}", ["merge"], "merger: dare_linear"),
        ("knots", "{merger: dare_ties, density: 0.5, scope: tensor}", ["scope"], "merger: dare_ties"),
        ("knots", "{density: 0.5, sign: mass, merge: sum, scope: tensor}", [], ""),
        ("peft", "{density: 0.5}", ["density"], "combination_type: svd"),
        ("peft", "{combination_type: ties, density: 0.5, majority_sign_method: total}", [], ""),
        (
            "peft",
            "{combination_type: magnitude_prune, density: 0.5, majority_sign_method: total}",
            ["majority_sign_method"],
            "combination_type: magnitude_prune",
        ),
    ],
)
def test_what_a_choice_does_not_take_is_told(method: str, parameters: str, idle: list[str], chosen: str) -> None:
    recipe = load_recipe(text(merge_method=method, parameters=parameters))

    assert [*recipe.warnings] == [f"`{key}` has no effect with `{chosen}`, so it is ignored." for key in idle]


def test_a_shared_weight_counts_where_an_experts_own_says_nothing() -> None:
    models = (
        "[{model: a}, {model: b, parameters: {weight: 2}}, {model: c, parameters: {weight: {filter: q, value: 1}}}]"
    )

    recipe = load_recipe(text(merge_method="pcb", models=models, parameters="{weight: 0.5, lambda: 1e-1}"))

    assert recipe.weights == (0.5, 2.0, [{"filter": "q", "value": 1.0}, {"value": 0.5}])
    assert recipe.values == {"lambda": 0.1}


def test_only_a_linear_merge_can_do_without_a_base() -> None:
    assert load_recipe(text(merge_method="linear", base_model=None)).base is None
    assert "base_model" not in Recipe("linear", None, (Path("a"),)).to_yaml(Path())
    with pytest.raises(MergeError, match="FroM needs a base model"):
        Recipe("from", None, (Path("a"),)).checked()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("pcb", Path("base"), (Path("a"),), ([0, 1],)), "`weight` must be one number here, the same for all"),
        (
            Recipe("ties", Path("base"), (Path("a"), Path("b")), own=({"density": 0.5}, {})),
            "`density` is not the same for all experts",
        ),
    ],
)
def test_what_varies_is_not_made_one_number(recipe: Recipe, message: str) -> None:
    recipe.settings()

    with pytest.raises(MergeError, match=message):
        recipe.checked()


WORDS = """
    merge_method base_model models model parameters weight density lambda scope value filter slices sources layer_range
    dtype out_dtype tokenizer tokenizer_source source tokens chat_template seed extra_tensors mergescope modules path
    lora revision ties linear task_arithmetic from pcb base union auto a b float32 tensor normalize
"""
KEYS = st.sampled_from(WORDS.split())
LEAVES = KEYS | st.integers(-2, 2) | st.floats() | st.booleans() | st.none() | st.text(max_size=5) | st.dates()
CONTENT = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LEAVES, inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=300)
@given(
    whole=CONTENT,
    models=st.lists(st.fixed_dictionaries({"model": CONTENT}, optional={"parameters": CONTENT}), max_size=3) | CONTENT,
    method=st.sampled_from([*METHODS, "slerp", "", 3]),
    form=st.sampled_from([{}, {"mergescope": 1}]),
)
def test_any_yaml_is_a_recipe_or_is_refused_in_words(whole: Any, models: Any, method: Any, form: Any) -> None:
    parts = whole if isinstance(whole, dict) else {"parameters": whole}
    content = parts | {"merge_method": method, "models": models} | form

    with contextlib.suppress(MergeError):
        recipe = load_recipe(yaml.safe_dump(content) + "\n")

        assert recipe.problems() == []
        assert load_recipe(recipe.to_yaml(Path())).settings() == recipe.settings()


@settings(max_examples=300)
@given(st.text() | st.text(alphabet="{}[]:-,&*!|>'\"#%@\\ \n\tab1", max_size=40))
def test_any_text_is_a_recipe_or_is_refused_in_words(told: str) -> None:
    with pytest.raises(MergeError):
        load_recipe(told)


def test_paths_may_be_texts(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    recipe = Recipe("ties", str(base), tuple(map(str, experts)))  # type: ignore[arg-type]

    assert recipe == Recipe("ties", base, tuple(experts))
    report = merge(recipe, tmp_path / "out")
    assert merge(str(report.out), tmp_path / "again").checksums == report.checksums


@given(
    data=st.data(), method=st.sampled_from(list((METHODS | ADAPTERS).values())), rank=st.none() | st.integers(1, 999)
)
def test_a_recipe_of_an_adapter_that_is_written_and_read_is_the_same(
    data: st.DataObject, method: Method, rank: int | None
) -> None:
    adapters = tuple(map(Path, "ab"[: method.taking(2)]))
    weights, values, own = data.draw(recipe_values(method, len(adapters)))
    recipe = Recipe(method.name, None, adapters, weights, values, own, result="adapter", rank=rank)

    read = load_recipe(recipe.to_yaml(Path()))

    assert replace(read, warnings=()) == replace(recipe, values=given_values(recipe))
    assert read.makes == "adapter"


RESULTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"result": "adapters"}, ["`result` must be one of model, adapter, but it is 'adapters'."]),
    ({"result": "[adapter]"}, ["`result` must be one of model, adapter, but it is ['adapter']."]),
    ({"result": "adapter", "rank": "'8'"}, ["`rank` must be a whole number from 1 up, but it is '8'."]),
    ({"result": "adapter", "rank": "true"}, ["`rank` must be a whole number from 1 up, but it is True."]),
    ({"rank": 8}, ["`rank` is that of an adapter. Write `result: adapter` too, or leave it out."]),
    (
        {"merge_method": "knots", "result": "model"},
        ["`knots` makes an adapter. Leave `result` out, and merge that adapter into its base by `task_arithmetic` with "
         "`lambda: 1`."],
    ),
    (
        {"merge_method": "peft", "chat_template": "auto", "extra_tensors": "keep"},
        ["`chat_template` has no meaning for an adapter, which has none. Leave it out.",
         "`extra_tensors` has no meaning for an adapter, which has none. Leave it out."],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "problems"), RESULTS, ids=str)
def test_a_result_that_cannot_be_is_told(changed: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(MergeError) as caught:
        load_recipe(text(**changed))

    assert str(caught.value).splitlines() == problems


def test_methods_of_adapters_make_one_without_being_asked() -> None:
    assert load_recipe(text(merge_method="knots")).makes == "adapter"
    assert load_recipe(text(merge_method="ties")).makes == "model"
    assert load_recipe(text(merge_method="ties", result="adapter", rank=4, base_model=None)).rank == 4
    with pytest.raises(MergeError, match="TIES-Merging needs a base model"):
        load_recipe(text(base_model=None))
