"""Writes docs/methods.md from what the methods declare: python docs/pages.py"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # as a script it sees its own folder only

from merging import manual  # noqa: E402 - only now can it be found
from merging.method import ADAPTERS, METHODS, Method  # noqa: E402
from merging.params import Param  # noqa: E402
from merging.symbols import SHARED  # noqa: E402

PAGE = ROOT / "docs" / "methods.md"
HEAD = r"""# Methods

Written by `make docs` from what the methods declare; the screen and `python -m merging methods` say the same.

No method is the best one for all models, and none can promise to beat plain addition: where experts hardly overlap, as
adapters often do, [task arithmetic](#task-arithmetic) is hard to beat. What follows is how each of them treats
overlap, and what it costs. Try two or three on the models at hand, and ask the results something.

## Where to begin

| what you have | what to try |
| --- | --- |
| experts of one base, and no time to choose | `task_arithmetic`, with a scaling of about 1 over their number |
| several runs, or late steps, of one training | `linear`, or `model_stock` where there is a base |
| experts whose signs differ often, as `inspect` tells | `ties`; with many of them, `pcb` at a ratio of 0.05 to 0.2 |
| experts that moved by very different amounts | `from`; `metagpt` for one number for the whole model |
| experts of instruction tuning, which hardly moved | `dare_linear` or `della_linear` before addition |
| a few huge changes that spoil the rest | `breadcrumbs` |
| experts that each changed few entries | `ram`; `magmax` where one was trained after the other |
| many tasks, full fine-tunes, and time for decompositions | `tsv_m`, `iso_c`, `iso_cts` or `wudi` |
| a merge that forgets what the base could do | `lines`, or a smaller scaling |
| one expert, to be blended with its base | `slerp`; `nearswap` or `arcee_fusion` for a part of its changes |
| two experts, to be blended | `nuslerp` |
| a text of each expert's task | `regmean` or `fisher` |
| an expert whose skill should go | `task_arithmetic` with a negative weight |
| LoRA adapters | `task_arithmetic` first; `knots` or `peft` to compare, of which neither is promised to be better |

This is where to begin, not what wins: on models like yours another row may do better, or none.

## What the experts are like

`python -m merging inspect BASE EXPERT ...` reads all weights and prints two tables; with `--json`, each tensor's numbers
as well. The first has a line for each expert, over all tensors that it has:

| column | what it is | what it is good for |
| --- | --- | --- |
| `‖τ‖` | the norm of its task vector: the root of the sum of squares of all changes | experts of very different norms are what `from` and `metagpt` are for; a sum is decided by the longest |
| `‖τ‖ / ‖W₀‖` | the same as a share of the base's norm | beyond 50 % it is hardly a fine-tune of this base, which is said as a warning |
| `unmoved` | share of entries that are exactly the base's | with a large share, a density above the rest trims nothing |
| `energy of 1 in 16`, `energy of 1 in 4` | share of the sum of squares that the largest sixteenth, or quarter, of its entries holds | near 100 %, a density of 0.06, or 0.25, loses little of it; of changes that are evenly spread it loses much |

The second has a line for each two experts:

| column | what it is | what it is good for |
| --- | --- | --- |
| `cosine` | of the angle between their task vectors | near 0 they hardly overlap, and addition is hard to beat; near 1 they learned the same; below 0 they undo each other |
| `signs differ` | share of the entries that both moved in which they moved apart; by chance it is 50 % | the higher, the more is lost by addition where both are large |
| `at density 0.1` and so on | the same when each keeps that share of its entries, the largest first, as `ties` trims them | lower than without: trimming takes conflicts away; as high: they are between large changes, for which an election of signs is |

## Symbols

What formulas have in common; each says the rest below it. Every formula is worked out in float32, entry by entry or for
a tensor at a time, and the result is rounded once.

%s

A value that may differ *by model* can stand among an expert's own parameters, and one that may differ *by layer and name*
can be a gradient over the layers, or be chosen by the tensor's name: see [recipes](recipes.md#values-that-vary). Of a
range, the first two numbers are what the screen offers; a recipe may say more where that is told.

## All of them
"""  # noqa: E501 - a row of a table is one line


def page() -> str:
    """All methods, one section each, below a list of them."""
    methods = (METHODS | ADAPTERS).values()
    rows = [f"| [{method.title}]({_link(method)}) | `{method.name}` | {method.brief} |" for method in methods]
    table = ["| method | in a recipe | what it does |", "| --- | --- | --- |", *rows]
    signs = "\n".join(f"- ${rendered(symbol.sign)}$: {rendered(symbol.meaning)}" for symbol in SHARED)
    return "\n".join([HEAD.replace("%s", signs), *table, "", *("\n".join(section(method)) for method in methods)])


def section(method: Method) -> list[str]:
    """What there is to say about one method."""
    told = [f"## {method.title}", "", f"`{method.name}` · [{method.origin}]({method.paper})", "", method.summary, ""]
    told += ["```math", rendered(method.formula), "```", ""]
    told += [rendered(method.where), ""] if method.where else []
    told += [f"**Use it** {method.use} {manual.limits(method)}".rstrip(), ""]
    told += [f"**What differs from the released code.** {method.differs}", ""] if method.differs else []
    shown = [param for param in method.params.values() if not param.settled]
    if shown:
        told += ["| key | allowed | default | may differ | what it says |", "| --- | --- | --- | --- | --- |"]
        told += [row(method, param) for param in shown] + [""]
    return told


def rendered(formula: str) -> str:
    """A formula in the words that GitHub's pages know."""
    return re.sub(r"\\operatorname\{(\w+)\}", r"\\mathop{\\mathrm{\1}}", formula)


def row(method: Method, param: Param) -> str:
    """A parameter in the table of its method."""
    words = manual.allowed(param)
    allowed = ", ".join(f"`{word}`" for word in words) if param.kind == "choice" else ", ".join(words)
    where = "each model's " if param.per_expert else ""
    cells = [f"{where}`{param.key}`", allowed, manual.default(param), manual.differs(method, param)]
    return f"| {' | '.join(cells)} | **{param.label}.** {param.help} |"


def _link(method: Method) -> str:
    words = "".join(letter for letter in method.title.lower() if letter.isalnum() or letter in " -")
    return "#" + words.replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
