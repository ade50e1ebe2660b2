"""The command line: what it prints, where, and with which exit code."""

import io
import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from merging.cli import main
from merging.cli import merge as merge_command
from merging.cli.progress import stoppable
from merging.engine import Step, merge
from merging.recipe import Recipe, load_recipe
from tests.conftest import Family, largest, random_tensors, write_model

ROOT = Path(__file__).parents[2]
COMMANDS = ["merge", "check", "inspect", "extract", "verify", "methods", "collect", "export"]
needs_verify = pytest.mark.skipif(not find_spec("merging.verify"), reason="there is no merging.verify yet")
needs_preflight = pytest.mark.skipif(not find_spec("merging.preflight"), reason="there is no merging.preflight yet")
Out = pytest.CaptureFixture[str]


def needs(*arguments: str) -> pytest.MarkDecorator:
    missing = sorted(set(arguments) - set(signature(merge).parameters))
    return pytest.mark.skipif(bool(missing), reason=f"merge() does not take {', '.join(missing)} yet")


@pytest.fixture
def recipe(family: Family, tmp_path: Path) -> Path:
    """A recipe of two small experts."""
    family(2)
    models = [{"model": "expert-1"}, {"model": "expert-2"}]
    content = {"mergescope": 1, "merge_method": "ties", "base_model": "base", "models": models}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run([sys.executable, "-m", "merging", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_merging_writes_a_model_and_tells_of_it(recipe: Path, tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "out"

    code = main(["merge", str(recipe), str(out)])

    told, wrong = capsys.readouterr()
    assert (code, wrong) == (0, "")
    assert "Merged expert-1 and expert-2 into base by TIES-Merging." in told
    assert "4 tensors merged" in told
    assert f'AutoModelForCausalLM.from_pretrained("{out.as_posix()}")' in told
    merge(load_recipe(recipe), tmp_path / "again")
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()


def test_a_quiet_merge_says_nothing(recipe: Path, tmp_path: Path, capsys: Out) -> None:
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--quiet"]) == 0

    assert capsys.readouterr() == ("", "")
    assert load_file(tmp_path / "out" / "model.safetensors")


def test_the_report_names_tensors_that_are_not_merged(tmp_path: Path, capsys: Out) -> None:
    tensors = random_tensors(0)
    base = write_model(tmp_path / "base", tensors)
    expert = write_model(tmp_path / "expert", {**tensors, "extra.weight": tensors["model.norm.weight"].clone()})
    file = tmp_path / "recipe.yaml"
    file.write_text(Recipe("linear", base, (expert,)).to_yaml(tmp_path))

    main(["merge", str(file), str(tmp_path / "out")])

    line = next(line for line in capsys.readouterr().out.splitlines() if "extra.weight" in line)
    assert line.startswith("  1 tensor ")


def test_what_cannot_be_merged_is_one_sentence_without_a_traceback(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text().replace("ties", "tie"))

    done = alone("merge", str(recipe), str(tmp_path / "out"))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "There is no method `tie`. Did you mean `ties`?\n"
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path, capsys: Out) -> None:
    assert main(["merge", str(tmp_path / "none.yaml"), str(tmp_path / "out")]) == 1

    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["melt"],
        ["merge", "recipe.yaml"],
        ["merge", "recipe.yaml", "out", "--memory", "lots"],
        ["merge", "recipe.yaml", "out", "--shard-size", "0"],
        ["merge", "recipe.yaml", "out", "--workers", "0"],
        ["merge", "recipe.yaml", "out", "--workers", "two"],
        ["inspect", "model", "--yaml"],
    ],
)
def test_a_wrong_command_exits_with_two_and_says_how_it_is_used(arguments: list[str], capsys: Out) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)

    assert left.value.code == 2
    assert "usage: python -m merging" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)])
def test_help_explains_the_exit_codes(arguments: list[str], capsys: Out) -> None:
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--help"])

    assert left.value.code == 0
    assert "130  stopped by Ctrl-C" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["merge", "--help"], ["methods"], ["methods", "--json"]])
