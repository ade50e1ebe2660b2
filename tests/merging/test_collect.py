"""Statistics of real models over real text, and merges that use them."""

from __future__ import annotations

import errno
import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging import output
from merging.cli import main
from merging.collect import collect
from merging.collected import beside
from merging.engine import merge
from merging.errors import MergeError, MergeStopped
from merging.preflight import check
from merging.progress import Step
from merging.recipe import Recipe

ZOO = Path(__file__).parents[2] / "zoo"
EMBED = "model.embed_tokens.weight"
WORDS = "the quick brown fox jumps over the lazy dog and runs away from it as fast as it can "


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(" ".join((WORDS * 4).replace(" ", "")))  # the tiny tokenizer knows letters
    return file


@pytest.fixture
def models(llamas: tuple[Path, list[Path]], tmp_path: Path) -> tuple[Path, list[Path]]:
    """Copies of real models, beside which files may be written."""
    base, experts = llamas
    copied = [Path(shutil.copytree(path, tmp_path / path.name)) for path in (base, *experts)]
    return copied[0], copied[1:]


def test_what_is_collected_is_what_the_model_does(models: tuple[Path, list[Path]], text: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = models[1][0]

    file = collect(model, text, length=40).file

    assert file == beside(model) == model.with_name("expert-1.statistics.safetensors")
    found = load_file(file)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(model)(text.read_text(), add_special_tokens=False)["input_ids"]
    blocks = [torch.tensor(tokens[start : start + 40])[None] for start in range(0, len(tokens), 40)]
    first = net.model.layers[0]
    normed = torch.cat([first.input_layernorm(net.model.embed_tokens(block))[0] for block in blocks]).detach()
    torch.testing.assert_close(
        found["inputs.model.layers.0.self_attn.q_proj.weight"], normed.T @ normed / len(tokens), rtol=1e-4, atol=1e-5
    )
    total = torch.zeros_like(first.mlp.up_proj.weight)
    for block in blocks:
        net.zero_grad()
        chances = net(block).logits[0].log_softmax(-1)
        chances[range(block.shape[1] - 1), block[0, 1:]].sum().backward()
        total += first.mlp.up_proj.weight.grad.square()
    torch.testing.assert_close(
        found["fisher.model.layers.0.mlp.up_proj.weight"], total.detach() / len(blocks), rtol=1e-3, atol=1e-7
    )
    assert "fisher.model.embed_tokens.weight" in found
    assert not [name for name in found if "lm_head" in name]  # it is the embedding
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["mergescope"])["inputs"]["tokens"] == str(len(tokens))


def test_memory_changes_the_rounds_and_nothing_else(models: tuple[Path, list[Path]], text: Path) -> None:
    model, steps = models[1][0], list[Step]()
    whole = load_file(collect(model, text, length=40).file)

    file = collect(model, text, length=40, memory=4 * 32**2, on_step=steps.append).file

    found = load_file(file)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in found)
    assert [step.done for step in steps] == list(range(steps[0].total))
    assert {step.stage for step in steps} == {"Reading inputs", "Reading gradients"}


def test_collecting_can_be_stopped_and_leaves_nothing(models: tuple[Path, list[Path]], text: Path) -> None:
    model, stop = models[1][0], threading.Event()

    def on_step(step: Step) -> None:
        if step.done == 2:
            stop.set()

    with pytest.raises(MergeStopped):
        collect(model, text, length=20, on_step=on_step, stop=stop)

    assert not [path for path in model.parent.iterdir() if "statistics" in path.name]


def test_what_is_half_written_is_gone_where_the_disk_is_full(
    models: tuple[Path, list[Path]], text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output, "_reserve", full)

    with pytest.raises(MergeError, match=r"^The statistics cannot be written to .* \(No space left on device\)\."):
        collect(models[1][0], text)

    assert not [path for path in models[0].parent.iterdir() if "statistics" in path.name]


