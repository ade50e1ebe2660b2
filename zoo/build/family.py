"""Train the tokenizer, the base, and from it one full fine-tune and one LoRA adapter per domain."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from corpora import DOMAINS, SEPARATOR
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from train import Plan, Streams, loss_function, mixture, train
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, VOCABULARY = "<|bos|>", 2048
ADAPTER_KEYS = (
    "base_model_name_or_path", "bias", "inference_mode", "lora_alpha", "lora_dropout",
    "peft_type", "r", "target_modules", "task_type",
)  # fmt: skip
PLANS = {
    "base": Plan(2000, 4e-3, 100, muon=True),
    "expert": Plan(400, 1.5e-3, 30, muon=True),
    "lora": Plan(200, 4e-3, 30),
}


def train_tokenizer(data: Path, folder: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE on three million characters of general text and one million of each domain."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False
    )
    texts = [_train_text(data, "general")[:3_000_000], *(_train_text(data, d)[:1_000_000] for d in DOMAINS)]
    tokenizer.train_from_iterator((line for t in texts for line in t.splitlines(keepends=True)), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, pad_token=BOS, model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    fast.save_pretrained(folder)
    # Transformers 5 writes a class name that version 4 does not know; both know this one.
    file = folder / "tokenizer_config.json"
    file.write_text(file.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    return fast


def _train_text(data: Path, name: str) -> str:
    return (data / "train" / f"{name}.txt").read_text(encoding="utf-8").replace(SEPARATOR, "")


def load_streams(data: Path, tokenizer: PreTrainedTokenizerFast) -> Streams:
    """Tokens of the training text of every domain, each document after a BOS."""
    streams = {}
    for name in ("general", *DOMAINS):
        documents = (data / "train" / f"{name}.txt").read_text(encoding="utf-8").split(SEPARATOR)
        encoded = tokenizer.backend_tokenizer.encode_batch([BOS + d for d in documents])
        streams[name] = np.concatenate([np.array(e.ids, dtype=np.uint16) for e in encoded])
    return streams


def new_model() -> LlamaForCausalLM:
    """A Llama of 2.8 million parameters with grouped-query attention, untrained."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=512, num_hidden_layers=6,
        num_attention_heads=6, num_key_value_heads=3, max_position_embeddings=512,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM._from_config(config, attn_implementation="eager")


def build_base(work: Path) -> None:
    """Tokenizer and base into work/zoo/base."""
    folder = work / "zoo" / "base"
    tokenizer = train_tokenizer(work / "data", folder)
    model = new_model()
    streams = load_streams(work / "data", tokenizer)
    told = train(model, loss_function(model), streams, mixture(), PLANS["base"], "base")
    model.to(torch.bfloat16).save_pretrained(folder)
    _note(work, "base", told)


def build_experts(work: Path, domains: tuple[str, ...] = DOMAINS) -> None:
    """One full fine-tune of the base per domain."""
    for domain, expert in _specialised(work, _load_base(work), "expert", domains):
        expert.save_pretrained(work / "zoo" / domain)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(work / "zoo" / "base" / name, work / "zoo" / domain / name)


def build_adapters(work: Path, domains: tuple[str, ...] = DOMAINS) -> None:
    """One rank-8 LoRA adapter of the base per domain, on all its linear layers."""
    torch.manual_seed(0)  # of the factors A, the same in every adapter
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(_load_base(work), lora)
    for domain, adapted in _specialised(work, model, "lora", domains):
        adapted.save_pretrained(work / "zoo" / f"{domain}-lora")
        _make_portable(work / "zoo" / f"{domain}-lora")


def _specialised(
    work: Path, model: torch.nn.Module, kind: str, domains: tuple[str, ...]
) -> Iterator[tuple[str, torch.nn.Module]]:
    """The model after training on each domain, from the same start, as a copy in bfloat16."""
    streams, loss_of = load_streams(work / "data", load_tokenizer(work)), loss_function(model)
    start = copy.deepcopy(model.state_dict())
    for domain in domains:
        model.load_state_dict(start)
        told = train(model, loss_of, streams, mixture(domain), PLANS[kind], f"{kind} {domain}")
        _note(work, f"{kind} {domain}", told)
        yield domain, copy.deepcopy(model).to(torch.bfloat16)


def load_tokenizer(work: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(work / "zoo" / "base")


def _load_base(work: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(work / "zoo" / "base", dtype=torch.float32, attn_implementation="eager")


def _make_portable(adapter: Path) -> None:
    """Keep what every version of PEFT knows, without this machine's path to the base."""
    (adapter / "README.md").unlink(missing_ok=True)
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": "../base", "target_modules": sorted(config["target_modules"])}
    file.write_text(json.dumps({k: config[k] for k in ADAPTER_KEYS}, indent=2) + "\n", encoding="utf-8")


def _note(work: Path, name: str, told: dict) -> None:
    file = work / "times.json"
    notes = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(notes | {name: told}, indent=1))