def test_help_and_methods_do_not_wait_for_torch_or_numba(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom merging.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit:\n    pass\n"
        "slow = {'torch', 'numba', 'transformers', 'tqdm'}\n"
        "print({name.split('.')[0] for name in sys.modules} & slow, file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stderr == "set()\n"
    assert done.stdout


def interrupting(seconds: float = 0.05) -> Callable[[bool], object]:
    """A progress bar at which the user presses Ctrl-C as soon as it moves."""

    @contextmanager
    def progress(quiet: bool) -> Iterator[Callable[[Step], None]]:
        def press(step: Step) -> None:
            signal.raise_signal(signal.SIGINT)
            time.sleep(seconds)  # until the main thread has heard of it

        yield press

    return progress


def test_ctrl_c_stops_a_merge_in_good_order(
    recipe: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_command, "progress", interrupting())
    before = signal.getsignal(signal.SIGINT)

    code = main(["merge", str(recipe), str(tmp_path / "out")])

    told, wrong = capsys.readouterr()
    assert (code, told) == (130, "")
    assert wrong == f"Stopped. Nothing was written to {tmp_path / 'out'}.\n"  # no tensor is finished
    assert not (tmp_path / "out").exists()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_merge_that_is_stopped_midway_says_that_it_can_go_on(
    sent: signal.Signals, recipe: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def progress(quiet: bool) -> Iterator[Callable[[Step], None]]:
        def press(step: Step) -> None:
            if step.done == step.total - 1:
                signal.raise_signal(sent)
                time.sleep(0.05)  # until the main thread has heard of it

        yield press

    monkeypatch.setattr(merge_command, "progress", progress)
    command = ["merge", str(recipe), str(tmp_path / "out"), "--workers=1"]

    assert main(command) == 130
    assert capsys.readouterr().err.endswith("out. The same command goes on where this one stopped.\n")
    assert main(["check", *command[1:3]]) == 0
    assert "Kept of a merge to the same place that was broken off: " in capsys.readouterr().out
    monkeypatch.undo()
    assert main(command) == 0
    assert re.search(
        r"^Went on from a run that was stopped, in which \d tensors? w", capsys.readouterr().out, re.MULTILINE
    )


def test_a_recipe_can_come_in(recipe: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)  # where its paths start
    monkeypatch.setattr("sys.stdin", io.StringIO(recipe.read_text()))

    assert main(["check", "-"]) == 0


@pytest.mark.parametrize("command", ["merge a b --jsn", "check a --dry-run", "methods --text", "verify out more"])
def test_what_a_command_does_not_know_is_told_with_its_own_usage(command: str, capsys: Out) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command.split())

    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert told.startswith(f"usage: python -m merging {command.split()[0]} ")
    assert f"unrecognized arguments: {command.split()[-1]}" in told


def test_a_second_ctrl_c_does_not_wait() -> None:
    with stoppable() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_bar_is_drawn_in_a_terminal_only(recipe: Path, tmp_path: Path) -> None:
    watched, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    command = [sys.executable, "-m", "merging", "merge", str(recipe), str(tmp_path / "one")]

    done = subprocess.run(command, cwd=ROOT, stderr=terminal, stdout=subprocess.PIPE, text=True)

    drawn = os.read(watched, 100_000).decode()  # what is read here is gone when the other end is closed first
    os.close(terminal)
    os.close(watched)
    assert done.returncode == 0
    assert "%|" in drawn
    assert "%|" not in done.stdout
    assert alone("merge", str(recipe), str(tmp_path / "two")).stderr == ""


@needs("workers", "memory")
def test_workers_and_memory_do_not_change_the_bytes(recipe: Path, tmp_path: Path) -> None:
    assert main(["merge", str(recipe), str(tmp_path / "one"), "--workers", "1", "--memory", "100MB"]) == 0
    assert main(["merge", str(recipe), str(tmp_path / "two"), "--workers", "3"]) == 0

    assert load_bytes(tmp_path / "one") == load_bytes(tmp_path / "two")


@needs("shard_size")
def test_the_result_is_cut_into_shards_of_the_size_asked_for(recipe: Path, tmp_path: Path) -> None:
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--shard-size", "100"]) == 0

    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 1


@needs("hash_inputs")
def test_the_inputs_are_hashed_on_request(recipe: Path, tmp_path: Path) -> None:
    from hashlib import sha256

    assert main(["merge", str(recipe), str(tmp_path / "out"), "--hash-inputs", "--quiet"]) == 0

    digest = sha256((tmp_path / "expert-1" / "model.safetensors").read_bytes()).hexdigest()
    kept = [file.read_bytes() for file in (tmp_path / "out").iterdir()]
    assert any(digest.encode() in content for content in kept)


@needs("fsync")
def test_waiting_for_the_disk_can_be_left_out(recipe: Path, tmp_path: Path) -> None:
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--no-fsync"]) == 0

    assert load_file(tmp_path / "out" / "model.safetensors")


def load_bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def test_inspecting_tells_what_is_in_a_model(family: Family, capsys: Out) -> None:
    base, _ = family(1)

    assert main(["inspect", str(base)]) == 0

    told = capsys.readouterr().out
    assert "base: LlamaForCausalLM" in told
    assert "84 parameters in 4 tensors, float32, 336 bytes" in told
    assert "model.layers.1.mlp.up_proj.weight  F32   6 × 4" in told


def test_inspecting_as_json_names_every_tensor_and_its_file(family: Family, capsys: Out) -> None:
    base, _ = family(1, shards=3)

    assert main(["inspect", str(base), "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "base"
    assert told["path"] == str(base)
    assert (told["architecture"], told["parameters"], told["bytes"]) == ("LlamaForCausalLM", 84, 336)
    assert (told["dtypes"], told["tied"], told["adapter"], told["notes"]) == (["float32"], False, None, [])
    norm = next(tensor for tensor in told["tensors"] if tensor["name"] == "model.norm.weight")
    assert norm["dtype"] == "F32"
    assert norm["shape"] == [4]
    assert (base / norm["file"]).is_file()


def test_inspecting_an_adapter_tells_its_rank(capsys: Out) -> None:
    assert main(["inspect", str(ROOT / "zoo" / "python-lora")]) == 0

    assert "LoRA, rank" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["inspect"], ["inspect", "base"], ["collect"], ["extract"], ["extract", "base"]])
def test_the_address_of_what_is_no_model_is_a_wrong_command(command: list[str], capsys: Out) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "https://huggingface.co/datasets/some/text"])

    assert caught.value.code == 2
    assert (
        "`https://huggingface.co/datasets/some/text` is a data set, which cannot be merged." in capsys.readouterr().err
    )