def test_a_model_that_does_not_fit_the_memory_is_refused_before_it_is_loaded(
    models: tuple[Path, list[Path]], text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merging.collect.free_memory", lambda: 1000)

    with pytest.raises(MergeError, match=r"^Collecting fisher and inputs of expert-1 takes .* Collect only `inputs`"):
        collect(models[1][0], text)
    with pytest.raises(MergeError, match=r"^Collecting inputs of expert-1 takes .* Allow inner products less of it"):
        collect(models[1][0], text, kinds=("inputs",))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kinds": ("fishers",)}, "There is nothing to collect that is called `fishers`. Did you mean `fisher`?"),
        ({"tokens": 1}, "must be run over 2 or more. Ask for 2."),
        ({"length": 1}, "must be run over 2 or more. Ask for 2."),
    ],
)
def test_what_cannot_be_asked_for(given: Any, message: str, models: tuple[Path, list[Path]], text: Path) -> None:
    with pytest.raises(MergeError) as refused:
        collect(models[1][0], text, **given)

    assert str(refused.value).endswith(message)
    assert not beside(models[1][0]).exists()


def test_fewer_tokens_and_one_kind_may_be_asked_for(models: tuple[Path, list[Path]], text: Path) -> None:
    found = load_file(collect(models[1][0], text, kinds=("fisher",), tokens=30).file)

    assert {name.split(".")[0] for name in found} == {"fisher"}


def test_what_is_not_asked_anew_stays(models: tuple[Path, list[Path]], text: Path, capsys: Any) -> None:
    model = models[1][0]
    first = collect(model, text, length=40)
    before = load_file(first.file)

    assert main(["collect", str(model), str(text), "--only", "fisher", "--tokens", "30", "--length", "6"]) == 0

    after = load_file(first.file)
    assert after.keys() == before.keys()
    same = {name.split(".")[0] for name in after if torch.equal(after[name], before[name])}
    assert same == {"inputs"}
    told = capsys.readouterr().out
    assert f"Ran expert-1 over 30 tokens of {text}, in 5 blocks." in told
    assert "Replaced what was there of `fisher`.\nKept what was there of `inputs`.\n" in told
    with safe_open(first.file, "pt") as opened:
        story = json.loads(opened.metadata()["mergescope"])
    assert (story["fisher"]["tokens"], story["inputs"]["tokens"]) == ("30", str(first.tokens))
    assert (first.kept, first.replaced) == ((), ())


def test_what_is_damaged_does_not_stay_and_is_named(models: tuple[Path, list[Path]], text: Path) -> None:
    file = beside(models[1][0])
    file.write_bytes(b"\x08\0\0\0\0\0\0\0damaged!")

    with pytest.raises(MergeError, match=r"statistics.* Delete it, or collect all kinds anew\.$"):
        collect(models[1][0], text, kinds=("fisher",))
    assert collect(models[1][0], text).replaced == ()


def test_a_text_that_is_too_short_to_say_much_is_told_and_one_that_is_not_is_not(
    models: tuple[Path, list[Path]], text: Path
) -> None:
    text.write_text(text.read_text() * 4)

    short = collect(models[1][0], text, tokens=2)
    enough = collect(models[1][0], text, length=20)

    assert (short.tokens, short.blocks) == (2, 1)
    assert short.warnings == (
        "Fisher information is a mean over 1 block only. Name a longer text, or a smaller `--length`.",
        "The text gives 2 tokens, and the widest linear layer has 32 inputs, whose inner products need as many tokens "
        "or more. Name a longer text, or more `--tokens`.",
    )
    assert enough.blocks >= 8
    assert enough.warnings == ()


def test_a_length_beyond_what_the_model_takes_is_told(models: tuple[Path, list[Path]], text: Path) -> None:
    from transformers import AutoConfig

    most = AutoConfig.from_pretrained(models[1][0]).max_position_embeddings

    (words,) = (words for words in collect(models[1][0], text, length=most + 1).warnings if "at a time" in words)

    assert words == f"expert-1 takes {most:,} tokens at a time, so its blocks are of these, and not of {most + 1:,}."


