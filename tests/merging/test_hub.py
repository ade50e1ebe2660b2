"""Models of the Hub: named, looked at, fetched and merged by the real client, against a stand-in on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors.torch import load_file

from merging import Recipe, merge
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.hub.cached import downloaded
from merging.hub.fetch import left_of
from merging.hub.models import asked, fetched, looked_at
from merging.hub.names import HubName
from merging.hub.preview import preview
from merging.loading import load
from tests.conftest import random_tensors, write_model
from tests.hub import TOKEN, Hub, asking, environment, standing_in

LAMBDA = {"parameters": {"lambda": 1}}
ROOT = Path(__file__).parents[2]


@dataclass
class Asker:
    """Someone who uses the command line, with a cache of their own."""

    hub: Hub
    folder: Path
    token: str = ""
    offline: bool = False

    def run(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        told = environment(self.hub, self.folder / "hf", self.token)
        told |= {"MERGESCOPE_CACHE": str(self.folder / "cache"), "PYTHONPATH": str(ROOT)}
        told |= {"HF_HUB_OFFLINE": "1"} if self.offline else {}
        program = [sys.executable, "-m", "merging", *command]
        return subprocess.run(program, cwd=self.folder, env=told, input=text, capture_output=True, text=True)

    def check(self, recipe: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("check", "-", "--json", text=yaml.safe_dump(recipe)).stdout)
        return found

    def merge(self, recipe: dict[str, Any], out: str = "out") -> subprocess.CompletedProcess[str]:
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return self.run("merge", "recipe.yaml", out, "--no-fsync")


@pytest.fixture
def asker(tmp_path: Path) -> Iterator[Asker]:
    """The Hub has a base, an expert in two shards, and one with pickles alone."""
    root = tmp_path / "root"
    write_model(root / "owner" / "base", random_tensors(0))
    write_model(root / "owner" / "expert", random_tensors(1), shards=2)
    (root / "owner" / "expert" / "flax_model.msgpack").write_bytes(b"x" * 5000)
    (root / "owner" / "expert" / "pytorch_model.bin").write_bytes(b"x" * 5000)
    (root / "owner" / "pickled").mkdir()
    (root / "owner" / "pickled" / "pytorch_model.bin").write_bytes(b"x" * 5000)
    (tmp_path / "home").mkdir()
    with standing_in(root) as hub:
        yield Asker(hub, tmp_path / "home")


def recipe_of(*experts: str) -> dict[str, Any]:
    models = [{"model": expert} for expert in experts or ("owner/expert",)]
    return {"mergescope": 1, "merge_method": "task_arithmetic", "base_model": "owner/base", "models": models, **LAMBDA}


def test_models_are_looked_at_without_reading_a_weight(asker: Asker) -> None:
    found = asker.check(recipe_of())

    names = ("owner/base", "owner/expert")
    weights = [file for name in names for file in (asker.hub.folder / name).glob("*.safetensors")]
    beside = [
        asker.hub.folder / name / file
        for name in names
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json")
    ]
    assert found["ok"]
    assert found["bytes_to_download"] == sum(file.stat().st_size for file in weights)  # what stands beside is here
    assert found["bytes_in"] > 0
    asked = {one.path.rpartition("/")[2]: one.bytes for one in asker.hub.sent()}
    assert {name for name in asked if not name.endswith(".safetensors")} == {file.name for file in beside}
    assert all(asked[file.name].startswith("bytes=0-") for file in weights)


def test_what_is_fetched_is_merged_and_the_recipe_says_at_which_commit(asker: Asker) -> None:
    asker.hub.tags.add("v1.0")
    done = asker.merge(recipe_of("owner/expert@v1.0"))

    assert done.returncode == 0, done.stderr
    base, expert, merged = random_tensors(0), random_tensors(1), load_file(asker.folder / "out" / "model.safetensors")
    for name, values in merged.items():
        torch.testing.assert_close(values, base[name] + (expert[name] - base[name]), rtol=1e-5, atol=1e-6)
    written = yaml.safe_load((asker.folder / "out" / "mergescope.yaml").read_text())
    commits = {name: f"{name}@{asker.hub.commit(name)}" for name in ("owner/base", "owner/expert")}
    assert written["base_model"] == commits["owner/base"]
    assert commits["owner/expert"] in json.dumps(written)
    assert not any(one.path.endswith((".msgpack", ".bin")) for one in asker.hub.sent())

    asker.hub.asked.clear()
    asker.offline = True
    again = asker.run("merge", "out", "again", "--no-fsync")
    assert again.returncode == 0, again.stderr
    first, second = (asker.folder / out / "model.safetensors" for out in ("out", "again"))
    assert first.read_bytes() == second.read_bytes()
    assert not asker.hub.asked


def test_weights_that_are_not_here_are_told_of_where_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "known"))
    write_model(tmp_path / "root" / "owner" / "base", random_tensors(0))
    words = "^Only the headers of `owner/base` are here, and its weights are on the Hub. Download it first.$"

    with standing_in(tmp_path / "root") as hub, asking(hub, tmp_path / "cache"):
        model = open_checkpoint(preview(HubName("owner/base")))

    for reads in (lambda: model.tensor(next(iter(model.entries))), lambda: load(model, model, 0)):
        with pytest.raises(MergeError, match=words):
            reads()


def test_a_download_that_breaks_off_goes_on(asker: Asker) -> None:
    write_model(asker.hub.folder / "owner" / "base", {"w": torch.randn(1500, 2000)})
    shutil.rmtree(asker.hub.folder / "owner" / "expert")
    write_model(asker.hub.folder / "owner" / "expert", {"w": torch.randn(1500, 2000)})
    asker.hub.breaks["model.safetensors"] = 11_000_000

    done = asker.merge(recipe_of())

    assert done.returncode == 0, done.stderr
    starts = [int(one.bytes[6:].split("-")[0]) for one in asker.hub.sent() if one.bytes.startswith("bytes=")]
    assert any(start > 0 for start in starts)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/none", "There is no model `owner/none` on the Hub, or it is private. Check the name; for a private"),
        (
            "owner/none.git",
            "There is no file or folder `owner/none.git`. Check the path; a model of the Hub is written",
        ),
        ("owner/base@v9", "`owner/base` has no revision `v9` on the Hub. Check it, or leave it out."),
        ("owner/gated", "is gated: whoever downloads it has to agree to its terms first. Do so on https://hugg"),
        ("owner/secret", "There is no model `owner/secret` on the Hub, or it is private."),
        ("owner/pickled", "has its weights as PyTorch files only, which are not fetched from the Hub."),
    ],
)
def test_what_the_hub_does_not_give_is_told_in_a_sentence(name: str, message: str, asker: Asker) -> None:
    for closed in ("gated", "secret"):
        write_model(asker.hub.folder / "owner" / closed, random_tensors(1))
    asker.hub.gated.add("owner/gated")
    asker.hub.private.add("owner/secret")

    found = asker.check(recipe_of(name))
    done = asker.merge(recipe_of(name))

    assert not found["ok"]
    assert len(found["problems"]) == 1
    assert message in found["problems"][0]
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (asker.folder / "out").exists()


@pytest.mark.parametrize("format", [{}, {"mergescope": 1}])
@pytest.mark.parametrize("wrong", [{}, {"density": 4}])
def test_each_of_several_bad_names_is_told_by_itself(
    format: dict[str, int], wrong: dict[str, int], asker: Asker
) -> None:
    names = ("owner/none", "owner/pickled", "owner/base@v9", "owner/expert")
    models = [{"model": name, "parameters": {"weight": 1}} for name in names]
    recipe = {"merge_method": "ties", "base_model": "owner/base@v3", "models": models, "parameters": wrong, **format}

    problems = asker.check(recipe)["problems"]

    words = [
        *(["`density` must be between 0.01 and 1"] if wrong else []),
        "`owner/base` has no revision `v3` on the Hub",
        "There is no model `owner/none` on the Hub",
        "has its weights as PyTorch files only",
        "`owner/base` has no revision `v9` on the Hub",
    ]
    assert len(problems) == len(words)
    assert all(told in problem for told, problem in zip(words, problems, strict=True))


def test_a_model_is_inspected_by_its_name_and_a_bad_name_is_told_as_the_hub_tells_it(asker: Asker) -> None:
    shown = asker.run("inspect", "https://huggingface.co/owner/base/tree/main")
    assert "84 parameters in 4 tensors" in shown.stdout, shown.stderr

    for command in (["inspect", "owner/none"], ["extract", "owner/base", "owner/none", "out", "--rank", "1"]):
        told = asker.run(*command)
        assert told.returncode == 1
        assert told.stderr.startswith("There is no model `owner/none` on the Hub, or it is private.")
    left = asker.run("extract", "owner/base", "owner/expert", "out", "--rank", "1")
    assert "and its weights are on the Hub. Download it first." in left.stderr
    assert not [*asker.folder.glob("*out*")]


def test_who_has_signed_in_gets_what_they_may_read(asker: Asker) -> None:
    for closed in ("gated", "secret"):
        write_model(asker.hub.folder / "owner" / closed, random_tensors(1))
    asker.hub.gated.add("owner/gated")
    asker.hub.private.add("owner/secret")
    asker.token = TOKEN

    done = asker.merge(recipe_of("owner/gated", "owner/secret"))

    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_the_hub_is_not_asked_while_that_is_forbidden(asker: Asker) -> None:
    asker.offline = True

    found = asker.check(recipe_of())

    assert "`owner/base` is not on this machine, and the Hub is not asked while HF_HUB_OFFLINE is set" in str(found)
    assert not asker.hub.asked


def test_what_was_looked_at_is_checked_without_a_connection_and_only_a_merge_of_it_is_refused(asker: Asker) -> None:
    first = asker.check(recipe_of())
    asker.offline = True

    assert first["ok"]
    again = asker.check(recipe_of())
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    for stream in ([], ["--stream"]):
        told = asker.run("merge", "-", "out", *stream, text=yaml.safe_dump(recipe_of())).stderr
        for name in ("owner/base", "owner/expert"):
            assert f"`{name}` is not on this machine, and the Hub is not asked while HF_HUB_OFFLINE is set" in told
    assert not [*asker.folder.glob("*out*")]


def test_what_the_hub_says_against_a_model_counts_more_than_what_was_read_of_it_before(hub: Hub) -> None:
    looked_at(PAIR)
    hub.private.add("owner/base")

    assert "There is no model `owner/base` on the Hub" in asked([PAIR.base])["owner/base"]
    with pytest.raises(MergeError, match="There is no model `owner/base` on the Hub"):
        looked_at(PAIR)


def test_what_does_not_fit_is_told_before_anything_is_downloaded(asker: Asker) -> None:
    other = {name: values[..., :3].contiguous() for name, values in random_tensors(1).items()}
    write_model(asker.hub.folder / "owner" / "other", other)

    done = asker.merge(recipe_of("owner/other"))

    assert done.returncode == 1
    assert "is 8 × 3 in it and 8 × 4 in the base model" in done.stderr
    assert not any(one.path.endswith(".safetensors") and not one.bytes for one in asker.hub.sent())


@pytest.fixture
def hub(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub, asked from here, with a cache of the test's own."""
    monkeypatch.setenv("MERGESCOPE_CACHE", str(asker.folder / "known"))
    with asking(asker.hub, asker.folder / "hub"):
        yield asker.hub


