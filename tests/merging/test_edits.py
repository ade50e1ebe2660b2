"""Weights changed by hand: what each tensor gets, that the recipe says the same, and what can be taken back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from merging.edits import PRESETS, Edit, Edits, applied, uneditable, weights_of
from merging.engine import merge
from merging.errors import MergeError
from merging.exporting import to_mergekit
from merging.memory import merge_groups
from merging.method import METHODS, Group
from merging.parts import GROUPS, THIRDS, Part
from merging.places import place
from merging.recipe import Recipe, load_recipe
from merging.rules import value_for
from merging.settings import depths
from tests.conftest import write_model

MODULES = ("input_layernorm", "self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
NAMES = (
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.{module}.weight" for layer in range(12) for module in MODULES),
    "model.norm.weight",
    "lm_head.weight",
)
TOWERS = tuple(
    f"{tower}.block.{layer}.layer.{number}.{module}.weight"
    for tower, layers in (("encoder", 3), ("decoder", 11))
    for layer in range(layers)
    for number, module in enumerate(("SelfAttention.q", "DenseReluDense.wi"))
)
RECIPE = Recipe("task_arithmetic", Path("base"), (Path("a"), Path("b")), (1.0, [0.0, 1.0]))


def changed(*edits: Edit, recipe: Recipe = RECIPE, names: tuple[str, ...] = NAMES) -> tuple[Any, ...]:
    """The weights in the recipe after these edits, which give each tensor what they say."""
    done = applied(recipe, Edits(edits), names)
    assert_says(done, weights_of(recipe, Edits(edits), names), names)
    return done.weights


def assert_says(recipe: Recipe, expected: tuple[dict[str, float], ...], names: tuple[str, ...]) -> None:
    depth = depths(names)
    for rules, table in zip(recipe.settings().rules["weight"], expected, strict=True):
        found = {name: value_for(rules, name, depth[name]) for name in names}
        assert found == pytest.approx(table, rel=1e-11, abs=0)
        assert [np.float32(value) for value in found.values()] == [np.float32(table[name]) for name in found]


def layer(name: str) -> int | None:
    return place(name).layer


def test_each_change_is_what_its_words_say() -> None:
    q, up = Part("module", "q"), Part("module", "up")
    edits = Edits(
        (
            Edit(q, "set", 2.0),
            Edit(q, "scale", 0.25, expert="b"),
            Edit(Part("layer", "3"), "scale", 3.0, expert="a"),
            Edit(up, "set", 1.0, 0.0),
            Edit(Part("tensor", "lm_head.weight"), "set", 5.0),
            Edit(Part("tensor", "lm_head.weight"), "reset", expert="b"),
        )
    )

    a, b = weights_of(RECIPE, edits, NAMES)

    for name in NAMES:
        at = layer(name)
        start_a, start_b = 1.0, (at or 0) / 11
        if "q_proj" in name:
            start_a, start_b = 2.0, 0.5
        start_a = 3 * start_a if at == 3 else start_a
        if "up_proj" in name:
            start_a = start_b = 1 - at / 11
        start_a = 5.0 if name == "lm_head.weight" else start_a
        assert (a[name], b[name]) == pytest.approx((start_a, start_b), rel=1e-11), name


def test_changes_are_ordinary_entries_of_a_recipe() -> None:
    assert changed(Edit(Part("layer", "1"))) == (
        [{"filter": "layers.1.", "value": 0.0}, {"value": 1.0}],
        [{"filter": "layers.1.", "value": 0.0}, {"value": [0.0, 1.0]}],
    )
    assert changed(Edit(Part("module", "up"), "set", 0.5, expert="a")) == (
        [{"filter": "up_proj.", "value": 0.5}, {"value": 1.0}],
        [0.0, 1.0],
    )
    assert changed(Edit(Part(), "scale", 0.3), Edit(Part("tensor", "lm_head.weight"))) == (
        [{"filter": "lm_head.", "value": 0.0}, {"value": 0.3}],
        [0.0, 0.3],  # the head has the gradient's beginning, which is 0
    )
    assert changed(Edit(Part(), "set", 0.25, 0.75)) == ([0.25, 0.75], [0.25, 0.75])
    assert changed(PRESETS["ramp down"], recipe=RECIPE, names=NAMES)[0] == [1.0, 0.0]


def test_a_ramp_goes_through_the_layers_of_its_part() -> None:
    [table, _] = weights_of(RECIPE, Edits((Edit(Part("group", "last third"), "set", 1.0, 0.0),)), NAMES)

    found = {layer(name): table[name] for name in NAMES if layer(name) is not None}
    assert [found[at] for at in range(12)] == pytest.approx([1.0] * 9 + [2 / 3, 1 / 3, 0.0])
    [table, _] = weights_of(RECIPE, Edits((Edit(Part("layer", "3"), "set", 0.2, 0.7),)), NAMES)
    assert {table[name] for name in NAMES if layer(name) == 3} == {0.7}
    [table, _] = weights_of(RECIPE, Edits((Edit(Part(), "set", 0.2, 0.7),)), NAMES)
    assert {table[name] for name in NAMES if layer(name) in (None, 0)} == {0.2}


def test_each_third_of_the_layers_has_numbers_of_its_own() -> None:
    first, middle, last = (Part("group", third) for third in THIRDS)

    changed(Edit(first, "set", 0.2), Edit(middle, "scale", 0.5), Edit(last, "set", 0.6, 0.9), Edit(last, "scale", 2.0))
    [table, _] = weights_of(
        RECIPE, Edits((Edit(first, "set", 0.2), Edit(middle, "scale", 0.5), Edit(last, "set", 0.6, 0.9))), NAMES
    )

    found = {layer(name): table[name] for name in NAMES}
    assert [found[at] for at in range(12)] == pytest.approx([0.2] * 4 + [0.5] * 4 + [0.6, 0.7, 0.8, 0.9])
    assert found[None] == 1.0


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_edits_like_any_others(preset: str) -> None:
    a, _ = weights_of(RECIPE, Edits((PRESETS[preset],)), NAMES)

    changed(PRESETS[preset])
    assert {name for name in NAMES if a[name] == 1.0} == {
        "attention only": {name for name in NAMES if "self_attn" in name},
        "MLP only": {name for name in NAMES if "mlp" in name},
        "first third only": {name for name in NAMES if layer(name) in range(4)},
        "last third only": {name for name in NAMES if layer(name) in range(8, 12)},
        "freeze embeddings": {name for name in NAMES if "embed" not in name},
        "freeze norms": {name for name in NAMES if "norm" not in name},
        "ramp up": {name for name in NAMES if layer(name) == 11},
        "ramp down": {name for name in NAMES if layer(name) in (None, 0)},
    }[preset]


PARTS = st.one_of(
    st.just(Part()),
    st.builds(Part, st.just("group"), st.sampled_from(GROUPS), st.booleans()),
    st.builds(Part, st.just("layer"), st.sampled_from(["", "0", "1", "10", "11", "encoder 1", "decoder 10"])),
    st.builds(Part, st.just("module"), st.sampled_from(["q", "up", "attn norm", "layer.0.SelfAttention.q", "none"])),
    st.builds(Part, st.just("tensor"), st.sampled_from([*NAMES, *TOWERS]), st.booleans()),
)
NUMBERS = st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.0]) | st.floats(-2, 2)
EDITS = st.builds(
    Edit,
    PARTS,
    st.sampled_from(["set", "scale", "reset"]),
    NUMBERS,
    st.none() | NUMBERS,
    st.sampled_from(["", "a", "b", "gone"]),
)
STARTS = st.sampled_from(
    [1.0, 0.5, [0.0, 1.0], [0.0, 1.0, 0.5], [{"filter": "mlp", "value": [1.0, 0.25]}, {"value": 0.1}]]
)


@settings(max_examples=80)
@given(edits=st.lists(EDITS, max_size=6), starts=st.tuples(STARTS, STARTS), names=st.sampled_from([NAMES, TOWERS]))
def test_the_recipe_says_what_the_edits_say(edits: list[Edit], starts: tuple[Any, Any], names: tuple[str, ...]) -> None:
    recipe = Recipe("task_arithmetic", Path("base"), (Path("a"), Path("b")), starts)

    done = applied(recipe, Edits(tuple(edits)), names)
    read = load_recipe(done.to_yaml(Path()))

    expected = weights_of(recipe, Edits(tuple(edits)), names)
    assert_says(done, expected, names)
    assert_says(read, expected, names)
    assert applied(read, Edits(), names) == read
    # What was read is where the next change starts.
    again = applied(read, Edits((Edit(Part("layer", "1"), "set", 0.125),)), names)
    for table, before in zip(weights_of(again, Edits(), names), expected, strict=True):
        inside = Part("layer", "1").of(names)
        assert table == pytest.approx({**before, **dict.fromkeys(inside, 0.125)}, rel=1e-11, abs=0)


def test_recipes_of_mergekits_are_changed_too() -> None:
    kit = """\