def test_a_text_that_is_not_there_is_one_clear_sentence(
    models: tuple[Path, list[Path]], tmp_path: Path, capsys: Any
) -> None:
    assert main(["collect", str(models[1][0]), str(tmp_path / "nope.txt")]) == 1
    assert capsys.readouterr().err == f"There is no text {tmp_path / 'nope.txt'}. Check the path.\n"
    assert main(["collect", str(models[1][0]), str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path} is a folder, and a text is a file. Name that.\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "is too short: it has 0 tokens"),
        ("a", "is too short: it has 1 tokens"),
        (b"\xff\xfe\xff", "could not be read"),
    ],
)
def test_a_text_that_says_nothing_is_refused(words: Any, message: str, models: Any, tmp_path: Path) -> None:
    file = tmp_path / "bad.txt"
    file.write_bytes(words if isinstance(words, bytes) else words.encode())

    with pytest.raises(MergeError, match=message):
        collect(models[1][0], file)

    assert not beside(models[1][0]).exists()


@pytest.mark.parametrize(("method", "title"), [("fisher", "Fisher merging"), ("regmean", "RegMean")])
def test_statistics_that_are_missing_are_named_with_how_to_make_them(
    method: str, title: str, models: tuple[Path, list[Path]], text: Path, tmp_path: Path
) -> None:
    base, experts = models
    collect(experts[0], text)

    found = check(Recipe(method, base, tuple(experts)), tmp_path / "out")

    assert found.problems == (
        f"{title} needs statistics of `{experts[1]}`, and there is no {beside(experts[1])}. "
        f"Collect them: python -m merging collect {experts[1]} TEXT.",
    )


def test_statistics_that_are_cut_short_are_to_be_collected_again(
    models: tuple[Path, list[Path]], text: Path, tmp_path: Path
) -> None:
    base, experts = models
    collect(experts[0], text)
    with beside(experts[0]).open("r+b") as file:
        file.truncate(beside(experts[0]).stat().st_size - 8)

    (problem,) = check(Recipe("fisher", base, (experts[0],)), tmp_path / "out").problems

    assert re.search(r"statistics\.safetensors is cut short: .* Collect these statistics again\.$", problem)


@pytest.mark.parametrize(
    ("method", "other", "words"),
    [
        ("fisher", "inputs", f"Fisher merging needs the Fisher information of `{EMBED}`"),
        ("regmean", "fisher", "RegMean needs what goes into linear layers"),
    ],
)
def test_statistics_of_the_other_kind_are_refused(
    method: str, other: str, words: str, models: tuple[Path, list[Path]], text: Path, tmp_path: Path
) -> None:
    base, experts = models
    collect(experts[0], text, kinds=(other,))

    found = check(Recipe(method, base, (experts[0],)), tmp_path / "out")

    told = f"{words}, and expert-1.statistics.safetensors does not tell that. {COLLECT_AGAIN}"
    assert found.problems == (told,)


def test_an_adapter_without_statistics_is_told_to_be_run_on_its_base(tmp_path: Path) -> None:
    recipe = Recipe("fisher", ZOO / "base", (ZOO / "python-lora",))

    (problem,) = check(recipe, tmp_path / "out").problems

    assert problem.endswith(f"python -m merging collect {ZOO / 'python-lora'} TEXT --base {ZOO / 'base'}.")
    with pytest.raises(MergeError, match=r"is a LoRA adapter, which is run on its base\. Name that, too: --base MODEL"):
        collect(ZOO / "python-lora", ZOO / "heldout" / "python.txt")


def changed(file: Path, name: str, change: Callable[[Tensor], Tensor | None]) -> None:
    """Put something else in the place of one tensor of a file, or leave it out."""
    tensors = load_file(file)
    tensor = change(tensors.pop(name))
    save_file(tensors if tensor is None else {**tensors, name: tensor}, file)


def one(number: float) -> Callable[[Tensor], Tensor]:
    """What puts a number into the second place of a tensor's diagonal, or of its entries."""

    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[tensor.shape[-1] + 1] = number
        return tensor

    return change


UP = "model.layers.1.mlp.up_proj.weight"
COLLECT_AGAIN = "Collect the statistics of expert-1 again, or choose another method."


