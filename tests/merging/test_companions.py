"""What stands beside the weights: a result loads in transformers, with the vocabulary that its weights have."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from merging.adapter import open_expert
from merging.checkpoint import open_checkpoint
from merging.companions import carry_over, config_of
from merging.engine import merge
from merging.errors import MergeError
from merging.plan import Plan, plan
from merging.recipe import Recipe
from tests.conftest import write_model

EMBED = "model.embed_tokens.weight"
Llamas = tuple[Path, list[Path]]


def copied(llama: Path, folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """A model of one's own to change: its folder, its tensors and its tokenizer."""
    shutil.copytree(llama, folder)
    return folder, load_file(folder / "model.safetensors"), json.loads((folder / "tokenizer.json").read_text())


def saved(folder: Path, tensors: dict[str, Tensor], tokenizer: dict[str, Any]) -> Path:
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": len(tensors[EMBED])}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def taught(llama: Path, folder: Path, words: list[str], rows: int) -> Path:
    """The model with special tokens added, and with so many rows, of which the new ones hold its number of rows."""
    folder, tensors, tokenizer = copied(llama, folder)
    first = len(tokenizer["model"]["vocab"])
    settings = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"] += [
        {"id": row, "content": word, "special": word.startswith("<"), **settings}
        for row, word in enumerate(words, first)
    ]
    more = torch.full((max(0, rows - len(tensors[EMBED])), 16), float(rows))
    tensors[EMBED] = torch.cat([tensors[EMBED], more])[:rows].contiguous()
    return saved(folder, tensors, tokenizer)


def shuffled(llama: Path, folder: Path) -> tuple[Path, list[int]]:
    """The model with its tokens in another order, and the row of every token in it."""
    folder, tensors, tokenizer = copied(llama, folder)
    order = torch.randperm(26, generator=torch.Generator().manual_seed(0)) + 3
    rows = [0, 1, 2, *order.tolist(), *range(29, 64)]
    vocab = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: rows[row] for word, row in vocab.items()}
    moved = torch.empty_like(tensors[EMBED])
    moved[rows] = tensors[EMBED]
    return saved(folder, tensors | {EMBED: moved}, tokenizer), rows


def loaded(folder: Path) -> tuple[Any, Any]:
    """The model and the tokenizer as anyone would load them, with equal numbers of rows everywhere."""
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, dtype="auto"
    )
    assert not any(found.values())
    assert model.config.vocab_size == len(model.get_input_embeddings().weight)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def written(work: Plan, folder: Path, **wanted: str) -> Path:
    """The plan's base as a result: what a merge of experts that equal it gives."""
    folder.mkdir()
    save_file({entry.name: work.base.tensor(entry.name) for entry in work.written}, folder / "model.safetensors")
    carry_over(work, folder, **wanted)
    return folder


def test_an_expert_with_more_rows_merges_into_the_bases_vocabulary(llamas: Llamas, tmp_path: Path) -> None:
    base, experts = llamas
    taller = taught(experts[0], tmp_path / "taller", ["<tool>", "<call>", "<end>"], 67)

    report = merge(Recipe("linear", base, (taller,)), tmp_path / "out")

    model, tokenizer = loaded(tmp_path / "out")
    own = load_file(experts[0] / "model.safetensors")[EMBED]
    start = load_file(base / "model.safetensors")[EMBED]
    assert torch.equal(model.get_input_embeddings().weight[:29], own[:29])
    assert torch.equal(model.get_input_embeddings().weight[29:32], start[29:32])  # its rows stand for its own tokens
    assert torch.equal(model.get_input_embeddings().weight[32:], own[32:])
    assert len(tokenizer) == 29
    assert report.fates[EMBED] == "merged"


@pytest.mark.parametrize("rows", [40, 128])
def test_an_expert_with_other_padding_merges(rows: int, llamas: Llamas, tmp_path: Path) -> None:
    base, experts = llamas
    padded = taught(experts[0], tmp_path / "padded", [], rows)

    merge(Recipe("linear", base, (padded,)), tmp_path / "out")

    embedding = loaded(tmp_path / "out")[0].get_input_embeddings().weight
    source = load_file((base if rows < 64 else experts[0]) / "model.safetensors")[EMBED]
    assert embedding.shape == (64, 16)
    assert torch.equal(embedding[:40], load_file(experts[0] / "model.safetensors")[EMBED][:40])
    assert torch.equal(embedding[40:], source[40:])


