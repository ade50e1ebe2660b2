"""Values that vary: gradients over the layers and filters by name, by hand and as mergekit has them."""

from typing import Any

import pytest

from merging.params import Param
from merging.rules import MISSING, folded, misfits, rules_of, value_for

DENSITY = Param("Density ρ", "", low=0.01, name="density", default=0.2)


@pytest.mark.parametrize(
    ("value", "name", "t", "expected"),
    [
        (0.5, "any", 0.7, 0.5),
        # A gradient: its anchors are spread evenly over the depth.
        ([0.0, 1.0], "any", 0.25, 0.25),
        ([0.0, 1.0, 0.0], "any", 0.25, 0.5),
        ([0.0, 1.0, 0.0], "any", 0.5, 1.0),
        ([0.0, 1.0, 0.5], "any", 1.0, 0.5),
        ([0.3], "any", 0.9, 0.3),
        (["model", "tensor"], "any", 0.99, "model"),
        (["model", "tensor"], "any", 1.0, "tensor"),
        ([True, False, True], "any", 0.5, False),
        ([None, 0.1], "any", 0.5, None),
        # Filters: parts of names, and the first that matches counts.
        ([{"filter": "mlp", "value": 1.0}, {"value": 2.0}], "layers.0.mlp.up", 0.0, 1.0),
        ([{"filter": "mlp", "value": 1.0}, {"value": 2.0}], "layers.0.attn.q", 0.0, 2.0),
        ([{"filter": "up", "value": 1.0}, {"filter": "mlp", "value": 2.0}], "mlp.up", 0.0, 1.0),
        ([{"filter": "*", "value": 1.0}, {"filter": "mlp", "value": 2.0}], "mlp.up", 0.0, 1.0),
        ([{"filter": None, "value": 1.0}], "mlp.up", 0.0, 1.0),
        ([{"filter": "", "value": 1.0}], "mlp.up", 0.0, 1.0),
        ({"filter": "mlp", "value": [0.0, 4.0]}, "mlp.up", 0.5, 2.0),
        ({"filter": "mlp", "value": 1.0}, "attn.q", 0.5, MISSING),
        ([{"filter": "layers.1.", "value": 1.0}], "layers.10.mlp", 0.0, MISSING),
    ],
)
def test_what_a_value_is_for_a_tensor(value: Any, name: str, t: float, expected: Any) -> None:
    assert value_for(rules_of(value), name, t) == expected


def test_what_matches_nothing_falls_to_the_next_level() -> None:
    rules = rules_of({"filter": "mlp", "value": 1.0}, [{"filter": "attn", "value": 2.0}], 3.0)

    assert [value_for(rules, name, 0.0) for name in ("mlp", "attn", "norm")] == [1.0, 2.0, 3.0]


def test_two_levels_become_one_value() -> None:
    mlp = {"filter": "mlp", "value": 1.0}

    assert folded(mlp, 0.5) == [mlp, {"value": 0.5}]
    assert folded([mlp], [0.0, 1.0]) == [mlp, {"value": [0.0, 1.0]}]
    assert folded([mlp], {"filter": "attn", "value": 2.0}) == [mlp, {"filter": "attn", "value": 2.0}]
    assert folded([mlp], [mlp, {"value": 3.0}]) == [mlp, mlp, {"value": 3.0}]
    assert folded([0.1, 0.2], 0.5) == [0.1, 0.2]
    assert folded([mlp, {"value": 2.0}], 0.5) == [mlp, {"value": 2.0}]


def test_rounding_does_not_step_beyond_the_anchors() -> None:
    rules = rules_of([0.9999999999999999, 1.0])

    assert all(value_for(rules, "", number / 997) <= 1.0 for number in range(998))


@pytest.mark.parametrize(
    ("value", "problems"),
    [
        ([], ["`density` is an empty list. Give it a number, or leave it out."]),
        ([[0.5]], ["`density` is a list of lists. A gradient is a list of numbers."]),
        (
            [0.5, {"filter": "mlp", "value": 0.5}],
            ["`density` mixes filters and plain values. Write `value: 0.5` where a filter is not needed."],
        ),
        ({"filtr": "mlp", "value": 0.5}, ["A filter of `density` has no key `filtr`. Did you mean `filter`?"]),
        ({"filter": "mlp"}, ["A filter of `density` has no `value`. Add it."]),
        ({}, ["A filter of `density` has no `value`. Add it."]),
        (
            {"filter": 3, "value": 0.5},
            ["The filter 3 of `density` must be a text, a part of tensors' names."],
        ),
        (
            {"value": {"value": 0.5}},
            ["A filter of `density` holds filters of its own. Write them one after the other."],
        ),
        ([{"value": []}], ["`density` is an empty list. Give it a number, or leave it out."]),
        (
            [0.5, 2, "x"],
            [
                "`density` must be between 0.01 and 1, but it is 2.",
                "`density` must be a number, but it is 'x'.",
            ],
        ),
        (
            [{"filter": "mlp", "value": [0.5, True]}],
            ["`density` must be between 0.01 and 1, but it is True."],
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_words(value: Any, problems: list[str]) -> None:
    assert misfits(DENSITY, value) == problems


def test_the_expert_is_named_where_the_value_is_its_own() -> None:
    assert misfits(DENSITY, 2, "math") == ["`density` of expert `math` must be between 0.01 and 1, but it is 2."]
