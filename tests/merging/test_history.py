"""The merges of a visit: what is remembered of each, how two differ, and what deleting one may touch."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import apart, history
from merging.apart import weights_apart
from merging.engine import merge
from merging.errors import MergeError, MergeStopped
from merging.history import Change, History, differences
from merging.recipe import Recipe
from merging.removal import remove_merge
from merging.report import Report
from tests.conftest import Family, random_tensors, write_model

ZOO = Path(__file__).parents[2] / "zoo"
NOON = datetime(2026, 5, 1, 12)


@pytest.fixture
def recipe(family: Family) -> Recipe:
    base, experts = family()
    return Recipe("ties", base, tuple(experts), weights=(1.0, 0.5), values={"density": 0.3})


@pytest.fixture
def report(recipe: Recipe, tmp_path: Path) -> Report:
    return merge(recipe, tmp_path / "merges" / "out")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


# What is remembered.


def test_a_merge_is_remembered_with_what_it_was_made_of_and_came_to(recipe: Recipe, report: Report) -> None:
    (past,) = History().added(recipe, report, NOON).merges

    assert (past.number, past.when, past.method, past.experts) == (1, NOON, "TIES-Merging", ("expert-1", "expert-2"))
    assert (past.recipe, past.report, past.there) == (recipe, report, True)
    assert past.report.seconds > 0


def test_a_note_is_kept_with_its_merge_until_there_is_another(recipe: Recipe, report: Report) -> None:
    plain = History().added(recipe, report).added(recipe, report)

    noted = plain.noted(1, "  better on python\n").noted(2, "x" * 5000)

    assert [past.note for past in plain.merges] == ["", ""]
    assert [past.note for past in noted.merges] == ["better on python", "x" * history.LONGEST]
    assert noted.noted(1, " ").of(1).note == ""
    assert noted.count == 2
    with pytest.raises(MergeError, match="Merge 3 is not in the history"):
        plain.noted(3, "x")


def test_a_history_is_never_changed_and_numbers_are_never_used_twice(recipe: Recipe, report: Report) -> None:
    empty = History()
    two = empty.added(recipe, report).added(recipe, report)

    again = two.without(2).added(recipe, report)

    assert empty.merges == ()
    assert [past.number for past in two.merges] == [1, 2]
    assert [past.number for past in again.merges] == [1, 3]
    with pytest.raises(MergeError, match="Merge 2 is not in the history"):
        again.of(2)


def test_the_oldest_is_forgotten_first(recipe: Recipe, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 3)
    told = History()

    for _ in range(5):
        told = told.added(recipe, report)

    assert [past.number for past in told.merges] == [3, 4, 5]
    assert report.out.is_dir()


def test_the_recipe_of_a_merge_gives_the_same_bytes_again(recipe: Recipe, report: Report, tmp_path: Path) -> None:
    told = History().added(recipe, report)

    again = merge(told.of(1).recipe, tmp_path / "again")

    assert again.checksums == report.checksums


# How recipes differ.


def test_equal_recipes_do_not_differ_whether_defaults_are_spelled_out_or_not(recipe: Recipe) -> None:
    plain = replace(recipe, values={}, weights=())

    assert differences(plain, replace(plain, values={"lambda": 1.0}, weights=(1.0, 1.0))) == []


def test_every_changed_value_is_told_where_it_stands_in_the_yaml(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gradient = [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.5}]
    other = replace(recipe, weights=(1.0, 0.25), values={"density": 0.3, "lambda": gradient}, out_dtype="bfloat16")

    assert differences(recipe, other) == [
        Change("models.expert-2.weight", "0.5", "0.25"),
        Change("parameters.lambda", "1.0", "[{filter: mlp, value: [0.1, 0.9]}, {value: 0.5}]"),
        Change("out_dtype", "", "bfloat16"),
    ]


def test_another_method_and_other_experts_are_told_with_what_only_one_of_them_has(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = Recipe("from", recipe.base, recipe.experts[:1])

    told = {change.key: (change.first, change.second) for change in differences(recipe, other)}

    assert told["merge_method"] == ("ties", "from")
    assert told["models"] == ("expert-1, expert-2", "expert-1")
    assert told["parameters.density"] == ("0.3", "")
    assert told["parameters.k"][0] == ""
    assert told["models.expert-2.weight"] == ("0.5", "")


# How weights differ.


def test_weights_are_apart_by_the_norms_of_their_tensors(
    recipe: Recipe, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "TILE", 5)
    other = replace(recipe, values={"density": 0.9})
    told = History().added(recipe, report).added(other, merge(other, tmp_path / "other"))

    found = weights_apart(*told.merges, workers=2)

    first, second = (load_file(past.report.out / "model.safetensors") for past in told.merges)
    assert [distance.name for distance in found.tensors] == [*random_tensors(0)]
    for distance in found.tensors:
        a, b = first[distance.name].double(), second[distance.name].double()
        norms = (distance.first, distance.second, distance.apart, distance.relative)
        expected = (float(a.norm()), float(b.norm()), float((a - b).norm()), float((a - b).norm() / a.norm()))
        assert norms == pytest.approx(expected, rel=1e-12)
        assert distance.apart > 0
    a, b = (torch.cat([tensors[name].double().flatten() for name in first]) for tensors in (first, second))
    assert found.whole.relative == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-12)
    assert found.others == {}


def test_a_merge_is_not_apart_from_itself(recipe: Recipe, report: Report) -> None:
    (past,) = History().added(recipe, report).merges

    assert {distance.relative for distance in weights_apart(past, past).tensors} == {0.0}


def test_zeros_nan_and_tensors_of_one_alone_are_told(recipe: Recipe, report: Report, tmp_path: Path) -> None:
    tensors = load_file(report.out / "model.safetensors")
    up, norm = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
    a = write_model(tmp_path / "a", {**tensors, norm: torch.zeros(4), "a.own": torch.ones(1), up: torch.ones(2, 3)})
    b = write_model(tmp_path / "b", {**tensors, "model.embed_tokens.weight": torch.full((8, 4), torch.nan)})
    told = History()
    for out in (a, b):
        told = told.added(recipe, replace(report, out=out))

    found = weights_apart(*told.merges)

    relative = {distance.name: distance.relative for distance in found.tensors}
    assert relative[norm] == math.inf
    assert math.isnan(relative["model.embed_tokens.weight"])
    assert found.others == {"a.own": "only merge 1 has it", up: "its shape is 2 × 3 in merge 1 and 6 × 4 in 2"}


def test_adapters_are_apart_by_what_they_make_of_their_base(tmp_path: Path) -> None:
    adapters = (ZOO / "bible-lora", ZOO / "python-lora")
    told = History()
    for result in ("adapter", "model"):
        recipe = Recipe("task_arithmetic", ZOO / "base", adapters, result=result)
        told = told.added(recipe, merge(recipe, tmp_path / result))

    found = weights_apart(*told.merges)

    assert found.others == {}
    assert 0 < found.whole.relative < 1e-2  # the merged model is rounded to the base's dtype


def test_comparing_tells_how_far_it_is_and_can_be_stopped(recipe: Recipe, report: Report) -> None:
    (past,) = History().added(recipe, report).merges
    steps = []
    weights_apart(past, past, steps.append)
    stop = threading.Event()
    stop.set()

    assert [step.done for step in steps] == [1, 2, 3, 4]
    assert steps[-1].bytes_done == steps[-1].bytes_total
    with pytest.raises(MergeStopped):
        weights_apart(past, past, stop=stop)


def test_a_result_that_is_gone_is_named(recipe: Recipe, report: Report) -> None:
    (past,) = History().added(recipe, report).merges
    shutil.rmtree(report.out)

    assert not past.there
    with pytest.raises(MergeError, match=r"merge 1 is not at .*out any more\. Repeat"):
        weights_apart(past, past)


# What deleting may touch.


def test_an_entry_goes_and_its_folder_stays_unless_it_is_asked_for(recipe: Recipe, report: Report) -> None:
    told = History().added(recipe, report).added(recipe, report)

    one = told.without(1)

    assert report.out.is_dir()
    assert one.without(2, folder=True).merges == ()
    assert not report.out.exists()
    assert report.out.parent.is_dir()
    assert recipe.experts[0].is_dir()


def test_an_entry_whose_folder_is_gone_goes_too(recipe: Recipe, report: Report) -> None:
    shutil.rmtree(report.out)

    assert History().added(recipe, report).without(1, folder=True).merges == ()


def test_shards_templates_and_adapters_are_what_a_merge_writes(llamas: tuple[Path, list[Path]], tmp_path: Path) -> None:
    base = shutil.copytree(llamas[0], tmp_path / "base")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("{{ 1 }}")
    adapters = (ZOO / "bible-lora", ZOO / "python-lora")
    sharded = merge(Recipe("linear", base, tuple(llamas[1])), tmp_path / "sharded", shard_size=2000)
    adapter = merge(Recipe("task_arithmetic", ZOO / "base", adapters, result="adapter"), tmp_path / "adapter")
    assert (sharded.out / "additional_chat_templates" / "tools.jinja").is_file()
    assert (sharded.out / "model.safetensors.index.json").is_file()

    for report in (sharded, adapter):
        remove_merge(report)
        assert not report.out.exists()


def add_file(out: Path) -> None:
    (out / "notes.txt").write_text("mine")


def add_weights(out: Path) -> None:
    save_file({"mine": torch.ones(1)}, out / "mine.safetensors")


def add_folder(out: Path) -> None:
    (out / "empty").mkdir()


def add_model(out: Path) -> None:
    write_model(out / "inside", random_tensors(3))


def add_link(out: Path) -> None:
    (out / "link").symlink_to(out.parent.parent / "expert-1")


def link_weights(out: Path) -> None:
    (out / "model.safetensors").rename(out.parent / "elsewhere.safetensors")
    (out / "model.safetensors").symlink_to(out.parent / "elsewhere.safetensors")


def link_story(out: Path) -> None:
    (out / "mergescope.json").rename(out.parent / "story.json")
    (out / "mergescope.json").symlink_to(out.parent / "story.json")


def pipe(out: Path) -> None:
    (out / "mergescope.json").unlink()
    os.mkfifo(out / "mergescope.json")


def no_story(out: Path) -> None:
    (out / "mergescope.json").unlink()


def damaged_story(out: Path) -> None:
    (out / "mergescope.json").write_text("[" * 10_000)


def another_merge(out: Path) -> None:
    story = json.loads((out / "mergescope.json").read_text())
    story["checksums"]["model.norm.weight"] = "xxh3:0"
    (out / "mergescope.json").write_text(json.dumps(story))


def story_of_all(out: Path) -> None:
    """A story that claims files outside and a folder of strangers."""
    story = json.loads((out / "mergescope.json").read_text())
    story["files"] |= {"../../expert-1/model.safetensors": "0", "sub/x": "0", "": "0", "..": "0"}
    (out / "mergescope.json").write_text(json.dumps(story))
    (out / "sub").mkdir()
    (out / "sub" / "link").symlink_to(out.parent.parent / "expert-1")


def linked_out(out: Path) -> None:
    out.rename(out.parent / "real")
    out.symlink_to(out.parent / "real")


def linked_parent(out: Path) -> None:
    out.parent.rename(out.parent.parent / "real")
    out.parent.symlink_to(out.parent.parent / "real")


def a_file_now(out: Path) -> None:
    shutil.rmtree(out)
    out.write_text("mine")


def the_expert_now(out: Path) -> None:
    shutil.rmtree(out)
    shutil.copytree(out.parent.parent / "expert-1", out)


HOSTILE = [add_file, add_weights, add_folder, add_model, add_link, link_weights, link_story, pipe, no_story]
HOSTILE += [damaged_story, another_merge, story_of_all, linked_out, linked_parent, a_file_now, the_expert_now]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_a_folder_that_is_not_just_what_the_merge_wrote_stays_as_it_is(
    change: Callable[[Path], None], recipe: Recipe, report: Report, tmp_path: Path
) -> None:
    told = History().added(recipe, report)
    change(report.out)
    before = everything(tmp_path)

    with pytest.raises(MergeError) as caught:
        told.without(1, folder=True)

    assert everything(tmp_path) == before
    assert str(caught.value).startswith(str(report.out.parent))
    assert "\n" not in str(caught.value)
    assert told.without(1).merges == ()


@pytest.mark.parametrize("out", [Path("/"), Path("out"), Path("/tmp/../etc"), Path.home()])
def test_no_other_place_is_ever_deleted(out: Path, report: Report) -> None:
    with pytest.raises(MergeError):
        remove_merge(replace(report, out=out))

    assert report.out.is_dir()


def test_a_deletion_that_was_broken_off_can_be_repeated(
    recipe: Recipe, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, unlink, left = History().added(recipe, report), Path.unlink, [2]

    def failing(path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(5, "Input/output error", str(path))
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing)
        with pytest.raises(MergeError, match=r"could not be deleted \(Input/output error\)"):
            told.without(1, folder=True)
    assert (report.out / "mergescope.json").is_file()

    told.without(1, folder=True)

    assert not report.out.exists()