@pytest.mark.parametrize(
    ("method", "change", "problem"),
    [
        ("fisher", lambda _: None, "does not tell that"),
        ("fisher", lambda tensor: tensor[1:], "has other numbers for it"),
        ("fisher", lambda tensor: tensor.bool(), "has other numbers for it"),
        ("regmean", lambda _: None, "does not tell that"),
        ("regmean", lambda tensor: tensor[1:].contiguous(), "has other numbers for it"),
        ("regmean", lambda tensor: tensor.bool(), "has other numbers for it"),
    ],
)
def test_statistics_that_do_not_fit_are_refused_before_the_merge(
    method: str, change: Any, problem: str, models: tuple[Path, list[Path]], text: Path, tmp_path: Path
) -> None:
    base, experts = models
    title, kind, what = {
        "fisher": ("Fisher merging", "fisher.", "the Fisher information of"),
        "regmean": ("RegMean", "inputs.", "what goes into"),
    }[method]
    for expert in experts:
        collect(expert, text)
    changed(beside(experts[0]), kind + UP, change)

    found = check(Recipe(method, base, tuple(experts)), tmp_path / "out")

    told = f"{title} needs {what} `{UP}`, and expert-1.statistics.safetensors {problem}. {COLLECT_AGAIN}"
    assert found.problems == (told,)


@pytest.mark.parametrize(
    ("method", "number"),
    [
        ("fisher", float("nan")),
        ("fisher", float("inf")),
        ("fisher", -1e-3),
        ("regmean", float("nan")),
        ("regmean", float("-inf")),
        ("regmean", -1e-3),
    ],
)
def test_numbers_that_cannot_have_been_collected_are_named(
    method: str, number: float, models: tuple[Path, list[Path]], text: Path, tmp_path: Path
) -> None:
    base, experts = models
    name = {"fisher": "fisher.", "regmean": "inputs."}[method] + UP
    for expert in experts:
        collect(expert, text)
    changed(beside(experts[1]), name, one(number))

    with pytest.raises(MergeError) as refused:
        merge(Recipe(method, base, tuple(experts)), tmp_path / "out")

    assert str(refused.value) == (
        f"`{name}` in {beside(experts[1])} holds numbers that nothing gives which is collected: NaN, infinite or "
        "negative. Collect these statistics again."
    )
    assert not (tmp_path / "out").exists()


def test_products_that_are_none_are_named(models: tuple[Path, list[Path]], text: Path, tmp_path: Path) -> None:
    base, experts = models
    for expert in experts:
        collect(expert, text)
        changed(beside(expert), "inputs." + UP, lambda tensor: torch.ones_like(tensor) - 0.9 * torch.eye(len(tensor)))

    with pytest.raises(MergeError, match=f"^The statistics of what goes into `{UP}` are no inner products"):
        merge(Recipe("regmean", base, tuple(experts)), tmp_path / "out")


@pytest.mark.parametrize("method", ["fisher", "regmean"])
@pytest.mark.parametrize(("end", "words"), [(40, "is"), (-20, "is")])
def test_a_file_that_was_cut_short_is_one_problem(
    method: str, end: int, words: str, models: tuple[Path, list[Path]], text: Path, tmp_path: Path
) -> None:
    base, experts = models
    file = collect(experts[0], text).file
    file.write_bytes(file.read_bytes()[:end])

    found = check(Recipe(method, base, (experts[0],)), tmp_path / "out")

    (problem,) = found.problems
    assert file.name in problem


