"""The embedded family: small enough to ship, visibly specialised, and worth merging."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from merging import Recipe, merge
from merging.adapter import open_expert
from merging.checkpoint import open_checkpoint
from ui import family

ZOO = Path(__file__).parents[1] / "zoo"
DOMAINS = ("shakespeare", "bible", "python")
CONTEXT = 128


@cache
def text(domain: str) -> torch.Tensor:
    """Every other whole window of the domain's held-out text, as tokens: (windows, context)."""
    words = (ZOO / "heldout" / f"{domain}.txt").read_text(encoding="utf-8")
    tokens = torch.tensor(AutoTokenizer.from_pretrained(ZOO / "base")(words)["input_ids"])
    return tokens[: len(tokens) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)[::2]


def loss(folder: Path, domain: str) -> float:
    """Mean nats per token on half of the domain's held-out text."""
    model = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32).eval()
    expert = open_expert(folder, open_checkpoint(ZOO / "base"))
    model.load_state_dict({name: expert.tensor(name).float() for name in expert.entries}, strict=False)
    model.tie_weights()
    with torch.inference_mode():
        return float(model(input_ids=text(domain), labels=text(domain)).loss)


@cache
def base_loss(domain: str) -> float:
    return loss(ZOO / "base", domain)


@cache
def gain(expert: str, domain: str) -> float:
    return base_loss(domain) - loss(ZOO / expert, domain)


def test_the_family_is_small_enough_to_ship() -> None:
    sizes = {file: file.stat().st_size for file in ZOO.rglob("*") if file.is_file()}

    assert max(sizes.values()) < 10e6
    assert sum(sizes.values()) < 60e6


@pytest.mark.parametrize("name", ["base", *DOMAINS])
def test_each_model_loads_alone_and_speaks(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(ZOO / name)
    tokenizer = AutoTokenizer.from_pretrained(ZOO / name)

    said = model.generate(**tokenizer("The ", return_tensors="pt"), max_new_tokens=8, do_sample=False)

    assert model.dtype == torch.bfloat16
    assert tokenizer.decode(said[0]).startswith("The ")


def test_the_lists_on_the_page_name_models_that_are_there() -> None:
    for path in (family.BASE, *family.EXPERTS, *family.ADAPTERS):
        assert open_checkpoint(path).entries


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_expert_knows_its_own_domain_better_than_base_and_the_other_experts(domain: str) -> None:
    others = [gain(other, domain) for other in DOMAINS if other != domain]

    assert gain(domain, domain) > 0.2
    assert gain(domain, domain) > max(others) + 0.2


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_adapter_knows_its_own_domain_better_than_the_base(domain: str) -> None:
    assert gain(f"{domain}-lora", domain) > 0.08


def test_one_merge_keeps_a_third_of_what_every_expert_gained(tmp_path: Path) -> None:
    recipe = Recipe("task_arithmetic", ZOO / "base", tuple(ZOO / domain for domain in DOMAINS), values={"lambda": 0.4})

    merge(recipe, tmp_path / "merged")

    for domain in DOMAINS:
        kept = base_loss(domain) - loss(tmp_path / "merged", domain)
        assert kept > gain(domain, domain) / 3, domain
