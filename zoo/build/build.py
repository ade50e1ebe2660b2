"""Build the family of small language models: `python zoo/build/build.py --work DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

import corpora
import evaluate
import family
import torch
from corpora import DOMAINS


def table(work: Path) -> None:
    """Print the README's tables and samples, and keep them in work/table.md."""
    parts = [evaluate.report(work / "zoo", work / "zoo" / "heldout"), "### Samples\n"]
    for name in ("base", *DOMAINS, *(f"{d}-lora" for d in DOMAINS)):
        text = evaluate.sample(work / "zoo" / name, evaluate.PROMPTS[name.removesuffix("-lora")])
        parts.append(f"`{name}`:\n\n```text\n{text.strip()}\n```\n")
    text = "\n".join(parts)
    (work / "table.md").write_text(text, encoding="utf-8")
    print(text)


STEPS = {
    "corpora": corpora.build,
    "base": family.build_base,
    "experts": family.build_experts,
    "adapters": family.build_adapters,
    "table": table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for packages, texts and models")
    parser.add_argument("--only", choices=STEPS, action="append", help="run this step; may be given several times")
    parser.add_argument("--threads", type=int, default=2, help="also decides how sums are rounded")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name, step in STEPS.items():
        if not arguments.only or name in arguments.only:
            step(arguments.work.resolve())


if __name__ == "__main__":
    main()
