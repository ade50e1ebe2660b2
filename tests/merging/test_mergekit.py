"""mergekit's recipes mean here what they mean there, and what they ask that is not done is refused in words."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from merging.engine import merge_groups
from merging.errors import MergeError, RecipeError
from merging.method import METHODS, Group
from merging.recipe import Recipe, load_recipe
from merging.settings import depths

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())["cases"]
OURS = [case for case in CASES if case["method"].startswith("mergekit.")]


def told(**changed: Any) -> str:
    """A recipe of mergekit's with some keys in place of its own; None leaves one out."""
    content = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 1}}, {"model": "b", "parameters": {"weight": 0.5}}],
    } | changed
    return yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False) + "\n"


def values_of(recipe: Recipe, name: str = "any", t: float = 0.0) -> dict[str, Any]:
    return recipe.settings().of(name, t)


@pytest.mark.parametrize("case", OURS, ids=[case["id"] for case in OURS])
def test_a_recipe_of_mergekits_gives_its_numbers(case: dict[str, Any]) -> None:
    params, tensors = case["params"], load_file(GOLDEN / case["file"])
    own = params.get("per_model", {})
    singles = [{key: values[number] for key, values in own.items()} for number in range(case["num_experts"])]
    recipe = load_recipe(
        told(
            merge_method=case["method"].removeprefix("mergekit."),
            base_model="base" if params["use_base"] else None,
            models=[{"model": f"expert{number}", "parameters": own} for number, own in enumerate(singles)],
            parameters=params.get("global", {}),
        )
    )
    names = [name.removeprefix("base.") for name in tensors if name.startswith("base.")]

    for name, t in depths(names).items():
        experts = torch.stack([tensors[f"{path.name}.{name}"] for path in recipe.experts])
        group = Group(name, tensors[f"base.{name}"] if recipe.base else None, experts)
        [(_, merged)] = merge_groups(METHODS[recipe.method], [group], **values_of(recipe, name, t))

        expected = tensors[f"merged.{name}"]
        merged = merged.to(expected.dtype).float()
        torch.testing.assert_close(merged, expected.float(), rtol=case["rtol"], atol=case["atol"])


DROPPED: dict[str, Any] = {"weight": [1.0, 0.5], "density": [1.0, 1.0], "scaling": 1.0, "scope": "tensor"}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("linear", {"weight": [1.0, 0.5], "normalize": True}),
        ("task_arithmetic", {"weight": [1.0, 0.5], "normalize": False, "scaling": 1.0}),
        (
            "ties",
            {"weight": [1.0, 0.5], "density": [1.0, 1.0], "scaling": 1.0, "merge": "mean", "scope": "tensor"},
        ),
        ("dare_linear", DROPPED | {"rescale": "l1", "normalize": False}),
        ("dare_ties", DROPPED | {"rescale": "l1", "merge": "sum"}),
        ("breadcrumbs", DROPPED | {"gamma": [0.01, 0.01], "rescale": "none", "normalize": False}),
        ("breadcrumbs_ties", DROPPED | {"gamma": [0.01, 0.01], "rescale": "none", "merge": "sum"}),
        ("della_linear", DROPPED | {"epsilon": [0.15, 0.15], "rescale": "l1", "normalize": False}),
        ("della", DROPPED | {"epsilon": [0.15, 0.15], "rescale": "l1", "merge": "mean"}),
        ("sce", {"select_topk": 1.0, "scope": "tensor"}),
        ("ram", {"epsilon": 1e-5}),
    ],
)
def test_what_is_left_open_is_what_mergekit_takes(method: str, expected: dict[str, Any]) -> None:
    base = None if method == "linear" else "base"

    values = values_of(load_recipe(told(merge_method=method, base_model=base)))

    assert {key: values[key] for key in expected} == expected