PAIR = Recipe("linear", Path("owner/base"), (Path("owner/expert"),))


def test_what_another_program_fetched_of_a_model_is_completed(hub: Hub, tmp_path: Path) -> None:
    hf_hub_download("owner/base", "model.safetensors")
    assert set(looked_at(PAIR)) == {Path("owner/base"), Path("owner/expert")}
    hub.asked.clear()

    merge(fetched(PAIR), tmp_path / "out", fsync=False)

    assert {"config.json", "tokenizer.json"} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert not any(one.path.startswith("/owner/base/resolve") for one in hub.sent())


def test_what_another_program_downloaded_is_merged_without_asking(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("owner/base", "owner/expert"):
        snapshot_download(name)
    hub.asked.clear()

    assert looked_at(PAIR) == {}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    merge(fetched(PAIR), tmp_path / "out", fsync=False)

    assert not hub.asked


def test_what_a_preview_knows_of_and_is_not_here_is_still_to_be_downloaded(hub: Hub) -> None:
    folder = preview(HubName("owner/base"))
    snapshot = Path(hf_hub_download("owner/base", "model.safetensors")).parent
    assert downloaded("owner/base") == snapshot
    assert left_of("owner/base") is None

    (snapshot / "tokenizer_config.json").unlink()

    assert downloaded("owner/base") is None
    left = left_of("owner/base")
    assert left
    assert left.files == {"tokenizer_config.json": (folder / "tokenizer_config.json").stat().st_size}
    fetched(PAIR)
    assert downloaded("owner/base") == snapshot
