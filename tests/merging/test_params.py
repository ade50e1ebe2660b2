"""What a parameter allows, and the words with which it refuses the rest."""

import re
from typing import Any

import pytest

from merging.errors import MergeError
from merging.method import ADAPTERS, METHODS, find_method
from merging.params import Param, nearest

DENSITY = Param("Density ρ", "", low=0.01, name="density", default=0.2)
SWITCH = Param("Normalize", "", name="normalize", default=True, kind="switch")
CHOICE = Param("Scope", "", name="scope", default="model", kind="choice", choices=("model", "tensor"))
CLAMP = Param("Clamp share", "", high=0.1, name="clamp", optional=True)


@pytest.mark.parametrize(
    ("param", "value", "expected"),
    [
        (DENSITY, 0.5, 0.5),
        (DENSITY, 1, 1.0),
        (DENSITY, 0.01, 0.01),
        (DENSITY, "0.3", 0.3),
        (SWITCH, False, False),
        (CHOICE, "tensor", "tensor"),
        (CLAMP, None, None),
        (CLAMP, 0, 0.0),
    ],
)
def test_an_allowed_value_comes_back_as_its_method_wants_it(param: Param, value: Any, expected: Any) -> None:
    checked = param.checked(value)

    assert checked == expected
    assert type(checked) is type(expected)


@pytest.mark.parametrize(
    ("param", "value", "message"),
    [
        (DENSITY, 1.4, "`density` must be between 0.01 and 1, but it is 1.4."),
        (DENSITY, 0, "`density` must be between 0.01 and 1, but it is 0."),
        (DENSITY, float("nan"), "`density` must be between 0.01 and 1, but it is nan."),
        (DENSITY, float("inf"), "`density` must be between 0.01 and 1, but it is inf."),
        (DENSITY, True, "`density` must be between 0.01 and 1, but it is True."),
        (DENSITY, "much", "`density` must be a number, but it is 'much'."),
        (DENSITY, [0.5], "`density` must be a number, but it is [0.5]."),
        (DENSITY, None, "`density` must be a number, but it is None."),
        (SWITCH, 1, "`normalize` must be true or false, but it is 1."),
        (SWITCH, "yes", "`normalize` must be true or false, but it is 'yes'."),
        (CHOICE, "layer", "`scope` must be one of model, tensor, but it is 'layer'."),
        (CHOICE, ["model"], "`scope` must be one of model, tensor, but it is ['model']."),
        (CLAMP, 0.2, "`clamp` must be between 0 and 0.1, but it is 0.2."),
    ],
)
def test_any_other_value_is_refused_in_words(param: Param, value: Any, message: str) -> None:
    with pytest.raises(MergeError) as caught:
        param.checked(value)

    assert str(caught.value) == message


def test_a_number_too_long_for_a_float_is_refused() -> None:
    with pytest.raises(MergeError, match="`density` must be a number"):
        DENSITY.checked(10**400)


def test_a_mistyped_word_gets_the_nearest_known_one_or_all() -> None:
    assert nearest("tie", ["ties", "pcb"]) == "Did you mean `ties`?"
    assert nearest("zzz", ["ties", "pcb"]) == "Known are ties, pcb."


def test_an_unknown_method_is_refused_with_the_nearest() -> None:
    with pytest.raises(MergeError) as caught:
        find_method("tie")

    assert str(caught.value) == "There is no method `tie`. Did you mean `ties`?"


def test_an_unknown_parameter_is_refused_with_the_nearest() -> None:
    with pytest.raises(MergeError) as caught:
        METHODS["ties"].checked({"densty": 0.2})

    assert str(caught.value) == "TIES-Merging has no parameter `densty`. Did you mean `density`?"


def test_a_parameter_whose_name_is_a_number_is_refused_in_words() -> None:
    with pytest.raises(MergeError, match="FroM has no parameter `1`"):
        METHODS["from"].checked({1: 2})  # type: ignore[dict-item]


def test_the_papers_come_first_in_the_list() -> None:
    assert list(METHODS)[:5] == ["from", "ties", "pcb", "task_arithmetic", "linear"]


def test_the_parameters_of_a_method_are_read_from_its_signature_and_its_surveys() -> None:
    params = {name: list(method.params) for name, method in METHODS.items()}

    expected = {
        "from": ["k", "scaling", "others", "lora", "scope"],
        "ties": ["density", "sign", "variant", "scaling", "merge", "weight", "scope"],
        "pcb": ["ratio", "variant", "clamp", "scaling", "weight", "scope"],
        "task_arithmetic": ["weight", "scaling", "normalize"],
        "linear": ["weight", "normalize"],
        "magmax": ["scaling"],
        "dare_linear": ["density", "rescale", "scaling", "normalize", "weight", "scope"],
        "dare_ties": ["density", "rescale", "scaling", "merge", "weight", "scope"],
        "della": ["density", "epsilon", "rescale", "scaling", "merge", "weight", "scope"],
        "della_linear": ["density", "epsilon", "rescale", "scaling", "normalize", "weight", "scope"],
        "breadcrumbs": ["density", "gamma", "rescale", "scaling", "normalize", "weight", "scope"],
        "breadcrumbs_ties": ["density", "gamma", "rescale", "scaling", "merge", "weight", "scope"],
        "consensus_ta": ["tall_lambda", "threshold", "scaling"],
        "emr": ["scaling"],
        "sce": ["select_topk", "scope"],
        "ram": ["epsilon"],
        "nearswap": ["t"],
        "arcee_fusion": ["scope"],
        "model_stock": ["filter_wise", "scope"],
        "metagpt": ["scaling", "scope"],
        "lines": ["weight", "alpha", "beta", "scaling"],
        "slerp": ["t", "scope"],
        "nuslerp": ["nuslerp_flatten", "weight", "nuslerp_row_wise", "scope"],
        "multislerp": ["weight", "normalize_weights", "eps", "scope"],
        "karcher": ["max_iter", "tol", "scope"],
        "tsv_m": ["scaling", "svd"],
        "iso_c": ["scaling"],
        "iso_cts": ["common_space_fraction", "scaling", "svd"],
        "star": ["eta", "scaling"],
        "wudi": ["scaling", "variant"],
    }
    assert {name: params[name] for name in expected} == expected