def test_the_levels_go_from_the_model_over_the_slice_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"num_hidden_layers": 4}')
    mlp, attn = {"filter": "mlp", "value": 0.1}, {"filter": "attn", "value": 0.2}
    file = tmp_path / "mine.yaml"
    file.write_text(
        told(
            models=None,
            slices=[
                {
                    "sources": [
                        {"model": "a", "layer_range": [0, 4], "parameters": {"weight": mlp, "density": mlp}},
                        {"model": "b", "layer_range": [0, 4]},
                        {"model": "base", "layer_range": [0, 4]},
                    ],
                    "parameters": {"weight": [attn], "normalize": {"filter": "attn", "value": False}},
                }
            ],
            parameters={"weight": [0.3, 0.5], "lambda": 2},
        )
    )

    recipe = load_recipe(file)

    assert recipe.experts == (tmp_path / "a", tmp_path / "b")
    assert recipe.warnings == ()
    found = {name: values_of(recipe, name, 0.5) for name in ("mlp", "attn", "norm")}
    assert [found[name]["weight"] for name in found] == [[0.1, 0.4], [0.2, 0.2], [0.4, 0.4]]
    assert [found[name]["density"] for name in found] == [[0.1, 1.0], [1.0, 1.0], [1.0, 1.0]]
    assert [found[name]["merge"] for name in found] == ["mean", "sum", "mean"]
    assert found["norm"]["scaling"] == 2.0


@pytest.mark.parametrize("normalize", [True, 1, 1.0, "true", "Yes"])
def test_switches_may_be_numbers_and_words(normalize: Any) -> None:
    assert values_of(load_recipe(told(parameters={"normalize": normalize})))["merge"] == "mean"
    assert values_of(load_recipe(told(parameters={"rescale": 0, "normalize": "off"})))["merge"] == "sum"


def test_switches_that_are_words_here_may_vary_as_there() -> None:
    own = {"weight": 1, "density": [0.3, 0.5], "epsilon": {"filter": "mlp", "value": 0.1}}
    models = [{"model": "a", "parameters": own}, {"model": "b", "parameters": {"weight": 0.5, "density": 0.4}}]
    told_once = {"rescale": {"filter": "norm", "value": 0}, "normalize": [True, False], "epsilon": 0.2}

    recipe = load_recipe(told(merge_method="della", models=models, parameters=told_once))

    assert recipe.warnings == ()
    found = {name: values_of(recipe, name, t) for name, t in [("norm", 0.0), ("mlp", 1.0)]}
    assert [found[name]["rescale"] for name in found] == ["none", "l1"]
    assert [found[name]["merge"] for name in found] == ["mean", "sum"]
    assert [found[name]["density"] for name in found] == [[0.3, 0.4], [0.5, 0.4]]
    assert [found[name]["epsilon"] for name in found] == [[0.2, 0.2], [0.1, 0.2]]


@pytest.mark.parametrize("method", ["nearswap", "arcee_fusion"])
def test_two_models_may_both_be_listed_or_only_the_other_one(method: str) -> None:
    parameters = {"t": 0.01} if method == "nearswap" else {}
    for models in ([{"model": "a"}], [{"model": "base"}, {"model": "a"}], [{"model": "a"}, {"model": "base"}]):
        recipe = load_recipe(told(merge_method=method, models=models, parameters=parameters))

        assert (recipe.base, recipe.experts, recipe.warnings) == (Path("base"), (Path("a"),), ())


def test_a_base_that_is_listed_is_no_expert_of_a_task_vector_method() -> None:
    models = [{"model": "base"}, {"model": "a", "parameters": {"weight": 1}}]

    recipe = load_recipe(told(models=models, parameters={"int8_mask": True}))

    assert (recipe.base, recipe.experts, recipe.warnings) == (Path("base"), (Path("a"),), ())
    with_values = [{"model": "base", "parameters": {"weight": 2}}, models[1]]
    assert load_recipe(told(models=with_values)).warnings == (
        "The parameters of `base` are ignored: it is the base model.",
    )


def test_a_base_is_one_of_the_models_of_a_linear_merge() -> None:
    models = [{"model": "a", "parameters": {"weight": 1}}]

    recipe = load_recipe(told(merge_method="linear", models=models, parameters={"weight": 0.25}))

    assert recipe.experts == (Path("a"), Path("base"))
    assert recipe.weights == (1.0, 0.25)
    with pytest.raises(MergeError, match=r"`base` has no weight, .* A base model counts as one of the models"):
        load_recipe(told(merge_method="linear", models=models))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ""),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "torch.float16", "out_dtype": "float32"}, "float32"),
        ({"out_dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_the_results_dtype_is_the_one_that_is_told(keys: dict[str, Any], expected: str) -> None:
    recipe = load_recipe(told(**keys))

    assert (recipe.dtype, recipe.out_dtype) == ("float32", expected)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ""),
        ({"tokenizer_source": "union"}, "union"),
        ({"tokenizer_source": "a"}, "a"),
        ({"tokenizer_source": {"model": {"path": "base"}}}, "./base"),
        ({"tokenizer": {"source": "base"}}, "base"),
        ({"tokenizer": {}}, "union"),
        ({"tokenizer": {"source": "b", "tokens": {}}}, "b"),
    ],
)
def test_the_tokenizers_donor_may_be_told_in_two_ways(keys: dict[str, Any], expected: str) -> None:
    assert load_recipe(told(**keys)).tokenizer_source == expected