def test_what_cannot_be_inspected_is_one_sentence(tmp_path: Path, capsys: Out) -> None:
    assert main(["inspect", str(tmp_path / "none")]) == 1

    told, wrong = capsys.readouterr()
    assert told == ""
    assert wrong == f"There is no file or folder `{tmp_path / 'none'}`. Check the path.\n"


@needs_preflight
def test_checking_tells_what_a_merge_will_do_and_does_nothing(recipe: Path, tmp_path: Path, capsys: Out) -> None:
    code = main(["check", str(recipe), str(tmp_path / "out")])

    told = capsys.readouterr().out
    assert code == 0
    assert "Nothing stands in the way." in told
    assert "4 tensors merged" in told
    assert "writes 336 bytes" in told
    assert not (tmp_path / "out").exists()


@needs_preflight
def test_checking_tells_all_problems_at_once(recipe: Path, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "expert-2" / "model.safetensors").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    code = main(["check", str(recipe), str(tmp_path / "out"), "--json"])

    told = json.loads(capsys.readouterr().out)
    assert code == 1
    assert told["ok"] is False
    assert len(told["problems"]) == 2
    assert any("expert-2" in problem for problem in told["problems"])
    assert any("out" in problem for problem in told["problems"])


@needs_preflight
def test_a_recipe_that_cannot_be_read_is_a_finding(recipe: Path, capsys: Out) -> None:
    recipe.write_text("mergescope: [")

    assert main(["check", str(recipe), "--json"]) == 1

    assert json.loads(capsys.readouterr().out)["problems"]


