"""Adapters on the screen: what can be made of them, what is drawn of it, and what is said when it is there."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import Recipe, merge
from merging.adapter import open_base, open_expert
from merging.adapter_predictions import MIXED
from merging.method import METHODS
from tests.adapters import loaded, random_adapter, written
from tests.conftest import Family, random_tensors, write_model
from tests.ui.screens import cells, draw, select
from ui.merge_panel import estimate, recipe_of, run_merge
from ui.method_panel import unfit
from ui.models_panel import Selection, read_models
from ui.result_panel import EXACT, of_rank, offer

UPS = tuple(f"model.layers.{layer}.mlp.up_proj" for layer in (0, 1))
CHANGED = tuple(f"{module}.weight" for module in UPS)


def ground(folder: Path) -> Path:
    return write_model(folder / "base", random_tensors(0))


def adapters(folder: Path, count: int = 2, **config: Any) -> list[Path]:
    """Adapters of rank 2 for both matrices in the layers."""
    shapes = dict.fromkeys(UPS, (6, 4))
    return [random_adapter(folder / f"adapter-{seed}", seed, shapes, rank=2, **config) for seed in range(count)]


def trained_in_full(adapter: Path, name: str) -> None:
    """Let the adapter hold a tensor of the base that it trained in full, moved."""
    module, tensors = name.removesuffix(".weight"), load_file(adapter / "adapter_model.safetensors")
    tensors[f"base_model.model.{name}"] = random_tensors(0)[name] + 1
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": [module]}))


def test_a_selection_knows_what_its_adapters_change(tmp_path: Path) -> None:
    _, selection = read_models(str(ground(tmp_path)), [str(path) for path in adapters(tmp_path)])

    assert selection.adapted == CHANGED
    assert selection.hurdle == ""


def test_why_experts_make_no_adapter_is_one_sentence(family: Family, tmp_path: Path) -> None:
    base, full = family(3)
    some = adapters(tmp_path)
    start = "Only LoRA adapters of the base merge into an adapter, and"

    told = [
        read_models(str(base), [str(path) for path in experts])[1].hurdle
        for experts in ([*some, full[0]], full, [*full, some[0]], [])
    ]

    assert told == [
        f"{start} expert-1 is a full model.",
        f"{start} expert-1, expert-2 and expert-3 are full models.",
        f"{start} expert-1, expert-2 and expert-3 are full models.",
        f"{start} none is chosen.",
    ]
    assert read_models("", [])[1].hurdle == "No LoRA adapter is chosen in step 1."


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_an_adapter_that_merges_into_none_is_named(tmp_path: Path) -> None:
    base, some = written(tmp_path, {}, {"use_dora": True})

    _, selection = read_models(str(base), [str(path) for path in some])

    assert len(selection.fitting) == 2
    assert selection.hurdle.startswith("adapter-1 is a DoRA")


HURDLE = Selection("base", ("one",), ("one",), ("one",), (), (), (), "Only adapters & such.")
OPEN = Selection("base", ("one",), ("one",), ("one",), (), (), CHANGED, "")


def test_full_models_leave_no_choice_and_a_reason() -> None:
    found = offer("ties", HURDLE, "adapter")

    assert (found.result, found.choice, found.possible, found.rank) == ("model", True, False, "")
    assert "Only adapters &amp; such." in found.words


def test_adapters_leave_the_choice_and_a_rank_where_one_is_made() -> None:
    model, adapter = (offer("task_arithmetic", OPEN, wanted) for wanted in ("model", "adapter"))

    assert (model.result, model.possible, model.rank, model.words) == ("model", True, "", "")
    assert (adapter.result, adapter.possible, adapter.rank) == ("adapter", True, EXACT)


def test_a_method_of_adapters_alone_leaves_no_choice_and_keeps_what_was_chosen_before() -> None:
    found, refused = (offer("knots", selection, "model") for selection in (OPEN, HURDLE))

    assert (found.result, found.choice, found.rank, found.words) == ("model", False, EXACT, "")
    assert (refused.choice, refused.rank, refused.words) == (False, "", "")
    assert "KnOTS merges adapters and nothing else. Only adapters &amp; such." in unfit("knots", HURDLE)
    assert unfit("knots", OPEN) == unfit("ties", HURDLE) == ""


def test_where_no_rank_comes_by_itself_one_is_asked_for() -> None:
    needing = {name for name, method in METHODS.items() if "no low rank by itself" in of_rank(method)}

    assert {"ties", "pcb", "dare_ties", "tsv_m", "wudi"} <= needing
    assert not {"from", "linear", "task_arithmetic", "metagpt", "lines", "model_stock"} & needing


def test_the_form_becomes_a_recipe_with_its_result_and_rank() -> None:
    fields = {"method": "ties", "ties.density": 0.5, "result": "adapter", "rank": " 8 ", "knots.lambda": 1.0}

    ties, model, knots = (
        recipe_of(OPEN, fields | more, {}, all_of_them=True)
        for more in ({}, {"result": "model"}, {"method": "knots", "result": "model", "rank": ""})
    )

    assert ties == Recipe("ties", Path("base"), (Path("one"),), (1.0,), {"density": 0.5}, result="adapter", rank=8)
    assert (model.result, model.rank) == ("", None)
    assert (knots.result, knots.rank, knots.values) == ("adapter", None, {"lambda": 1.0})


@pytest.mark.parametrize(("text", "told"), [("0", "0"), ("-3", "&#x27;-3&#x27;"), ("many", "&#x27;many&#x27;")])
def test_a_rank_that_cannot_be_is_refused_in_words(tmp_path: Path, text: str, told: str) -> None:
    base, some = ground(tmp_path), adapters(tmp_path)
    fields = {"method": "from", "result": "adapter", "rank": text}
    recipe = recipe_of(select(base, some), fields, {}, all_of_them=True)

    words = f"<code>rank</code> must be a whole number from 1 up, but it is {told}."
    assert words in estimate(recipe, str(tmp_path / "out"))
    assert "<code>rank</code> must be" in draw(select(base, some), recipe, quick=True).caption


def product(folder: Path, module: str) -> torch.Tensor:
    """What an adapter with a scaling of 1 adds."""
    tensors = load_file(folder / "adapter_model.safetensors")
    up, down = (tensors[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "BA")
    return up @ down


@pytest.mark.parametrize("method", ["from", "task_arithmetic", "metagpt"])
def test_the_coefficients_that_are_drawn_are_those_of_the_adapter(tmp_path: Path, method: str) -> None:
    base, some = ground(tmp_path), adapters(tmp_path)
    recipe = Recipe(method, base, tuple(some), result="adapter")

    figure, _, exact = draw(select(base, some), recipe, quick=True)

    assert figure is not None
    assert exact
    assert [row[0] for row in figure.data[0].customdata if row[0]] == list(CHANGED)
    weights = [row for row in figure.data[0].z if row[0] is not None]
    out = merge(recipe, tmp_path / "out").out
    for module, (one, two) in zip(UPS, weights, strict=True):
        expected = 2 * one * product(some[0], module) + 2 * two * product(some[1], module)  # alpha is twice the rank
        torch.testing.assert_close(product(out, module), expected, rtol=1e-4, atol=1e-5)


def test_what_is_ranked_for_an_adapter_is_ranked_among_what_adapters_change(tmp_path: Path) -> None:
    base, some = ground(tmp_path), adapters(tmp_path, 1)
    selection = select(base, some)
    values = {"density": 0.5, "lambda": 1.0}
    recipe = Recipe("ties", base, tuple(some), values=values, result="adapter", rank=4)

    figure, caption, _ = draw(selection, recipe, quick=False)
    model, _, _ = draw(selection, Recipe("ties", base, tuple(some), values=values), quick=False)

    assert figure is not None
    assert model is not None
    assert "before any cut to rank 4" in caption
    out = merge(recipe, tmp_path / "out").out
    shown = [row[0] for row in figure.data[0].z if row[0] is not None]
    for module, share in zip(UPS, shown, strict=True):
        kept, whole = (product(folder, module).abs().sum() for folder in (out, some[0]))
        assert share == pytest.approx(float(kept / (2 * whole)), rel=1e-4)
    assert shown != [row[0] for row in model.data[0].z if row[0] is not None]


@pytest.mark.parametrize(("method", "values"), [("knots", {}), ("peft", {"combination_type": "linear"})])
def test_adapters_that_are_mixed_have_no_numbers_but_a_sentence(
    tmp_path: Path, method: str, values: dict[str, Any]
) -> None:
    base, some = ground(tmp_path), adapters(tmp_path)
    recipe = Recipe(method, base, tuple(some), values=values, result="adapter")

    figure, words, exact = draw(select(base, some), recipe, quick=True)

    assert figure is None
    assert exact
    assert "mixes the adapters of each matrix" in words
    assert 'role="status"' in words


def test_what_was_trained_in_full_has_numbers_beside_holes_that_say_why(tmp_path: Path) -> None:
    base, some = ground(tmp_path), adapters(tmp_path)
    trained_in_full(some[0], "model.norm.weight")
    recipe = Recipe("knots", base, tuple(some), (1.0, 3.0), {"lambda": 0.25}, result="adapter")

    figure, caption, _ = draw(select(base, some), recipe, quick=True)

    assert figure is not None
    assert "in which it mixes the adapters" in caption
    shown = cells(figure)
    assert [text for _, text in shown[CHANGED[0]]] == [MIXED, MIXED]
    assert shown["model.norm.weight"][0][0] == pytest.approx(0.25)
    out = load_file(merge(recipe, tmp_path / "out").out / "adapter_model.safetensors")
    expected = random_tensors(0)["model.norm.weight"] + 0.25
    torch.testing.assert_close(out["base_model.model.model.norm.weight"], expected)


@pytest.mark.parametrize("combination", ["cat", "svd"])
def test_combinations_that_add_up_show_their_weights(tmp_path: Path, combination: str) -> None:
    base, some = ground(tmp_path), adapters(tmp_path)
    values = {"combination_type": combination}
    recipe = Recipe("peft", base, tuple(some), (0.5, 2.0), values, result="adapter")

    figure, _, _ = draw(select(base, some), recipe, quick=True)

    assert figure is not None
    assert [list(row) for row in figure.data[0].z if row[0] is not None] == [[0.5, 2.0]] * 2


def test_knots_by_plain_addition_shows_its_weights(tmp_path: Path) -> None:
    base, some = ground(tmp_path), adapters(tmp_path)
    values = {"merger": "task_arithmetic", "lambda": 0.5}
    recipe = Recipe("knots", base, tuple(some), (0.5, 2.0), values, result="adapter")

    figure, _, _ = draw(select(base, some), recipe, quick=True)

    assert figure is not None
    assert [list(row) for row in figure.data[0].z if row[0] is not None] == [[0.25, 1.0]] * 2


def test_an_adapter_that_cannot_be_made_is_not_drawn(family: Family) -> None:
    base, experts = family()

    drawn = draw(select(base, experts), Recipe("knots", base, tuple(experts)), quick=True)

    assert drawn == (None, "", True)  # the panel of the result says why


def test_a_method_with_data_says_when_it_weighs_and_sounds_no_alarm(family: Family) -> None:
    base, experts = family()

    figure, words, _ = draw(select(base, experts), Recipe("fisher", base, tuple(experts)), quick=True)

    assert figure is None
    assert "statistics of the experts, which are read when it merges" in words
    assert 'role="status"' in words


def test_the_estimate_tells_the_rank(tmp_path: Path) -> None:
    base, some = ground(tmp_path), adapters(tmp_path)

    words = estimate(Recipe("task_arithmetic", base, tuple(some), result="adapter"), str(tmp_path / "out"))

    assert "The adapter is of rank 4." in words


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_finished_adapter_says_how_peft_loads_it_and_that_is_so(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base, some = written(tmp_path, {}, {"r": 3})
    recipe, out = Recipe("task_arithmetic", base, some, result="adapter"), tmp_path / "it's <mine>"

    said, report = list(run_merge(recipe, str(out), "someone"))[-1]

    assert report
    assert report.out == out
    assert "Merged into one LoRA adapter." in said
    assert "It is of rank 7, which leaves nothing out," in said
    assert "config.json" not in said
    code = html.unescape(re.findall("<pre>(model = .*?)</pre>", said, re.DOTALL)[0])
    known: dict[str, Any] = {"AutoModelForCausalLM": AutoModelForCausalLM, "PeftModel": peft.PeftModel}
    exec(code, known)
    found, expected = known["model"].merge_and_unload().state_dict(), loaded(base, out)
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: t.dtype for n, t in expected.items()}
    sampled = open_expert(out, open_base(base))  # as step 4 reads it
    for name in sampled.entries:
        torch.testing.assert_close(sampled.tensor(name), found[name], rtol=1e-4, atol=1e-5)


def test_a_finished_adapter_says_what_its_rank_leaves_out(tmp_path: Path) -> None:
    base, some = ground(tmp_path), adapters(tmp_path)
    recipe = Recipe("task_arithmetic", base, tuple(some), result="adapter", rank=1)

    said = list(run_merge(recipe, str(tmp_path / "out"), "someone"))[-1][0]

    assert "It is of rank 1, and goes onto the base" in said
    assert re.search(r"<li>The rank leaves out \d+\.\d\d% of the squared norm of all updates", said)