def test_what_mergekit_ignores_is_ignored_and_told() -> None:
    models = [{"model": "a", "wight": 1, "parameters": {"weight": 1, "lambda": 2, "densty": 1}}]

    recipe = load_recipe(told(models=models, normalize=True, seed=3, parameters={"t": 1, "density": []}))

    assert recipe.warnings == (
        "mergekit has no key `normalize`, so it is ignored.",
        "mergekit has no key `seed`, so it is ignored. If this is a recipe of ours, add `mergescope: 1`.",
        "The recipe has a parameter `t` that mergekit ignores. Known are normalize, lambda, rescale, density, weight.",
        "mergekit has no key `wight` for a model, so it is ignored.",
        "Model `a` has a parameter `lambda` that mergekit ignores. It is looked for in the recipe's own.",
        "Model `a` has a parameter `densty` that mergekit ignores. Did you mean `density`?",
    )
    assert values_of(recipe)["density"] == [1.0]
    idle = load_recipe(told(merge_method="task_arithmetic", parameters={"rescale": True}))
    assert idle.warnings == ("`rescale` has no effect in mergekit's task_arithmetic, so it is ignored.",)


def test_a_method_that_mergekit_does_not_have_makes_a_recipe_ours() -> None:
    recipe = load_recipe("merge_method: from\nbase_model: base\nmodels: [{model: a}]\n")

    assert recipe.method == "from"
    assert recipe.warnings == (
        "mergekit has no such method, so this is read as our recipe. Add `mergescope: 1` to it.",
    )


SOURCE = {"model": "a", "layer_range": [0, 2], "parameters": {"weight": 1}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"merge_method": "passthrough"},
            f"There is no method `passthrough` here yet. Known are {', '.join(METHODS)}.",
        ),
        ({"merge_method": "tie"}, "There is no method `tie`. Did you mean `ties`?"),
        ({"base_model": None}, "TIES-Merging needs a base model. Name it as `base_model`."),
        (
            {"models": [{"model": "base"}]},
            "The recipe lists no `models`. Name at least one expert there, as `- model: PATH`.",
        ),
        ({"models": None}, "The recipe lists no `models`. Name at least one expert there, as `- model: PATH`."),
        ({"models": [{"model": "a"}]}, "`a` has no weight, and mergekit asks for one. Give it one."),
        (
            {"models": [{"model": "a", "parameters": {"weight": 1}}] * 2},
            "`a` is listed twice, which mergekit refuses. List it once.",
        ),
        (
            {"modules": {"text": {}}},
            "`modules` merges the parts of a model apart, which is not done here. Use `models`.",
        ),
        (
            {"models": None, "slices": [{"sources": [SOURCE]}] * 2},
            "The recipe has 2 `slices`. Layers of models are stacked here, and only models of the same layers can be "
            "merged. Use `models`.",
        ),
        (
            {"models": None, "slices": [{"sources": [SOURCE | {"layer_range": [1, 2]}]}]},
            "A slice is [1, 2]. Layers of models are stacked here, and only models of the same layers can be merged. "
            "Use `models`.",
        ),
        (
            {"models": None, "slices": [{"sources": [SOURCE | {"layer_range": "all"}]}]},
            "A `layer_range` must be two whole numbers, but it is 'all'.",
        ),
        ({"slices": [{"sources": [SOURCE]}]}, "The recipe has `models` and `slices`. Leave one of them out."),
        ({"parameters": {"rescale": True}}, "`rescale` with ties is not done here. Leave it out."),
        ({"parameters": {"normalize": 3}}, "`normalize` must be true or false, but it is 3."),
        (
            {"merge_method": "dare_ties", "parameters": {"rescale": "l2"}},
            "`rescale` must be true or false, but it is 'l2'.",
        ),
        (
            {"merge_method": "nearswap"},
            "The recipe has no `t`, and mergekit asks for one. Add it to `parameters`.",
        ),
        ({"merge_method": "nearswap", "parameters": {"t": 1}}, "NearSwap takes 1 expert, not 2. Remove 1."),
        ({"parameters": {"density": [[1]]}}, "`density` is a list of lists. A gradient is a list of numbers."),
        ({"parameters": {"density": 0}}, "`density` must be between 0.01 and 1, but it is 0."),
        ({"dtype": "int64"}, "`dtype` is 'int64', and the arithmetic is always float32. Leave it out."),
        (
            {"tokenizer": {"source": "union", "tokens": {"<s>": {"source": "a"}}}},
            "`tokens` of `tokenizer` is not done here. Leave it out.",
        ),
        (
            {"tokenizer": {"source": "union"}, "tokenizer_source": "base"},
            "`tokenizer_source` and `tokenizer` say the same thing. Leave one out.",
        ),
        (
            {"chat_template": "chatml"},
            "There is no chat template 'chatml' here. Write `auto`, or the template itself in Jinja.",
        ),
    ],
)
def test_what_is_not_done_here_is_refused_in_words(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(MergeError) as caught:
        load_recipe(told(**keys))

    assert message in str(caught.value).splitlines()


def test_a_slice_must_be_all_layers_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"text_config": {"num_hidden_layers": 3}}')
    file = tmp_path / "mine.yaml"
    file.write_text(told(models=None, slices=[{"sources": [SOURCE]}]))

    with pytest.raises(MergeError, match=r"The model has 3 layers, and a slice is \[0, 2\]\. Layers"):
        load_recipe(file)


