"""What a parameter allows, and the words with which it refuses the rest."""

from typing import Any

import pytest

from merging.errors import MergeError
from merging.method import METHODS, find_method
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
        (DENSITY, 1.4, "Density ρ must be between 0.01 and 1, but it is 1.4."),
        (DENSITY, 0, "Density ρ must be between 0.01 and 1, but it is 0."),
        (DENSITY, float("nan"), "Density ρ must be between 0.01 and 1, but it is nan."),
        (DENSITY, float("inf"), "Density ρ must be between 0.01 and 1, but it is inf."),
        (DENSITY, True, "Density ρ must be between 0.01 and 1, but it is True."),
        (DENSITY, "much", "Density ρ must be a number, but it is 'much'."),
        (DENSITY, [0.5], "Density ρ must be a number, but it is [0.5]."),
        (DENSITY, None, "Density ρ must be a number, but it is None."),
        (SWITCH, 1, "Normalize must be true or false, but it is 1."),
        (SWITCH, "yes", "Normalize must be true or false, but it is 'yes'."),
        (CHOICE, "layer", "Scope must be one of model, tensor, but it is 'layer'."),
        (CHOICE, ["model"], "Scope must be one of model, tensor, but it is ['model']."),
        (CLAMP, 0.2, "Clamp share must be between 0 and 0.1, but it is 0.2."),
    ],
)
def test_any_other_value_is_refused_in_words(param: Param, value: Any, message: str) -> None:
    with pytest.raises(MergeError) as caught:
        param.checked(value)

    assert str(caught.value) == message


def test_a_number_too_long_for_a_float_is_refused() -> None:
    with pytest.raises(MergeError, match="Density ρ must be a number"):
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


def test_the_five_methods_are_there_in_the_order_of_the_list() -> None:
    assert list(METHODS) == ["from", "ties", "pcb", "task_arithmetic", "linear"]


def test_the_parameters_of_a_method_are_read_from_its_signature_and_its_surveys() -> None:
    params = {name: list(method.params) for name, method in METHODS.items()}

    assert params == {
        "from": ["k", "scaling", "others", "lora", "scope"],
        "ties": ["density", "sign", "variant", "scaling", "merge", "weight", "scope"],
        "pcb": ["ratio", "variant", "clamp", "scaling", "weight", "scope"],
        "task_arithmetic": ["weight", "scaling", "normalize"],
        "linear": ["weight", "normalize"],
    }


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


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_every_method_can_be_shown(method: Any) -> None:
    assert method.title
    assert method.summary.endswith(".")
    assert method.paper.startswith("https://arxiv.org/abs/")
    assert method.formula
    assert all(param.label and param.help for param in method.params.values())
    assert method.checked({param.key: param.default for param in method.params.values() if not param.per_expert})


def test_a_recipe_says_lambda_where_a_function_says_scaling() -> None:
    assert METHODS["ties"].checked({"lambda": 1.5})["scaling"] == 1.5
    with pytest.raises(MergeError, match="no parameter `scaling`"):
        METHODS["ties"].checked({"scaling": 1.5})


def test_ties_and_pcb_decide_entry_by_entry() -> None:
    assert [name for name, method in METHODS.items() if method.entrywise] == ["ties", "pcb"]
