"""Held-out loss of base, experts, adapters and merges: the tables of the family's README."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from corpora import DOMAINS
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository: its own engine does the merges
from merging import METHODS
from merging.engine import merge_groups
from merging.method import Group

COLUMNS = (*DOMAINS, "general")
CONTEXT, ALPHA_OVER_RANK = 128, 2.0
MERGES: dict[str, tuple[str, dict]] = {
    "average (FroM k = 0)": ("from", {"k": 0.0}),
    "FroM k = 1": ("from", {"k": 1.0}),
    "FroM k = -2": ("from", {"k": -2.0}),
    **{f"task arithmetic λ = {x}": ("task_arithmetic", {"scaling": x}) for x in (0.3, 0.4, 0.5, 0.7, 1.0)},
    **{f"TIES density 0.2, λ = {x}": ("ties", {"density": 0.2, "scaling": x}) for x in (0.7, 1.0)},
    **{f"PCB r = 0.1, λ = {x}": ("pcb", {"ratio": 0.1, "scaling": x}) for x in (1.0, 1.5)},
}
PROMPTS = {
    "shakespeare": "KING RICHARD.\n",
    "bible": "7 And the LORD said unto ",
    "python": "def read(self, ",
    "base": "The President of the ",
}

State = dict[str, Tensor]


def load_model(folder: Path) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerFast]:
    """A model or, on the base beside it, an adapter."""
    adapter = (folder / "adapter_config.json").exists()
    home = folder.parent / "base" if adapter else folder
    model = AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32).eval()
    loaded = PeftModel.from_pretrained(model, folder) if adapter else model
    return loaded, AutoTokenizer.from_pretrained(home)


def windows(file: Path, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """All whole windows of CONTEXT tokens of a text, each with the token that follows it."""
    ids = torch.tensor(tokenizer.encode(file.read_text(encoding="utf-8"), verbose=False))
    return ids[: (len(ids) - 1) // CONTEXT * CONTEXT + 1].unfold(0, CONTEXT + 1, CONTEXT)


@torch.no_grad()
def loss(model: PreTrainedModel, x: Tensor) -> float:
    """Mean nats per token."""
    logits = model(input_ids=x[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten()).item()


def expert_states(zoo: Path, base: State, adapters: bool) -> list[State]:
    """Weights of the experts; of an adapter only the layers it changes, with its product added."""
    if not adapters:
        return [{k: v.float() for k, v in load_file(zoo / d / "model.safetensors").items()} for d in DOMAINS]
    states = []
    for domain in DOMAINS:
        factors, state = load_file(zoo / f"{domain}-lora" / "adapter_model.safetensors"), {}
        for key in (k for k in factors if ".lora_A." in k):
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            product = factors[key.replace("lora_A", "lora_B")].float() @ factors[key].float()
            state[name] = base[name] + ALPHA_OVER_RANK * product
        states.append(state)
    return states


def merges(base: State, experts: list[State]) -> Iterator[tuple[str, State]]:
    groups = [Group(name, base[name], torch.stack([e[name] for e in experts])) for name in experts[0]]
    for title, (method, values) in MERGES.items():
        yield title, dict(merge_groups(METHODS[method], groups, **values))


class Table:
    """Rows of held-out losses, and of the shares of the experts' gains that they keep."""

    def __init__(self, zoo: Path, texts: Path) -> None:
        self.model, tokenizer = load_model(zoo / "base")
        # The output layer is the input embedding: one tensor, merged once.
        self.base = {k: v.clone() for k, v in self.model.state_dict().items() if k != "lm_head.weight"}
        self.texts = {c: windows(texts / f"{c}.txt", tokenizer) for c in COLUMNS}
        self.before = self.losses({})

    def losses(self, state: State) -> list[float]:
        self.model.load_state_dict({**self.base, **state}, strict=False)
        return [loss(self.model, self.texts[c]) for c in COLUMNS]

    def family(self, zoo: Path, adapters: bool) -> Iterator[str]:
        """The rows of the three experts or adapters and of their merges."""
        experts = expert_states(zoo, self.base, adapters)
        kind, after = "adapter" if adapters else "expert", [self.losses(e) for e in experts]
        own = [self.before[i] - after[i][i] for i in range(len(DOMAINS))]
        for i, domain in enumerate(DOMAINS):
            yield row(f"{kind} {domain}", after[i], f"own gain {own[i]:.2f}")
        for title, state in merges(self.base, experts):
            now = self.losses(state)
            kept = [(self.before[i] - now[i]) / own[i] for i in range(len(DOMAINS))]
            yield row(title, now, " / ".join(f"{k:.0%}" for k in kept))


def row(title: str, losses: list[float], note: str) -> str:
    mean = sum(losses[: len(DOMAINS)]) / len(DOMAINS)
    return f"| {title} | " + " | ".join(f"{x:.3f}" for x in (*losses, mean)) + f" | {note} |"


def geometry(base: State, experts: list[State]) -> str:
    """How far the experts moved, and the cosines between their task vectors."""
    taus = [torch.cat([(e[k] - base[k]).flatten() for k in e]) for e in experts]
    length = torch.cat([v.flatten() for v in base.values()]).norm()
    moved = ", ".join(f"{d} {t.norm() / length:.3f}" for d, t in zip(DOMAINS, taus, strict=True))
    pairs = itertools.combinations(zip(DOMAINS, taus, strict=True), 2)
    cosines = ", ".join(f"{a}–{b} {torch.cosine_similarity(s, t, 0):.2f}" for (a, s), (b, t) in pairs)
    return f"‖τ‖/‖W₀‖: {moved}. Cosines: {cosines}."


def report(zoo: Path, texts: Path) -> str:
    """The tables as Markdown."""
    table, parts = Table(zoo, texts), []
    head = "| | " + " | ".join((*COLUMNS, "mean of three")) + " | share of the own gain kept |\n" + "|---" * 7 + "|"
    for adapters, title in ((False, "Full fine-tunes"), (True, "LoRA adapters")):
        rows = [head, row("base", table.before, ""), *table.family(zoo, adapters)]
        told = geometry(table.base, expert_states(zoo, table.base, adapters))
        parts.append(f"### {title}\n\n" + "\n".join(rows) + f"\n\n{told}\n")
    return "\n".join(parts)


@torch.no_grad()
def sample(folder: Path, prompt: str, tokens: int = 70) -> str:
    """A continuation at temperature 0.7 among the 40 likeliest tokens, always the same."""
    model, tokenizer = load_model(folder)
    torch.manual_seed(0)
    ids = torch.tensor([tokenizer.encode(prompt)])
    out = model.generate(ids, max_new_tokens=tokens, do_sample=True, temperature=0.7, top_k=40, eos_token_id=None)
    return tokenizer.decode(out[0])