def test_names_may_have_another_beginning(models: tuple[Path, list[Path]], text: Path, tmp_path: Path) -> None:
    base, experts = models
    for method in ("fisher", "regmean"):
        for expert in experts:
            collect(expert, text)
        merge(Recipe(method, base, tuple(experts)), tmp_path / method)
    for folder in (base, *experts):
        tensors = load_file(folder / "model.safetensors")
        bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        save_file(bare, folder / "model.safetensors", {"format": "pt"})

    for method in ("fisher", "regmean"):
        merge(Recipe(method, base, tuple(experts)), tmp_path / f"{method}-bare")

        found, expected = (load_file(tmp_path / name / "model.safetensors") for name in (f"{method}-bare", method))
        assert {f"model.{name}" for name in found} == set(expected)
        assert all(torch.equal(tensor, expected[f"model.{name}"]) for name, tensor in found.items())


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_information_follows_the_rows_of_the_tokens(
    method: str, models: tuple[Path, list[Path]], text: Path, tmp_path: Path
) -> None:
    base, experts = models
    for expert in experts:
        collect(expert, text)
    merge(Recipe(method, base, tuple(experts)), tmp_path / "alike")
    told = json.loads((experts[0] / "tokenizer.json").read_text())
    rows = told["model"]["vocab"]
    rows["a"], rows["q"] = rows["q"], rows["a"]
    (experts[0] / "tokenizer.json").write_text(json.dumps(told))
    tensors, here, there = load_file(experts[0] / "model.safetensors"), rows["a"], rows["q"]
    tensors[EMBED][[here, there]] = tensors[EMBED][[there, here]]
    save_file(tensors, experts[0] / "model.safetensors", {"format": "pt"})
    collect(experts[0], text)

    merge(Recipe(method, base, tuple(experts)), tmp_path / "moved")

    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("moved", "alike"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_merges_use_what_was_collected(models: tuple[Path, list[Path]], text: Path, tmp_path: Path) -> None:
    base, experts = models
    files = [load_file(collect(expert, text, length=40).file) for expert in experts]

    for method in ("fisher", "regmean"):
        merge(Recipe(method, base, tuple(experts)), tmp_path / method)

    moved = [load_file(expert / "model.safetensors") for expert in experts]
    fisher, regmean = (load_file(tmp_path / method / "model.safetensors") for method in ("fisher", "regmean"))
    for name in moved[0]:
        information = torch.stack([file["fisher." + name] for file in files]) + 1e-6
        weights = torch.stack([model[name] for model in moved])
        expected = (information * weights).sum(0) / information.sum(0)
        torch.testing.assert_close(fisher[name], expected, rtol=1e-4, atol=1e-5)
        if "inputs." + name in files[0]:
            products = [file["inputs." + name].double() for file in files]
            products = [0.9 * g + 0.1 * torch.diag(g.diagonal()) for g in products]
            pulled = sum(w.double() @ g for w, g in zip(weights, products, strict=True))
            expected = torch.linalg.solve(sum(products), pulled.T).T.float()
        else:
            expected = weights.mean(0)
        torch.testing.assert_close(regmean[name], expected, rtol=1e-3, atol=1e-4)


def test_other_statistics_make_another_merge(models: tuple[Path, list[Path]], text: Path, tmp_path: Path) -> None:
    base, experts = models
    recipe = Recipe("fisher", base, (experts[0],))
    collect(experts[0], text)
    merge(recipe, tmp_path / "one")
    collect(experts[0], text, tokens=20)

    merge(recipe, tmp_path / "two")

    told = [json.loads((tmp_path / name / "mergescope.json").read_text())["inputs"] for name in ("one", "two")]
    assert "statistics 1" in told[0]
    assert told[0]["statistics 1"] != told[1]["statistics 1"]


def test_an_adapter_is_run_on_its_base(tmp_path: Path) -> None:
    for name in ("base", "python-lora"):
        shutil.copytree(ZOO / name, tmp_path / name)

    file = collect(
        tmp_path / "python-lora", ZOO / "heldout" / "python.txt", base=tmp_path / "base", tokens=300, kinds=("inputs",)
    ).file

    found = load_file(file)
    assert found["inputs.model.layers.0.mlp.down_proj.weight"].shape == (512, 512)
    merge(Recipe("regmean", tmp_path / "base", (tmp_path / "python-lora",)), tmp_path / "out")


def test_the_command_says_what_it_wrote(
    models: tuple[Path, list[Path]], text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models[1][0]

    code = main(["collect", str(model), str(text), "--only", "fisher", "--length", "40"])

    assert code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"Ran expert-1 over 260 tokens of {text}, in 7 blocks.\nWarning: Fisher information")
    assert "\nWrote statistics of " in told
    assert told.endswith(f"to {beside(model)}.\n")
    assert main(["collect", str(model / "none"), str(text)]) == 1