@pytest.mark.parametrize("command", ["check", "merge"])
def test_models_that_are_not_there_are_told_with_values_that_are_wrong(
    command: str, recipe: Path, tmp_path: Path, capsys: Out
) -> None:
    content = yaml.safe_load(recipe.read_text()) | {"base_model": "bsae", "parameters": {"densty": 1, "lambda": "x"}}
    content["models"][1]["model"] = "expert-3"
    recipe.write_text(yaml.safe_dump(content))

    assert main([command, str(recipe), str(tmp_path / "out")]) == 1

    told = "".join(capsys.readouterr())
    for words in (
        "TIES-Merging has no parameter `densty`. Did you mean `density`?",
        "`lambda` must be a number, but it is 'x'.",
        f"There is no file or folder `{tmp_path / 'bsae'}`. Check the path.",
        f"There is no file or folder `{tmp_path / 'expert-3'}`. Check the path.",
    ):
        assert told.count(words) == 1
    assert "expert-1" not in told
    if command == "check":
        assert told.startswith("4 problems:\n  ")


def test_warnings_stay_when_there_are_problems(recipe: Path, capsys: Out) -> None:
    content = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({"merge_method": "ties", "base_model": "base", "modles": content["models"]}))

    main(["check", str(recipe), "--json"])

    told = json.loads(capsys.readouterr().out)
    assert len(told["problems"]) == 1
    assert told["warnings"][0].endswith("Did you mean `models`?")
    assert "add `mergescope: 1`" in told["warnings"][1]