def test_a_slice_that_nobody_can_check_is_told() -> None:
    recipe = load_recipe(told(models=None, slices=[{"sources": [SOURCE]}]))

    assert recipe.warnings == ("Whether [0, 2] is all layers could not be checked; all layers are merged.",)


def test_paths_are_tried_from_the_recipes_folder_and_then_from_the_working_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("recipes/base", "work/a", "work/b"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "recipes" / "mine.yaml").write_text(told())

    recipe = load_recipe("../recipes/mine.yaml")

    assert (recipe.base, recipe.experts) == (Path("../recipes/base"), (Path("a"), Path("b")))


TWO = [{"model": "a"}, {"model": "b"}]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("model_stock", {"filter_wise": False}),
        ("nuslerp", {"nuslerp_flatten": True, "nuslerp_row_wise": False, "weight": [1.0, 0.5]}),
        ("multislerp", {"normalize_weights": True, "eps": 1e-8, "weight": [1.0, 0.5]}),
        ("karcher", {"max_iter": 10.0, "tol": 1e-5}),
    ],
)
def test_what_is_left_open_is_mergekits_for_methods_of_angles(method: str, expected: dict[str, Any]) -> None:
    models = None if "weight" in expected else TWO

    recipe = load_recipe(told(merge_method=method, base_model="base", **({"models": models} if models else {})))

    values = values_of(recipe)
    assert {key: values[key] for key in expected} == expected
    assert recipe.warnings == ()