def test_an_expert_whose_tokens_are_in_another_order_gives_the_same_merge(llamas: Llamas, tmp_path: Path) -> None:
    base, experts = llamas
    other, rows = shuffled(experts[0], tmp_path / "other")
    assert rows != sorted(rows)

    merge(Recipe("ties", base, (experts[0], experts[1])), tmp_path / "plain")
    merge(Recipe("ties", base, (other, experts[1])), tmp_path / "out")

    expected = load_file(tmp_path / "plain" / "model.safetensors")
    assert all(
        torch.equal(tensor, expected[name])
        for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items()
    )


def test_a_union_loads_with_its_new_tokens(llamas: Llamas, tmp_path: Path) -> None:
    base, experts = llamas
    math = taught(experts[0], tmp_path / "math", ["<tool>", "omega"], 66)
    models = open_checkpoint(base), open_checkpoint(math)

    out = written(plan(models[0], [models[1]], tokenizer_source="union"), tmp_path / "out")

    model, tokenizer = loaded(out)
    assert model.config.vocab_size == 64
    assert tokenizer.convert_tokens_to_ids(["<pad>", "z", "<tool>", "omega"]) == [0, 28, 29, 30]
    assert tokenizer("a <tool> omega")["input_ids"] == [3, 29, 30]
    assert tokenizer.decode([3, 29, 30], skip_special_tokens=True).split() == ["a", "omega"]
    rows = load_file(math / "model.safetensors")[EMBED]
    assert torch.equal(model.get_input_embeddings().weight[29:31], rows[29:31])
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(base).chat_template


def test_a_union_that_needs_more_rows_says_so_in_its_config(llamas: Llamas, tmp_path: Path) -> None:
    base, experts = llamas
    words = [f"<{number}>" for number in range(40)]
    math = taught(experts[0], tmp_path / "math", words, 69)

    out = written(plan(open_checkpoint(base), [open_checkpoint(math)], tokenizer_source="union"), tmp_path / "out")

    model, tokenizer = loaded(out)
    assert model.config.vocab_size == 69
    assert tokenizer.convert_tokens_to_ids("<39>") == 68


def test_another_models_tokenizer_comes_with_its_special_tokens(llamas: Llamas, tmp_path: Path) -> None:
    base, experts = llamas
    math = taught(experts[0], tmp_path / "math", ["<stop>"], 70)
    for name in ("config.json", "generation_config.json"):
        file = math / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": 29}))
    (math / "chat_template.jinja").write_text("{{ messages }}")

    out = written(plan(open_checkpoint(base), [open_checkpoint(math)], tokenizer_source="math"), tmp_path / "out")

    model, tokenizer = loaded(out)
    assert model.config.vocab_size == 70
    assert model.config.eos_token_id == 29
    assert GenerationConfig.from_pretrained(out).eos_token_id == 29
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.convert_tokens_to_ids("<stop>") == 29


def test_a_chat_template_of_ones_own_replaces_the_bases(llamas: Llamas, tmp_path: Path) -> None:
    base, _ = llamas
    mine = "{% for message in messages %}<{{ message.content }}>{% endfor %}"

    out = written(plan(open_checkpoint(base), [open_checkpoint(base)]), tmp_path / "out", chat_template=mine)

    tokenizer = loaded(out)[1]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "<a>"


def test_an_older_template_in_the_settings_gives_way(llamas: Llamas, tmp_path: Path) -> None:
    base = shutil.copytree(llamas[0], tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    settings = json.loads((base / "tokenizer_config.json").read_text()) | {"chat_template": "old"}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))

    out = written(plan(open_checkpoint(base), [open_checkpoint(base)]), tmp_path / "out", chat_template="{{ 'new' }}")

    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())
    assert loaded(out)[1].chat_template == "{{ 'new' }}"


def test_the_dtype_of_the_result_is_in_its_config(llamas: Llamas, tmp_path: Path) -> None:
    base, _ = llamas
    work = plan(open_checkpoint(base), [open_checkpoint(base)])

    out = written(work, tmp_path / "out", out_dtype="bfloat16")

    assert AutoConfig.from_pretrained(out).dtype == torch.bfloat16
    assert config_of(work) == json.loads((base / "config.json").read_text())


