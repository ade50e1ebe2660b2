"""Everything that is wrong with a merge is told at once, before a weight is read."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from merging import preflight, publish
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.companions import bytes_beside
from merging.engine import merge
from merging.method import METHODS
from merging.preflight import check
from merging.recipe import Recipe
from tests.conftest import Family, random_tensors, write_model


def test_a_merge_that_can_start_has_no_problems(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    recipe = Recipe("ties", base, tuple(experts))

    found = check(recipe, tmp_path / "out", workers=2)

    assert found.problems == ()
    assert found.plan
    assert found.fates == merge(recipe, tmp_path / "out").fates
    assert found.bytes_out == sum(4 * tensor.numel() for tensor in random_tensors(0).values())
    assert found.bytes_in == 3 * found.bytes_out
    assert found.memory > 0
    assert found.seconds > 0


def test_all_problems_are_told_at_once(family: Family, tmp_path: Path) -> None:
    base, experts = family(1)
    wide = write_model(tmp_path / "wide", random_tensors(3) | {"model.norm.weight": torch.ones(5)})
    broken = write_model(tmp_path / "broken", random_tensors(4))
    (broken / "model.safetensors").write_bytes(b"cut")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("x")
    recipe = Recipe("ties", base, (*experts, wide, broken, tmp_path / "nowhere"), values={"density": 7})

    found = check(recipe, taken)

    assert [problem.split(".")[0] for problem in found.problems] == [
        "`density` must be between 0",
        str(broken / "model"),
        f"There is no file or folder `{tmp_path / 'nowhere'}`",
        "wide: `model",
        f"{taken} is there already, and nothing is ever overwritten",
    ]
    assert found.plan is None


def test_experts_are_looked_at_even_without_their_base(family: Family, tmp_path: Path) -> None:
    _, experts = family(1)
    recipe = Recipe("linear", tmp_path / "gone", (experts[0], tmp_path / "lost"))

    found = check(recipe)

    assert found.problems == tuple(
        f"There is no file or folder `{tmp_path / name}`. Check the path." for name in ("gone", "lost")
    )


def test_looking_reads_no_weight(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    base, experts = family(2)

    def never(*_: Any) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Checkpoint, "read", never)

    assert check(Recipe("pcb", base, tuple(experts))).problems == ()


def test_a_full_disk_is_a_problem(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, experts = family(1)
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(publish.shutil, "disk_usage", lambda _: usage)

    found = check(Recipe("linear", base, tuple(experts)), tmp_path / "out")

    assert found.problems == (
        f"{tmp_path} has 100 bytes free and the merge needs 462 bytes. Make room or choose another folder.",
    )


def test_too_little_memory_is_a_problem(family: Family) -> None:
    base, experts = family(1)
    recipe = Recipe("linear", base, tuple(experts))

    found = check(recipe, memory=1_000_000)

    assert found.problems == ("This merge needs 26 MB of memory to work in, and may use 1 MB. Allow it more.",)


def test_there_are_as_many_workers_as_the_memory_allows(family: Family) -> None:
    base, experts = family(1)
    recipe = Recipe("linear", base, tuple(experts))

    few, many = check(recipe, memory=80_000_000, workers=64), check(recipe, workers=64)

    assert few.problems == many.problems == ()
    assert few.memory - preflight.PROGRAM <= 80_000_000 < many.memory - preflight.PROGRAM <= preflight.MEMORY
    assert few.seconds > many.seconds


def test_a_larger_dtype_of_the_result_needs_more_room(family: Family) -> None:
    base, experts = family(1, torch.bfloat16)

    found = [check(Recipe("linear", base, tuple(experts), out_dtype=dtype)) for dtype in ("", "float32")]

    assert 2 * found[0].bytes_out == found[1].bytes_out


def test_a_first_expert_stands_in_for_a_base_where_none_is_needed(family: Family) -> None:
    _, experts = family(2)

    found = check(Recipe("linear", None, tuple(experts)))

    assert found.problems == ()
    assert found.plan
    assert found.plan.base.path == experts[0]


def test_a_tensor_that_too_few_experts_have_is_named(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family(2)
    some = {name: tensor for name, tensor in random_tensors(3).items() if name != "model.norm.weight"}
    write_model(experts[1], some)
    monkeypatch.setitem(METHODS, "ties", replace(METHODS["ties"], experts=(2, 2)))

    found = check(Recipe("ties", base, tuple(experts)))

    assert found.problems == (
        "`model.norm.weight`: TIES-Merging takes 2 experts, not 1, and no more have this tensor. "
        "Choose another method.",
    )


def test_filters_are_tried_on_the_names_there_are(family: Family) -> None:
    base, experts = family(1)
    filters = [{"filter": "mlp", "value": 1.0}]
    recipe = Recipe("linear", base, tuple(experts), weights=(filters,))
    slip = Recipe("linear", base, tuple(experts), weights=([*filters, {"filter": "mpl", "value": 0.5}, {"value": 1}],))

    assert "has no value for `model.embed_tokens.weight`" in check(recipe).problems[0]
    assert check(slip).problems == ()
    assert "No tensor's name contains `mpl`" in check(slip).warnings[0]


def test_what_was_odd_about_the_recipe_and_the_files_is_told(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", random_tensors(0))
    wrapped = {f"module.{name}": tensor for name, tensor in random_tensors(1).items()}
    expert = write_model(tmp_path / "math", wrapped)

    found = check(Recipe("linear", base, (expert,), warnings=("odd",)))

    assert found.warnings[0] == "odd"
    assert found.warnings[1].startswith("math: `module.model.embed_tokens.weight` is read as the base's")


@pytest.mark.parametrize("method", ["linear", "karcher"])
def test_a_base_may_be_an_expert_where_it_does_not_enter_itself(method: str, family: Family) -> None:
    base, experts = family(1)

    assert check(Recipe(method, base, (base, *experts))).warnings == ()


def test_what_a_plan_warns_of_is_told(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", random_tensors(0), {"vocab_size": 9})

    found = check(Recipe("task_arithmetic", base, (base,)))

    assert found.problems == ()
    assert len(found.warnings) == 2
    assert found.warnings[0] == "base is the base model and an expert, too: as an expert it changes nothing."
    assert found.warnings[1].startswith("base: Its config says 9 rows of tokens and its embedding has 8.")


def test_a_recipe_without_experts_is_a_problem(family: Family) -> None:
    base, _ = family(1)

    found = check(Recipe("linear", base, ()))

    assert found.problems == ("No expert is chosen. Choose at least one.",)
    assert found.plan is None


def test_an_expert_that_is_there_twice_is_told(family: Family) -> None:
    base, (expert,) = family(1)

    found = check(Recipe("linear", base, (expert, expert.parent / "." / expert.name)))

    assert found.warnings == ("expert-1 is an expert more than once.",)


@pytest.mark.parametrize("inside", ["base/merged", "expert-2/deep/er"])
def test_nothing_is_written_into_a_model(inside: str, family: Family, tmp_path: Path) -> None:
    base, experts = family(2)

    [problem] = check(Recipe("linear", base, tuple(experts)), tmp_path / inside).problems

    model = tmp_path / inside.split("/")[0]
    assert problem == f"{tmp_path / inside} lies in {model}, which is one of the models. Choose a folder outside."


def test_models_of_one_name_are_told_apart(family: Family, tmp_path: Path) -> None:
    base, (expert,) = family(1)
    tensors = random_tensors(7)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.ones(3, 3)
    twins = [write_model(tmp_path / side / "deep" / "checkpoint-500", tensors) for side in ("a", "b")]

    problems = check(Recipe("ties", base, (twins[0], expert, twins[1]))).problems

    assert [problem.partition(": ")[0] for problem in problems] == ["a/deep/checkpoint-500", "b/deep/checkpoint-500"]


def test_what_stands_beside_the_weights_takes_room_as_well(family: Family, tmp_path: Path) -> None:
    base, experts = family(1)
    (base / "tokenizer.json").write_text(" " * 1000)
    recipe = Recipe("linear", base, tuple(experts))
    weights = check(recipe).bytes_out

    assert bytes_beside(check(recipe).plan) >= 1000 + (base / "config.json").stat().st_size
    assert merge(recipe, tmp_path / "out").bytes == weights


def test_a_linear_merge_does_not_read_the_base(family: Family) -> None:
    base, experts = family(2)
    size = open_checkpoint(base).bytes

    assert check(Recipe("linear", base, tuple(experts))).bytes_in == 2 * size
    assert check(Recipe("ties", base, tuple(experts))).bytes_in == 3 * size


def test_what_cannot_be_has_no_estimate(family: Family) -> None:
    base, experts = family(1)

    found = check(Recipe("ties", base, tuple(experts), values={"density": 7}))

    assert found.problems
    assert (found.memory, found.seconds) == (0, 0)