def test_the_base_is_the_first_of_the_two_models_of_slerp(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text('{"num_hidden_layers": 5}')
    t = [
        {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
        {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
        {"value": 0.5},
    ]
    sources = [{"model": name, "layer_range": [0, 5]} for name in "ab"]
    file = tmp_path / "mine.yaml"
    file.write_text(
        told(merge_method="slerp", base_model="a", models=None, slices=[{"sources": sources}], parameters={"t": t})
    )

    recipe = load_recipe(file)

    assert (recipe.base, recipe.experts) == (tmp_path / "a", (tmp_path / "b",))
    assert recipe.warnings == ()
    found = [values_of(recipe, f"layers.{layer}.{module}.w", layer / 4)["t"] for layer in (0, 2, 4) for module in
             ("self_attn", "mlp", "norm")]  # fmt: skip
    assert found == [0, 1, 0.5, 0.3, 0.7, 0.5, 1, 0, 0.5]


def test_what_is_odd_is_told_beside_what_is_wrong_and_so_is_whose_recipe_it_was_taken_for() -> None:
    hint = "It was read as a recipe of mergekit's. If it is one of ours, add `mergescope: 1`."

    with pytest.raises(RecipeError) as caught:
        load_recipe("merge_method: task_arithmetic\nbase_model: base\nmodles:\n- model: a\n")
    with pytest.raises(RecipeError) as unweighed:
        load_recipe(told(models=[{"model": "a", "weight": 1, "parameters": {"wieght": 1}}]))

    assert caught.value.problems == (
        "The recipe lists no `models`. Name at least one expert there, as `- model: PATH`.",
    )
    assert caught.value.warnings == ("mergekit has no key `modles`, so it is ignored. Did you mean `models`?", hint)
    assert str(caught.value).splitlines() == [
        *caught.value.problems,
        *(f"Warning: {words}" for words in caught.value.warnings),
    ]
    assert unweighed.value.problems == ("`a` has no weight, and mergekit asks for one. Give it one.",)
    assert unweighed.value.warnings == (
        "mergekit has no key `weight` for a model, so it is ignored. Write it under `parameters`.",
        "Model `a` has a parameter `wieght` that mergekit ignores. Did you mean `weight`?",
        hint,
    )


def test_a_parameter_that_only_ours_has_hints_at_whose_recipe_it_is() -> None:
    recipe = load_recipe(told(parameters={"sign": "mass"}))

    assert recipe.warnings == (
        "The recipe has a parameter `sign` that mergekit ignores. If this is a recipe of ours, add `mergescope: 1`.",
    )


def test_a_filter_behind_one_that_is_for_all_is_told_as_it_is_in_ours() -> None:
    recipe = load_recipe(told(parameters={"density": [{"value": 0.5}, {"filter": "mlp", "value": 1}]}))

    assert recipe.warnings == (
        "The filter `mlp` of `density` never applies, because one without a filter, which is for all tensors, "
        "stands before it. Put it in front of that.",
    )


def test_slerp_asks_for_its_place_on_the_way() -> None:
    models = [{"model": "base"}, {"model": "a"}]

    with pytest.raises(RecipeError) as caught:
        load_recipe(told(merge_method="slerp", models=models))
    assert caught.value.problems == ("The recipe has no `t`, and mergekit asks for one. Add it to `parameters`.",)
    some = load_recipe(told(merge_method="slerp", models=models, parameters={"t": {"filter": "mlp", "value": 0.2}}))
    assert some.warnings == ("Tensors that no filter of `t` matches get its default, where mergekit refuses.",)


def test_a_base_is_one_of_the_models_of_a_karcher_mean_and_none_of_the_two_of_nuslerp() -> None:
    assert load_recipe(told(merge_method="karcher", models=TWO)).experts == (Path("a"), Path("b"), Path("base"))
    assert load_recipe(told(merge_method="nuslerp")).experts == (Path("a"), Path("b"))
    assert load_recipe(told(merge_method="nuslerp", base_model=None)).base is None
    with pytest.raises(MergeError, match=r"NuSLERP takes 2 experts, not 1\. Add 1\."):
        load_recipe(told(merge_method="nuslerp", base_model="a"))


def test_parameters_of_single_models_that_a_method_has_none_of_are_told() -> None:
    recipe = load_recipe(told(merge_method="model_stock"))

    assert recipe.warnings == (
        "Model `a` has a parameter `weight` that mergekit ignores. Its method has none there.",
        "Model `b` has a parameter `weight` that mergekit ignores. Its method has none there.",
    )


@pytest.mark.parametrize("method", ["ties", "slerp"])
def test_models_that_cannot_be_read_are_not_also_missing(method: str) -> None:
    models = [{"model": name} for name in ("base@v1", "a@v2")]

    with pytest.raises(RecipeError) as caught:
        load_recipe(told(merge_method=method, base_model="base@v1", models=models, parameters={"weight": 1, "t": 0.5}))
    with pytest.raises(RecipeError) as mixed:
        load_recipe(told(base_model="base@v1"))

    assert all("is no path here, and asks for a revision" in problem for problem in caught.value.problems)
    assert [problem[:9] for problem in caught.value.problems] == ["`base@v1`", "`a@v2` is"]
    assert [problem[:9] for problem in mixed.value.problems] == ["`base@v1`"]