@needs_preflight
def test_checking_as_json_gives_fates_and_estimates(recipe: Path, capsys: Out) -> None:
    assert main(["check", str(recipe), "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["problems"]) == (True, [])
    assert told["fates"] == dict.fromkeys(random_tensors(0), "merged")
    assert (told["bytes_in"], told["bytes_out"]) == (3 * 336, 336)
    assert told["memory"] > 0
    assert told["seconds"] >= 0


@needs_verify
def test_verifying_a_merge_finds_every_byte_as_it_was_written(recipe: Path, tmp_path: Path, capsys: Out) -> None:
    main(["merge", str(recipe), str(tmp_path / "out"), "--quiet"])

    assert main(["verify", str(tmp_path / "out")]) == 0

    assert "4 tensors, 336 bytes, all as they were written" in capsys.readouterr().out


@needs_verify
def test_verifying_notices_one_changed_bit(recipe: Path, tmp_path: Path, capsys: Out) -> None:
    main(["merge", str(recipe), str(tmp_path / "out"), "--quiet"])
    file = tmp_path / "out" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    assert main(["verify", str(tmp_path / "out")]) == 1

    assert "model." in capsys.readouterr().err


@needs_verify
def test_a_folder_that_was_not_merged_cannot_be_verified(family: Family, capsys: Out) -> None:
    base, _ = family(1)

    assert main(["verify", str(base)]) == 1

    assert capsys.readouterr().err


def test_merging_adapters_into_one_is_told_with_how_to_load_it(tmp_path: Path, capsys: Out) -> None:
    adapters = [f"{{model: {ROOT / 'zoo' / name}}}" for name in ("python-lora", "bible-lora")]
    text = f"mergescope: 1\nmerge_method: from\nresult: adapter\nrank: 2\nmodels: [{', '.join(adapters)}]\n"
    (tmp_path / "recipe.yaml").write_text(text)
    named = [str(tmp_path / "recipe.yaml"), str(tmp_path / "out")]

    assert main(["check", *named]) == 0
    told = capsys.readouterr().out
    assert "The adapter has rank 2.\n" in told
    assert "It reads" in told
    assert main(["check", named[0], "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["ranks"].values()) == {2}
    assert main(["merge", *named]) == 0

    told = capsys.readouterr().out
    assert "Merged python-lora and bible-lora into one adapter by FroM." in told
    assert "Warning: The rank leaves out" in told
    assert f'Load it: peft.PeftModel.from_pretrained(base, "{(tmp_path / "out").as_posix()}")' in told
    assert main(["verify", named[1]]) == 0
    assert main(["inspect", named[1]]) == 0
    assert "LoRA, rank 2" in capsys.readouterr().out


def test_a_recipe_is_exported_as_mergekits(recipe: Path, tmp_path: Path, capsys: Out) -> None:
    recipe.write_text(recipe.read_text().replace("ties", "from"))

    code = main(["export", str(recipe)])

    told, wrong = capsys.readouterr()
    assert (code, wrong) == (0, "")
    (tmp_path / "kit.yaml").write_text(told)
    assert "mergescope" not in told
    for source in ("recipe.yaml", "kit.yaml"):
        assert main(["merge", str(tmp_path / source), str(tmp_path / source[:-5]), "--quiet"]) == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("recipe", "kit"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-6, atol=1e-6)


def test_what_mergekit_lacks_is_not_exported(recipe: Path, capsys: Out) -> None:
    assert main(["export", str(recipe)]) == 1

    told, wrong = capsys.readouterr()
    assert told == ""
    assert wrong == "mergekit's ties is `scope: tensor`, and this recipe says `scope: model`. Change that.\n"


def test_inspecting_experts_tells_how_far_they_went_and_where_they_conflict(family: Family, capsys: Out) -> None:
    base, experts = family(3)
    paths = [str(base), *map(str, experts)]

    assert main(["inspect", *paths]) == 0

    told = capsys.readouterr().out.splitlines()
    assert told[0] == "base and 3 of its experts, 4 tensors"
    assert [line.split()[0] for line in told[2:5]] == ["expert-1", "expert-2", "expert-3"]
    assert [" ".join(line.split()[:3]) for line in told[7:10]] == [
        f"expert-{one} and expert-{other}" for one, other in ((1, 2), (1, 3), (2, 3))
    ]

    assert main(["inspect", *paths, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    start, moved = (load_file(Path(path) / "model.safetensors") for path in paths[:2])
    squares = sum(float((moved[name] - start[name]).double().square().sum()) for name in start)
    assert found["experts"][0]["norm"] == pytest.approx(squares**0.5)
    assert found["pairs"][0]["experts"] == ["expert-1", "expert-2"]
    assert 0 < found["pairs"][0]["conflict"] < 1
    for shared, names in (
        (found["pairs"][0], list(start)),
        *((tensor["pairs"][0], [tensor["name"]]) for tensor in found["tensors"]),
    ):
        one, other = (largest(Path(path), base, 0.2, names) for path in paths[1:3])
        apart = ((one * other) < 0).sum() / ((one * other) != 0).sum()
        trimmed = {name: math.nan if told is None else told for name, told in shared["trimmed"]["0.2"].items()}
        assert trimmed["cosine"] == pytest.approx(float(one @ other / (one.norm() * other.norm())), nan_ok=True)
        assert trimmed["conflict"] == pytest.approx(float(apart), nan_ok=True)
    assert {tensor["name"] for tensor in found["tensors"]} == set(start)
    assert found["warnings"] == []


def test_inspecting_experts_warns_of_one_that_is_the_base(family: Family, capsys: Out) -> None:
    base, _ = family(1)

    assert main(["inspect", str(base), str(base)]) == 0

    told = capsys.readouterr().out
    assert "Warning: base equals the base model: it adds nothing." in told
    assert "–" in told
