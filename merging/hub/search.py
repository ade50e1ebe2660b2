"""Finding models on the Hub by words, and families whose base and experts are known to belong together."""

from __future__ import annotations

from dataclasses import dataclass

from merging.hub.asking import asking
from merging.hub.names import hub_name

MOST = 12


@dataclass(frozen=True)
class Found:
    """A model that the Hub has: its parameters, and its downloads in a month; None where it does not say."""

    name: str
    parameters: int | None = None
    downloads: int | None = None
    gated: bool = False


@dataclass(frozen=True)
class Family:
    """A base and experts that were fine-tuned from it, by their names on the Hub."""

    title: str
    base: str
    experts: tuple[str, ...]
    words: str
    bytes: int  # of the weights of its largest model, about


FAMILIES = (
    Family(
        "Qwen2.5 0.5B",
        "Qwen/Qwen2.5-0.5B",
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-Coder-0.5B"),
        "One learned to follow instructions, the other to write code, with training of its own length.",
        990_000_000,
    ),
    Family(
        "SmolLM2 135M",
        "HuggingFaceTB/SmolLM2-135M",
        ("HuggingFaceTB/SmolLM2-135M-Instruct",),
        "Small enough for any machine: what instruction tuning changes, layer by layer.",
        270_000_000,
    ),
    Family(
        "TinyLlama 1.1B",
        "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0",),
        "The chat model and the step of pretraining that it started from.",
        4_400_000_000,
    ),
    Family(
        "Llama 2 13B: instructions, mathematics, code",
        "unsloth/llama-2-13b",
        ("WizardLMTeam/WizardLM-13B-V1.2", "vanillaOVO/WizardMath-13B-V1.0", "layoric/llama-2-13b-code-alpaca"),
        "The three experts that DARE, and much work since, is measured with. Some 100 GB in all.",
        26_000_000_000,
    ),
)


def search(words: str) -> list[Found]:
    """Models with safetensors whose names hold these words, the most downloaded first; MergeError as from the Hub."""
    from huggingface_hub import HfApi

    with asking():
        told = HfApi().list_models(
            search=words.strip()[:200],
            filter="safetensors",
            sort="downloads",
            limit=MOST,
            expand=["downloads", "gated", "safetensors"],
        )
        found = [
            Found(one.id, one.safetensors.total if one.safetensors else None, one.downloads, bool(one.gated))
            for one in told
        ]
    return [one for one in found if hub_name(one.name)]
