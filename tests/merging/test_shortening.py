"""Few rules for many numbers: what they give is what was wanted, whatever the names, and they are the ones meant."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.rules import rules_of, value_for, value_of
from merging.settings import depths
from merging.shortening import same, shortest


def model(layers: int) -> list[str]:
    modules = ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.gate_up_proj", "input_layernorm")
    names = [f"model.layers.{layer}.{module}.weight" for layer in range(layers) for module in modules]
    return ["model.embed_tokens.weight", *names, "model.norm.weight", "lm_head.weight"]


def short(wanted: dict[str, float], start: Any = None) -> Any:
    rules = shortest(wanted, depths(wanted), () if start is None else rules_of(start))
    assert_gives(rules, wanted)
    return value_of(rules)


def assert_gives(rules: Any, wanted: dict[str, float]) -> None:
    for name, t in depths(wanted).items():
        found = value_for(rules, name, t)
        assert found == pytest.approx(wanted[name], rel=1e-11, abs=0)
        assert np.float32(found) == np.float32(wanted[name])


def test_one_number_for_all_is_that_number() -> None:
    assert short(dict.fromkeys(model(3), 0.5)) == 0.5


def test_a_layer_has_its_dot() -> None:
    wanted = {name: 0.0 if ".layers.1." in name else 1.0 for name in model(12)}

    assert short(wanted) == [{"filter": "layers.1.", "value": 0.0}, {"value": 1.0}]


def test_a_module_is_not_part_of_another_ones_name() -> None:
    # `up_proj.` is in `gate_up_proj.`, and `norm.` in `input_layernorm.`.
    wanted = {name: 0.0 if ".mlp.up_proj" in name or name == "model.norm.weight" else 1.0 for name in model(12)}

    assert short(wanted) == [
        {"filter": "mlp.up_proj.", "value": 0.0},
        {"filter": "model.norm.", "value": 0.0},
        {"value": 1.0},
    ]


def test_neighbours_share_a_filter() -> None:
    wanted = {name: 0.0 if "self_attn" in name or ".layers.3.mlp" in name else 1.0 for name in model(12)}

    assert short(wanted) == [
        {"filter": "layers.3.mlp.", "value": 0.0},
        {"filter": "self_attn.", "value": 0.0},
        {"value": 1.0},
    ]


def test_what_stands_out_goes_before_what_is_common() -> None:
    wanted = {name: 2.0 if ".layers.3.mlp.up" in name else 0.0 if "mlp" in name else 1.0 for name in model(12)}

    assert short(wanted) == [
        {"filter": "layers.3.mlp.up_proj.", "value": 2.0},
        {"filter": "mlp.", "value": 0.0},
        {"value": 1.0},
    ]


def test_a_ramp_is_a_gradient() -> None:
    names = model(12)
    wanted = {name: 0.25 + 0.5 * t if "mlp" in name else 1.0 for name, t in depths(names).items()}

    assert short(wanted) == [{"filter": "mlp.", "value": [0.25, 0.75]}, {"value": 1.0}]


def test_what_differs_in_every_layer_is_a_gradient_of_so_many_anchors() -> None:
    layers = [0.5, 0.25, 0.75, 0.0, 1.0, 0.125, 2.0]
    wanted = {name: layers[int(name.split(".")[2])] if ".mlp." in name else 1.0 for name in model(7)}

    assert short(wanted) == [{"filter": "mlp.", "value": layers}, {"value": 1.0}]


def test_rules_that_were_there_stay_where_that_is_no_longer() -> None:
    start = [{"filter": "mlp", "value": [0.0, 1.0, 0.25]}, {"filter": "attn", "value": 2.0}, {"value": 0.5}]
    wanted = {name: value_for(rules_of(start), name, t) for name, t in depths(model(12)).items()}

    assert short(wanted, start) == start
    wanted["model.norm.weight"] = 3.0
    assert short(wanted, start) == [{"filter": "model.norm.", "value": 3.0}, *start]
    assert short(dict.fromkeys(wanted, 0.5), start) == 0.5


def test_rules_need_not_be_for_all_where_they_are_for_these() -> None:
    start = [{"filter": "weight", "value": 1.0}]

    assert short(dict.fromkeys(model(3), 1.0), start) == start


@pytest.mark.parametrize(
    "names",
    [
        # Names within names, of which no filter tells the shorter one apart.
        ["norm.weight", "layers.0.norm.weight", "layers.1.norm.weight", "layers.10.norm.weight"],
        ["a", "b.a", "c.b.a", "aa", "a.a"],
        ["0.weight", "10.weight", "110.weight", "0.weight.0"],
        ["weight", "weight_scale", "x.weight", "x.weight.y"],
        ["a..b", "a.", ".b", "b"],
    ],
)
def test_names_within_names_are_told_apart(names: list[str]) -> None:
    for odd in names:
        short({name: 2.0 if name == odd else 1.0 for name in names})
    short({name: float(number) for number, name in enumerate(names)})


SEGMENTS = st.sampled_from(["a", "b", "ab", "0", "1", "10", "layers", "weight", "norm"])
NAMES = st.lists(st.lists(SEGMENTS, min_size=1, max_size=5).map(".".join), min_size=1, max_size=12, unique=True)
NUMBERS = st.sampled_from([0.0, 1.0, 0.5]) | st.floats(-100, 100)


@given(names=NAMES, data=st.data())
def test_any_numbers_of_any_names_are_what_was_wanted(names: list[str], data: st.DataObject) -> None:
    wanted = {name: data.draw(NUMBERS) for name in names}
    start = data.draw(st.sampled_from([None, 1.0, [0.0, 1.0], [{"filter": "a", "value": [0.3, 0.1]}, {"value": 0.0}]]))

    short(wanted, start)


def test_numbers_are_the_same_where_float32_does_not_tell_them_apart() -> None:
    assert same(0.1 + 0.2, 0.3)
    assert not same(1e-16, 0.0)
    assert not same(0.3, 0.3 + 1e-9)
