"""What the parameters of a method are for each tensor of a model."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.errors import MergeError
from merging.method import METHODS, Method
from merging.recipe import Recipe
from merging.settings import Settings, depths
from tests.strategies import recipe_values

NAMES = [
    "model.embed_tokens.weight",
    *[f"model.layers.{layer}.{module}.weight" for layer in range(5) for module in ("mlp.up_proj", "self_attn.q_proj")],
    "model.norm.weight",
    "lm_head.weight",
]


def settings(method: str, *weights: Any, own: tuple[dict[str, Any], ...] = (), **values: Any) -> Settings:
    experts = tuple(Path(letter) for letter in "abc"[: max(len(weights), 1)])
    values = {"lambda" if key == "scaling" else key: value for key, value in values.items()}
    return Recipe(method, Path("base"), experts, weights, values, own).settings()


def test_a_layer_is_as_deep_as_its_number_and_everything_else_is_at_the_start() -> None:
    found = depths(NAMES)

    assert [found[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert [found[name] for name in NAMES if "layers" not in name] == [0, 0, 0]


def test_every_tower_has_its_own_depth_and_a_single_layer_is_the_last() -> None:
    names = ["encoder.block.0.x", "encoder.block.2.x", "decoder.block.0.x", "decoder.block.1.x", "vision.layers.0.x"]

    assert list(depths(names).values()) == [0, 1, 0, 1, 1]


def test_plain_values_are_the_same_for_all_tensors() -> None:
    plain = settings("ties", 0.5, 1, density=0.3, scope="tensor")

    assert plain.constant
    assert plain.varying == []
    assert plain.of("any", 0.3) == plain.of("other", 1.0)
    assert plain.of("any", 0.0)["weight"] == [0.5, 1.0]
    assert plain.of("any", 0.0)["density"] == [0.3, 0.3]
    assert plain.of("any", 0.0)["scaling"] == 1.0
    assert plain.check(NAMES) == []


def test_gradients_run_over_the_layers_and_filters_over_the_names() -> None:
    varied = settings("task_arithmetic", [0.0, 1.0], [{"filter": "mlp", "value": 2.0}, {"value": 0.5}], scaling=[1, 0])

    values = {name: varied.of(name, t) for name, t in depths(NAMES).items()}

    assert not varied.constant
    assert varied.varying == ["`weight`", "`lambda`"]
    assert values["model.layers.1.mlp.up_proj.weight"] == {"weight": [0.25, 2.0], "scaling": 0.75, "normalize": False}
    assert values["model.layers.4.self_attn.q_proj.weight"]["weight"] == [1.0, 0.5]
    assert values["lm_head.weight"] == {"weight": [0.0, 0.5], "scaling": 1.0, "normalize": False}


def test_an_experts_own_value_goes_before_the_shared_one_and_that_before_the_default() -> None:
    own = ({"density": {"filter": "mlp", "value": 0.9}}, {})
    varied = settings("ties", 1, 1, own=own, density={"filter": "q_proj", "value": 0.5}, scope="tensor")

    found = {name: varied.of(name, t)["density"] for name, t in depths(NAMES).items()}

    assert found["model.layers.0.mlp.up_proj.weight"] == [0.9, 0.2]
    assert found["model.layers.0.self_attn.q_proj.weight"] == [0.5, 0.5]
    assert found["model.norm.weight"] == [0.2, 0.2]


@pytest.mark.parametrize(
    "value", [[0.5, 0.5], [0.5], {"value": 0.5}, [{"filter": "mlp", "value": 0.5}, {"value": 0.5}]]
)
def test_a_list_that_says_one_thing_is_a_plain_value(value: Any) -> None:
    assert settings("linear", value).constant
    assert settings("linear", value).of("any", 0.1)["weight"] == [0.5]


def test_values_that_are_handed_out_can_be_changed() -> None:
    plain = settings("linear", 1, 2)

    plain.of("any", 0)["normalize"] = False

    assert plain.of("any", 0)["normalize"] is True


def test_a_weight_that_no_filter_gives_is_told_for_all_experts_and_tensors() -> None:
    varied = settings("linear", {"filter": "mlp", "value": 1.0}, 1, {"filter": "lm_head", "value": 1.0})

    assert varied.check(depths(NAMES)) == [
        "`weight` of expert `a` has no value for `model.embed_tokens.weight` and 7 more tensors, because none of its "
        "filters matches. End its list with a value that has no filter.",
        "`weight` of expert `c` has no value for `model.embed_tokens.weight` and 11 more tensors, because none of its "
        "filters matches. End its list with a value that has no filter.",
    ]
    with pytest.raises(MergeError, match=r"`weight` of expert `a` has no value for `x`, because"):
        varied.of("x", 0.0)


def test_a_filter_that_is_in_no_name_is_told() -> None:
    varied = settings("linear", [{"filter": "attention", "value": 1.0}, {"filter": "mlp", "value": 2.0}, {"value": 3}])

    assert varied.unmatched(NAMES) == [
        "No tensor's name contains `attention`, so that filter of `weight` does nothing.",
    ]


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        (
            "ties",
            {"density": [0.1, 0.9]},
            "`density` is ranked over the whole model, so it must be one number for each expert. "
            "Set `scope: tensor` to let it vary.",
        ),
        (
            "pcb",
            {"ratio": {"filter": "mlp", "value": 0.3}},
            "`ratio` is ranked over the whole model, so it must be one number. Set `scope: tensor` to let it vary.",
        ),
        (
            "pcb",
            {"variant": ["nlp", "vision"]},
            "`variant` is ranked over the whole model, so it must be one word. Set `scope: tensor` to let it vary.",
        ),
        (
            "fisher",
            {"normalize": [True, False]},
            "`normalize` is ranked over the whole model, so it must be one switch.",  # it has no other scope
        ),
        (
            "ties",
            {"scope": ["model", "tensor"]},
            "`scope` must be the same for all tensors. Write `model` or `tensor`.",
        ),
    ],
)
def test_what_is_ranked_over_the_whole_model_cannot_vary(method: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(MergeError) as caught:
        settings(method, 1, 1, **values)

    assert str(caught.value) == message


def test_what_is_not_ranked_may_vary_and_what_is_ranked_may_in_each_tensor() -> None:
    assert settings("ties", 1, scaling=[0, 1]).varying == ["`lambda`"]
    assert settings("pcb", [0, 1]).varying == ["`weight`"]
    assert settings("ties", 1, density=[0.1, 0.9], scope="tensor").varying == ["`density`"]
    assert settings("ties", 1, 1, own=({"density": 0.1}, {"density": 0.9})).constant


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(MergeError) as caught:
        settings("ties", [1, 400], "x", own=({"k": 1}, {"density": 5}), density=[2, 0.5, 3], scaling={}, ratio=1)

    known = ", ".join(param.key for param in METHODS["ties"].params.values())
    assert str(caught.value).splitlines() == [
        f"TIES-Merging has no parameter `ratio`. Known are {known}.",
        "TIES-Merging has no parameter `k` for single experts. Known are density, weight.",
        "`density` must be between 0.01 and 1, but it is 2.",
        "`density` must be between 0.01 and 1, but it is 3.",
        "A filter of `lambda` has no `value`. Add it.",
        "`weight` of expert `a` must be between -100 and 100, but it is 400.",
        "`weight` of expert `b` must be a number, but it is 'x'.",
        "`density` of expert `b` must be between 0.01 and 1, but it is 5.",
    ]


@given(data=st.data(), method=st.sampled_from(list(METHODS.values())))
def test_every_tensor_gets_values_that_the_method_allows(data: st.DataObject, method: Method) -> None:
    experts = (Path("a"), Path("b"))[: method.taking(2)]
    weights, values, own = data.draw(recipe_values(method, len(experts)))

    found = Recipe(method.name, Path("base"), experts, weights, values, own).settings()

    assert found.constant == (not found.varying)
    assert [*found.rules] == [*method.params]
    if not found.check(NAMES):
        for name, t in depths(NAMES).items():
            told = found.of(name, t)
            for param in method.params.values():
                single = param.per_expert or param.by_expert
                assert all(
                    param.checked(value) == value for value in (told[param.name] if single else [told[param.name]])
                )