def test_files_that_need_no_change_are_copied_byte_for_byte(llamas: Llamas, tmp_path: Path) -> None:
    base = shutil.copytree(llamas[0], tmp_path / "base")
    spaced = (base / "config.json").read_text().replace('": ', '"  :   ')
    (base / "config.json").write_text(spaced)
    more = ("LICENSE", "NOTICE.txt", "license.md", "preprocessor_config.json", "merges.txt", "spiece.model", "a.jinja")
    for name in more:
        (base / name).write_text(f'{{"{name}": "\\r\\n"}}')
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")

    out = written(plan(open_checkpoint(base), [open_checkpoint(base)]), tmp_path / "out")

    names = {str(file.relative_to(base)) for file in base.rglob("*.*")} | {"LICENSE"}
    assert names == {str(file.relative_to(out)) for file in out.rglob("*.*")} | {"LICENSE"}
    assert all((out / name).read_bytes() == (base / name).read_bytes() for name in names - {"model.safetensors"})


def test_code_and_weights_are_never_carried_over(llamas: Llamas, tmp_path: Path) -> None:
    base = shutil.copytree(llamas[0], tmp_path / "base")
    for name in ("tokenizer_mine.py", "modeling.py", "tokenizer.pkl", "vocab.bin", "README.md", "trainer_state.json"):
        (base / name).write_text("x")

    out = written(plan(open_checkpoint(base), [open_checkpoint(base)]), tmp_path / "out")

    assert {file.name for file in out.iterdir()} == {file.name for file in llamas[0].iterdir()}


def test_a_quantisation_that_was_undone_is_gone_from_the_config(llamas: Llamas, tmp_path: Path) -> None:
    base = shutil.copytree(llamas[0], tmp_path / "base")
    opened = open_checkpoint(base)
    config = opened.config | {"quantization_config": {"quant_method": "fp8"}}
    (base / "config.json").write_text(json.dumps(config))

    out = written(plan(opened, [opened]), tmp_path / "out")  # opened without it, as a reader of such weights does

    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    loaded(out)


def test_a_model_without_a_config_has_no_companions(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "lone.safetensors")
    (tmp_path / "tokenizer.json").write_text("{}")
    base = open_checkpoint(tmp_path / "lone.safetensors")

    out = written(plan(base, [base]), tmp_path / "out")

    assert [file.name for file in out.iterdir()] == ["model.safetensors"]


def test_a_tokenizer_that_cannot_be_added_to_is_named(tmp_path: Path) -> None:
    rows = {EMBED: torch.ones(2, 2)}
    base = write_model(tmp_path / "base", rows, {"vocab_size": 2})
    math = write_model(tmp_path / "math", {EMBED: torch.ones(3, 2)}, {"vocab_size": 3})
    (base / "tokenizer.json").write_text('{"model": {"type": "Unknown", "vocab": {"a": 0, "b": 1}}}')
    (math / "tokenizer.json").write_text('{"model": {"type": "Unknown", "vocab": {"a": 0, "b": 1, "c": 2}}}')

    with pytest.raises(MergeError, match="is no tokenizer that can be added to"):
        written(plan(open_checkpoint(base), [open_checkpoint(math)], tokenizer_source="union"), tmp_path / "out")


def test_an_adapter_has_the_vocabulary_of_its_base(llamas: Llamas, tmp_path: Path) -> None:
    base, experts = llamas
    math = taught(experts[0], tmp_path / "math", ["<tool>"], 70)
    name = "model.layers.0.self_attn.q_proj"
    factors = {
        f"base_model.model.{name}.lora_{side}.weight": torch.ones(shape)
        for side, shape in (("A", (2, 16)), ("B", (16, 2)))
    }
    folder = tmp_path / "lora"
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    shutil.copyfile(math / "tokenizer.json", folder / "tokenizer.json")
    opened = open_checkpoint(base)

    work = plan(opened, [open_expert(folder, opened), open_checkpoint(math)], tokenizer_source="union")

    model, _ = loaded(written(work, tmp_path / "out"))
    assert torch.equal(work.experts[0].tensor(EMBED), model.get_input_embeddings().weight)
    assert torch.equal(work.experts[0].tensor(EMBED)[:29], opened.tensor(EMBED)[:29])