def test_defaults_are_the_papers() -> None:
    defaults = {name: method.checked({}) for name, method in METHODS.items()}

    assert defaults["from"] == {"k": 1.0, "scaling": 1.0, "others": "from", "lora": "product", "scope": "tensor"}
    assert defaults["ties"] == {
        "density": 0.2,
        "sign": "mass",
        "variant": "release",
        "scaling": 1.0,
        "merge": "mean",
        "scope": "model",
    }
    assert defaults["pcb"] == {"ratio": 0.1, "variant": "release", "clamp": None, "scaling": 1.0, "scope": "model"}
    assert defaults["task_arithmetic"] == {"scaling": 0.4, "normalize": False}
    assert defaults["linear"] == {"normalize": True}
    drawn = {"density": 0.5, "rescale": "probability", "scaling": 1.0, "scope": "tensor"}
    assert defaults["dare_linear"] == {**drawn, "normalize": False}
    assert defaults["dare_ties"] == {**drawn, "merge": "mean"}
    assert defaults["della"] == {**drawn, "merge": "mean", "epsilon": 0.05}
    cut = {"density": 0.9, "gamma": 0.01, "rescale": "none", "scaling": 1.0, "scope": "tensor"}
    assert defaults["breadcrumbs"] == {**cut, "normalize": False}
    assert defaults["breadcrumbs_ties"] == {**cut, "merge": "sum"}
    assert defaults["consensus_ta"] == {"tall_lambda": 0.4, "threshold": 2.0, "scaling": 0.3}
    assert defaults["sce"] == {"select_topk": 1.0, "scope": "tensor"}
    assert defaults["ram"] == {"epsilon": 1e-5}
    assert defaults["model_stock"] == {"filter_wise": False, "scope": "tensor"}
    assert defaults["metagpt"] == {"scaling": 1.0, "scope": "model"}
    assert defaults["lines"] == {"alpha": 0.0, "beta": 1.0, "scaling": 0.4}
    assert defaults["karcher"] == {"max_iter": 10.0, "tol": 1e-5, "scope": "tensor"}
    assert defaults["tsv_m"] == {"scaling": 1.0, "svd": "exact"}
    assert defaults["iso_cts"] == {"common_space_fraction": 0.8, "scaling": 1.0, "svd": "exact"}
    assert defaults["star"] == {"eta": 40.0, "scaling": 1.0}
    assert defaults["wudi"] == {"scaling": 1.0, "variant": "release"}


@pytest.mark.parametrize("method", (METHODS | ADAPTERS).values(), ids=list(METHODS | ADAPTERS))
def test_every_method_can_be_shown(method: Any) -> None:
    assert method.title
    assert method.summary.endswith(".")
    assert method.paper.startswith("https://")
    assert method.formula
    assert not re.search(r"\\q?quad[a-zA-Z]", method.formula)  # which is another command
    assert all(param.label and param.help for param in method.params.values())
    assert method.checked({param.key: param.default for param in method.params.values() if not param.per_expert})


def test_a_recipe_says_lambda_where_a_function_says_scaling() -> None:
    assert METHODS["ties"].checked({"lambda": 1.5})["scaling"] == 1.5
    with pytest.raises(MergeError, match="no parameter `scaling`"):
        METHODS["ties"].checked({"scaling": 1.5})


def test_what_a_method_returns_says_whether_it_decides_entry_by_entry() -> None:
    names = ["from", "ties", "pcb", "task_arithmetic", "linear", "dare_ties", "arcee_fusion", "nuslerp", "tsv_m"]

    assert [name for name in names if METHODS[name].entrywise] == ["ties", "pcb", "dare_ties", "arcee_fusion"]


def test_what_a_method_asks_for_says_whether_it_draws_and_whether_it_needs_whole_rows() -> None:
    names = ["ties", "dare_linear", "della", "arcee_fusion"]

    assert [name for name in names if METHODS[name].random] == ["dare_linear", "della"]
    assert [METHODS[name].unit(7) for name in names] == [1, 1, 7, 7]


def test_what_a_method_returns_says_whether_it_looks_at_whole_tensors() -> None:
    names = ["from", "ties", "linear", "model_stock", "slerp", "nuslerp", "tsv_m", "wudi"]

    assert [name for name in names if METHODS[name].whole] == ["model_stock", "nuslerp", "tsv_m", "wudi"]


def test_what_a_method_returns_says_what_it_does_with_a_base() -> None:
    names = ["from", "ties", "slerp", "nuslerp", "multislerp", "karcher", "linear"]

    assert [name for name in names if METHODS[name].needs_base] == ["from", "ties", "slerp"]
    assert [name for name in names if not METHODS[name].takes_base] == ["karcher", "linear"]


def test_a_scope_without_a_choice_is_refused_and_not_asked_for() -> None:
    scope = METHODS["slerp"].params["scope"]

    assert scope.settled
    assert not METHODS["from"].params["scope"].settled
    with pytest.raises(MergeError, match=r"^`scope` can only be `tensor` here, not 'model'\. Leave it out\.$"):
        METHODS["slerp"].checked({"scope": "model"})