merge_method: ties
base_model: base
models:
- model: a
  parameters:
    weight:
    - filter: mlp
      value: [1.0, 0.5, 0.0]
    - value: 0.3
- model: b
parameters:
  weight: 0.7
dtype: float32
"""

    done = applied(load_recipe(kit), Edits((Edit(Part("layer", "1"), "scale", 0.0, expert="a"),)), NAMES)

    assert done.weights[0] == [
        {"filter": "layers.1.", "value": 0.0},
        {"filter": "mlp.", "value": [1.0, 0.0]},  # an even gradient needs its two ends alone
        {"value": 0.3},
    ]
    assert done.weights[1] == 0.7
    assert load_recipe(to_mergekit(done)).weights == done.weights


def test_changes_can_be_taken_back_and_made_again() -> None:
    one, two, three = (Edit(Part("layer", str(number))) for number in range(3))
    edits = Edits().and_then(one).and_then(two)

    assert edits.undo() == Edits((one,), (two,))
    assert edits.undo().undo() == Edits((), (one, two))
    assert edits.undo().undo().undo() == Edits((), (one, two))
    assert edits.undo().undo().redo().redo() == edits == edits.redo()
    assert edits.undo().and_then(three) == Edits((one, three))
    assert applied(RECIPE, edits.undo().undo(), NAMES) == RECIPE
    assert applied(RECIPE, edits.reset(), NAMES) == RECIPE
    assert edits.reset().undo().done == edits.done
    assert edits.standing == (one, two)
    assert edits.reset().standing == ()
    assert edits.reset().and_then(three).standing == (three,)
    unweighted = Recipe("from", Path("base"), (Path("a"),))
    assert applied(unweighted, edits.reset(), NAMES) == unweighted  # which takes no change


def test_what_the_models_do_not_have_is_not_changed() -> None:
    edits = Edits((Edit(Part(), expert="gone"), Edit(Part("layer", "99")), Edit(Part("tensor", "other"))))

    assert applied(RECIPE, edits, NAMES) == RECIPE


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            Recipe("from", Path("base"), (Path("a"),)),
            "FroM has no weights to change. Turn it into task arithmetic, with its coefficients as weights.",
        ),
        (
            Recipe("magmax", Path("base"), (Path("a"), Path("b"))),
            "MagMax has no weights to change. Choose a method that weighs experts.",
        ),
        (
            Recipe("slerp", Path("base"), (Path("a"),)),
            "SLERP has no weights to change. Choose a method that weighs experts.",
        ),
        (RECIPE, ""),
        (Recipe("ties", Path("base"), (Path("a"),)), ""),
        (Recipe("linear", None, (Path("a"),)), ""),
    ],
)
def test_where_weights_cannot_be_changed_it_is_said_why(recipe: Recipe, words: str) -> None:
    assert uneditable(recipe) == words
    if words:
        with pytest.raises(MergeError) as caught:
            applied(recipe, Edits((Edit(Part()),)), NAMES)
        assert str(caught.value) == words


@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_weights_takes_them_tensor_by_tensor_or_says_why_not(name: str) -> None:
    method = METHODS[name]
    recipe = Recipe(name, Path("base"), tuple(map(Path, "ab"[: method.taking(2)])))

    if words := uneditable(recipe):
        assert words.count(". ") == 1
        assert words.endswith(".")
    else:
        done = applied(recipe, Edits((Edit(Part("layer", "1"), "set", 0.5),)), NAMES)
        assert done.problems() == []
        assert done.weights[0] == [{"filter": "layers.1.", "value": 0.5}, {"value": 1.0}]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Edit(Part(), "set", 101), "`weight` of expert `a` must be between -100 and 100, but it is 101.0."),
        (Edit(Part(), "set", float("nan")), "`weight` of expert `a` must be between -100 and 100, but it is nan."),
        (
            Edit(Part("layer", "3"), "scale", 1e9),
            "`weight` of expert `a` must be between -100 and 100, but it is 1000000",
        ),
        (Edit(Part("group", "x")), "There is no group `x` of tensors."),
    ],
)
def test_a_change_that_no_recipe_allows_is_refused_in_words(edit: Edit, words: str) -> None:
    with pytest.raises(MergeError) as caught:
        applied(RECIPE, Edits((edit,)), NAMES)

    assert str(caught.value).startswith(words)


def test_a_start_that_leaves_tensors_out_is_refused_in_words() -> None:
    recipe = Recipe("task_arithmetic", Path("base"), (Path("a"),), ({"filter": "mlp", "value": 1.0},))

    with pytest.raises(MergeError, match=r"`weight` of expert `a` has no value for `model\.embed_tokens\.weight` and"):
        applied(recipe, Edits((Edit(Part("layer", "1")),)), NAMES)


def test_without_a_base_something_must_be_left() -> None:
    linear = Recipe("linear", Path("base"), (Path("a"), Path("b")))

    with pytest.raises(MergeError, match=r"Linear has no base .* weight of `model.embed_tokens.weight` would be 0\. "):
        applied(linear, Edits((PRESETS["freeze embeddings"],)), NAMES)
    assert applied(linear, Edits((Edit(Part("group", "embeddings"), expert="a"),)), NAMES).weights[1] == 1.0


def test_a_merge_goes_by_them(tmp_path: Path) -> None:
    names = [name for name in NAMES if layer(name) in (None, 0, 1, 2, 10)]
    generator = torch.Generator().manual_seed(0)
    tensors = [{name: torch.randn(3, 2, generator=generator) for name in names} for _ in range(3)]
    base, *experts = (write_model(tmp_path / f"m{number}", each) for number, each in enumerate(tensors))
    start = Recipe("task_arithmetic", base, tuple(experts), (0.5, [1.0, 0.0]), {"lambda": 1.0})
    edits = Edits(
        (Edit(Part("layer", "1"), "set", 2.0, expert=str(experts[0])), Edit(Part("module", "up"), "scale", 0.0))
    )

    done = applied(start, edits, names)
    merge(done, tmp_path / "out")

    tables = weights_of(start, edits, names)
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name in names:
        group = Group(name, tensors[0][name], torch.stack([each[name] for each in tensors[1:]]))
        weight = torch.tensor([table[name] for table in tables])
        [(_, expected)] = merge_groups(METHODS["task_arithmetic"], [group], weight=weight, scaling=1.0)
        assert torch.equal(found[name], expected), name
    # A merged folder gives the state back, and takes more changes.
    assert weights_of(load_recipe(tmp_path / "out"), Edits(), names)[0] == pytest.approx(tables[0])
